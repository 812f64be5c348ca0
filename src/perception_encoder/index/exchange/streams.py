"""Streams of rows and vectors out of an index and into it, and their provenance.

The provenance names the model. Every export contains it and every import uses it: in a folder as
`perception_encoder.json`, in a Parquet file as metadata of the schema.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from perception_encoder._version import __version__
from perception_encoder.errors import ExchangeError
from perception_encoder.index.index import Index
from perception_encoder.index.rows import Row
from perception_encoder.index.schema import VECTOR, VectorDtype, vectors_of
from perception_encoder.types import Embeddings, ModelIdentity, PreprocessName

if TYPE_CHECKING:
    import pyarrow as pa


FILE: Final = "perception_encoder.json"

_PREFIX: Final = "perception_encoder."
_BLOCK_BYTES: Final = 64 << 20  # of float32 vectors that are imported in one commit


@dataclass(frozen=True)
class Provenance:
    """The origin of vectors.

    Attributes:
        identity: the model.
        vector_dtype: how the index stored them.
        columns: the index's metadata columns.
        version: of this package that wrote the file.
        times: those of the columns that hold times, which JSON lines write as text.
    """

    identity: ModelIdentity
    vector_dtype: VectorDtype
    columns: tuple[str, ...]
    version: str = __version__
    times: tuple[str, ...] = ()

    def values(self) -> dict[str, Any]:
        """Return the values to store."""
        return {
            "version": self.version,
            "model_id": self.identity.model_id,
            "fingerprint": self.identity.fingerprint,
            "preprocess": self.identity.preprocess,
            "embed_dim": self.identity.embed_dim,
            "vector_dtype": self.vector_dtype,
            "columns": list(self.columns),
            "times": list(self.times),
        }

    def save(self, folder: str) -> None:
        """Write it into a folder."""
        with open(os.path.join(folder, FILE), "w", encoding="utf-8") as file:
            json.dump(self.values(), file, indent=2, ensure_ascii=False)
            file.write("\n")

    def in_schema(self, schema: pa.Schema) -> pa.Schema:
        """Return the schema with the provenance as its only metadata."""
        fields = {f"{_PREFIX}{name}": _text(value) for name, value in self.values().items()}
        return schema.with_metadata(fields)


def read_provenance(folder: str) -> Provenance | None:
    """Read the provenance in a folder; None if there is none.

    Raises:
        ExchangeError: it cannot be read.
    """
    path = os.path.join(folder, FILE)
    try:
        with open(path, encoding="utf-8") as file:
            fields = json.load(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as err:
        raise ExchangeError(f"{path}: cannot be read: {err}; remove it and give --model") from err
    return _provenance(fields, path)


def provenance_of(schema: pa.Schema, path: str) -> Provenance | None:
    """Read the provenance in the schema of a Parquet file; None if there is none.

    Raises:
        ExchangeError: it cannot be parsed.
    """
    fields = {
        key.decode().removeprefix(_PREFIX): value.decode()
        for key, value in (schema.metadata or {}).items()
        if key.decode().startswith(_PREFIX)
    }
    if not fields:
        return None
    for name in fields.keys() & {"columns", "times"}:
        fields[name] = json.loads(fields[name])
    return _provenance(fields, path)


def _provenance(fields: Mapping[str, Any], path: str) -> Provenance:
    try:
        identity = ModelIdentity(
            model_id=fields["model_id"],
            fingerprint=fields["fingerprint"],
            preprocess=cast("PreprocessName", fields["preprocess"]),
            embed_dim=int(fields["embed_dim"]),
        )
        dtype: VectorDtype = "float32" if fields["vector_dtype"] == "float32" else "float16"
        columns, times = fields["columns"], fields.get("times", ())  # 0.1.0 knew no times
        return Provenance(identity, dtype, tuple(columns), str(fields["version"]), tuple(times))
    except (KeyError, TypeError, ValueError) as err:
        raise ExchangeError(
            f"{path}: what it says about its model cannot be understood: {err!r} is missing or "
            "wrong; export it again, or give --model"
        ) from err


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class RowExport:
    """The rows of an index that meet a condition, in its order.

    Attributes:
        index: the index.
        where: the condition.
        num_rows: the number of rows that meet it.
        provenance: of the index.
        progress: called with the number of rows read since the last call.
        left_out: by column, the number of values that the layout cannot hold.
    """

    index: Index
    where: str | None
    num_rows: int
    provenance: Provenance
    progress: Callable[[int], object]
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def embed_dim(self) -> int:
        """Dimension of the vectors, E."""
        return self.index.identity.embed_dim

    @property
    def row_schema(self) -> pa.Schema:
        """The index's columns without the vector, with the provenance."""
        schema = self.index.schema
        return self.provenance.in_schema(schema.remove(schema.get_field_index(VECTOR)))

    def blocks(self) -> Iterator[tuple[pa.RecordBatch, Embeddings]]:
        """Yield rows with the schema `row_schema`, and their vectors, (R, E) float32."""
        for batch in self.index.scan(self.index.schema.names, where=self.where):
            yield batch.drop_columns([VECTOR]), vectors_of(batch)
            self.progress(batch.num_rows)


class RowBlock(NamedTuple):
    """R rows and their vectors, (R, E) of any float type, not normalized."""

    rows: list[Row]
    vectors: Embeddings


@dataclass(frozen=True)
class RowReader:
    """Files that can be read as rows of an index.

    Attributes:
        path: of the file or folder.
        layout: its name.
        num_rows: the number of rows.
        embed_dim: dimension of the vectors, E.
        provenance: of the vectors, if the files contain it.
        dropped: columns that an index cannot hold.
        read: yields all rows, at most the given number at a time.
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


def check_target(path: str) -> None:
    """Check that an export can be written to `path`.

    Raises:
        ExchangeError: something is there already, or its folder does not exist.
    """
    if os.path.lexists(path):
        raise ExchangeError(f"{path} exists already; choose another name, or remove it")
    if not os.path.isdir(os.path.dirname(path)):
        raise ExchangeError(f"{os.path.dirname(path)}: no such folder; create it first")
