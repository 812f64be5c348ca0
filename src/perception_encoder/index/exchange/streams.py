"""What goes out of an index and what comes in: rows and their vectors together, block by block."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from perception_encoder.errors import ExchangeError, PerceptionEncoderError
from perception_encoder.index.exchange.provenance import Provenance
from perception_encoder.index.index import Index
from perception_encoder.index.rows import Row
from perception_encoder.index.schema import VECTOR, vectors_of
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    import pyarrow as pa


_BLOCK_BYTES: Final = 64 << 20  # of float32 vectors that are imported in one commit


@dataclass(frozen=True)
class RowExport:
    """The rows of an index that meet a condition, in its order.

    Attributes:
        index: the index.
        where: the condition.
        num_rows: how many rows meet it.
        provenance: what is known of them all.
        progress: told of how many rows were taken since the last call.
        left_out: by column, how many values the layout could not hold; counted while writing.
    """

    index: Index
    where: str | None
    num_rows: int
    provenance: Provenance
    progress: Callable[[int], object]
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def embed_dim(self) -> int:
        """Numbers of a vector, E."""
        return self.index.identity.embed_dim

    @property
    def row_schema(self) -> pa.Schema:
        """The index's columns but the vector, with the provenance."""
        schema = self.index.schema
        return self.provenance.in_schema(schema.remove(schema.get_field_index(VECTOR)))

    def blocks(self) -> Iterator[tuple[pa.RecordBatch, Embeddings]]:
        """Yield rows as `row_schema` says, and their vectors, (R, E) float32."""
        for batch in self.index.scan(self.index.schema.names, where=self.where):
            yield batch.drop_columns([VECTOR]), vectors_of(batch)
            self.progress(batch.num_rows)


class RowBlock(NamedTuple):
    """R rows and their vectors, (R, E) of any float type and length."""

    rows: list[Row]
    vectors: Embeddings


@dataclass(frozen=True)
class RowReader:
    """Files that were recognized and can be read as an index's rows.

    Attributes:
        path: names them in errors.
        layout: how they are laid out, in a word.
        num_rows: how many rows they have.
        embed_dim: numbers of a vector, E.
        provenance: whose vectors they are, where the files say so.
        dropped: columns that have no place in an index.
        read: yields all rows, at most so many at a time.
    """

    path: str
    layout: str
    num_rows: int
    embed_dim: int
    provenance: Provenance | None
    dropped: tuple[str, ...]
    read: Callable[[int], Iterator[RowBlock]]

    def blocks(self) -> Iterator[RowBlock]:
        """Yield all rows and vectors."""
        return self.read(max(1, _BLOCK_BYTES // (4 * max(1, self.embed_dim))))


@contextmanager
def whole(path: str, *, is_folder: bool) -> Iterator[str]:
    """Give a name to write to, and rename it when the block is done.

    Until then, and for good if the process is killed, it is a hidden `.NAME.part-PID` beside it.

    Raises:
        ExchangeError: something is there already, or writing fails.
    """
    path = os.path.abspath(path)
    parent, name = os.path.split(path)
    if os.path.lexists(path):
        raise ExchangeError(f"{path} exists already; choose another name, or remove it")
    if not os.path.isdir(parent):
        raise ExchangeError(f"{parent}: no such folder; make it first")
    partial = os.path.join(parent, f".{name}.part-{os.getpid()}")
    try:
        _remove(partial)
        if is_folder:
            os.mkdir(partial)
        yield partial
        os.rename(partial, path)
    except PerceptionEncoderError:
        raise
    except OSError as err:
        raise ExchangeError(f"{path} cannot be written: {err}; check space and rights") from err
    finally:
        _remove(partial)


def _remove(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        os.unlink(path)
