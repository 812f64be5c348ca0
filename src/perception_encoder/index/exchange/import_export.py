"""Imports files of vectors into an index, and exports an index to files."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from perception_encoder.atomic import atomic_write
from perception_encoder.errors import ExchangeError, IndexMismatchError, PerceptionEncoderError
from perception_encoder.index.exact import UNIT_TOLERANCE
from perception_encoder.index.exchange import clip_retrieval
from perception_encoder.index.exchange import vector_files as line_files
from perception_encoder.index.exchange import vector_files as parquet_file
from perception_encoder.index.exchange.streams import (
    Provenance,
    RowBlock,
    RowExport,
    RowReader,
    check_target,
)
from perception_encoder.index.index import Index
from perception_encoder.index.known_rows import DigestMap, digests_of, digests_of_column
from perception_encoder.index.schema import ROW_COLUMNS, VECTOR, VectorDtype, describe_mismatch
from perception_encoder.index.storage import write_lock
from perception_encoder.types import Embeddings, ModelIdentity

_SHORTEST: Final = 1e-6
Layout: TypeAlias = Literal["clip-retrieval", "parquet", "npy", "faiss"]
LAYOUTS: Final[tuple[Layout, ...]] = get_args(Layout)

logger = logging.getLogger(__name__)

PART_ROWS: Final = 1_000_000


@dataclass(frozen=True)
class ImportReport:
    """The result of an import.

    Attributes:
        num_added: rows that are new to the index.
        num_replaced: rows that replaced one of the same image, in the index or in the files.
        num_normalized: vectors that were normalized to unit length.
        left_out: by column, the number of metadata values that do not fit the index's columns.
    """

    num_added: int
    num_replaced: int
    num_normalized: int
    left_out: Mapping[str, int] = field(default_factory=dict)


def import_index(
    source: RowReader,
    path: str | os.PathLike[str],
    *,
    identity: ModelIdentity | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> ImportReport:
    """Add the rows of files to an index, which is created if there is none.

    The files are read twice, so errors are raised before anything is written. Then each block is
    one commit; after an interruption, import again to complete the index. A new index stores
    vectors as the exported one did, else as float16. Metadata that does not fit the index's
    columns is left out and counted.

    Args:
        source: from `open_source`.
        path: of the index.
        identity: the model of the vectors. Needed if the files do not name it, else checked.
        progress: called with the number of rows imported since the last call.

    Raises:
        ExchangeError: the model is unknown, the dimension is wrong, or a vector or row cannot be
            used; the index is unchanged.
        IndexMismatchError: the files, the index and `identity` have different models.
        IndexBusyError: another process is writing to the index.
        IndexStorageError: writing failed.
    """
    identity = _check_identity(source, identity)
    location = os.fspath(path)
    dtype: VectorDtype = source.provenance.vector_dtype if source.provenance else "float16"
    for _ in _blocks(source):
        pass
    with write_lock(location):
        index = Index.open_or_prepare(location, identity, vector_dtype=dtype)
        index.ensure_created()
        known = _KnownIds(index)
        num_replaced = num_normalized = done = 0
        left_out = Counter[str]()
        for block, num_off in _blocks(source):
            rows, unfit = index.fit(block.rows)
            num_replaced += _commit(index, known, RowBlock(rows, block.vectors))
            left_out += unfit
            num_normalized += num_off
            done += len(block.rows)
            progress(len(block.rows))
    return ImportReport(done - num_replaced, num_replaced, num_normalized, dict(left_out))


def _blocks(source: RowReader) -> Iterator[tuple[RowBlock, int]]:
    """Yield the blocks with normalized vectors, and how many had to be normalized.

    Raises:
        ExchangeError: the files cannot be read, or a vector cannot be used.
    """
    done = 0
    try:
        for block in source.blocks():
            vectors, num_off = _normalize_block(block, source.path, done)
            done += len(block.rows)
            yield RowBlock(block.rows, vectors), num_off
    except PerceptionEncoderError:
        raise
    except (OSError, ValueError, LookupError, TypeError, RuntimeError) as err:  # numpy's, Arrow's
        raise ExchangeError(
            f"{source.path} cannot be read after {done} rows: {err}; write it again"
        ) from err


class _KnownIds:
    """The ids of the index's rows, in 24 bytes each."""

    def __init__(self, index: Index) -> None:
        self._ids = DigestMap()
        for batch in index.scan(["id"]):
            self._add(digests_of_column(batch["id"]))

    def add(self, ids: Iterable[str]) -> None:
        self._add(digests_of(list(ids)))

    def has(self, ids: Iterable[str]) -> list[bool]:
        return [bool(number >= 0) for number in self._ids.find(digests_of(list(ids)))]

    def _add(self, digests: NDArray[np.uint64]) -> None:
        self._ids.add(digests, np.zeros(len(digests), np.int64))


def _commit(index: Index, known: _KnownIds, block: RowBlock) -> int:
    """Add the rows of a block; return how many replaced others."""
    last = {row.id: place for place, row in enumerate(block.rows)}  # of two the later wins
    is_known = dict(zip(last, known.has(last), strict=True))
    new = [place for key, place in last.items() if not is_known[key]]
    old = [place for key, place in last.items() if is_known[key]]
    index.append([block.rows[place] for place in new], block.vectors[new])
    if old:
        index.add([block.rows[place] for place in old], block.vectors[old])
    known.add(last)
    return len(block.rows) - len(new)


def _check_identity(source: RowReader, identity: ModelIdentity | None) -> ModelIdentity:
    stated = None if source.provenance is None else source.provenance.identity
    if stated is not None and identity is not None and stated != identity:
        raise IndexMismatchError(describe_mismatch(source.path, stated, identity))
    agreed = stated or identity
    if agreed is None:
        raise ExchangeError(
            f"{source.path} does not name the model of its vectors; give it with --model"
        )
    if source.num_rows and source.embed_dim != agreed.embed_dim:
        raise ExchangeError(
            f"{source.path}: its vectors have {source.embed_dim} dimensions, those of "
            f"{agreed.model_id} have {agreed.embed_dim}; give the model that made them"
        )
    return agreed


def _normalize_block(block: RowBlock, path: str, done: int) -> tuple[Embeddings, int]:
    """Return normalized float32 vectors, and how many had to be normalized.

    Vectors of unit length up to rounding are kept, so an exported index is imported bit for bit.
    """
    vectors = np.asarray(block.vectors, np.float32)
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    wrong = np.flatnonzero(~(np.isfinite(lengths) & (lengths > _SHORTEST)))
    if wrong.size:
        number = int(wrong[0])
        raise ExchangeError(
            f"{path}: vector number {done + number}, of {block.rows[number].name}, has length "
            f"{lengths[number, 0]:.3g} and can be compared with nothing; remove it with its row"
        )
    is_off = np.abs(lengths[:, 0] - 1) >= UNIT_TOLERANCE
    if is_off.any():
        vectors = np.where(is_off[:, None], vectors / lengths, vectors).astype(np.float32)
    return vectors, int(is_off.sum())


def export_index(
    index: Index,
    path: str | os.PathLike[str],
    layout: Layout,
    *,
    where: str | None = None,
    part_rows: int = PART_ROWS,
    progress: Callable[[int], object] = lambda _: None,
) -> int:
    """Export rows and vectors to files, which appear when all is written.

    Args:
        index: the index.
        path: the file ("parquet") or folder (other layouts) to create. It must not exist.
        layout: "clip-retrieval": `img_emb/img_emb_0.npy` (float16) and
            `metadata/metadata_0.parquet`, and so on. "parquet": one file with a column `vector` of
            float32 lists, as embedding-atlas and DuckDB read it. "npy": `vectors.npy` in the
            index's own type and `rows.jsonl`. "faiss": an `IndexFlatIP` in `vectors.faiss`, and
            `rows.jsonl` in its order. NaN and infinities become null in `rows.jsonl`; their
            number is logged.
        where: an SQL condition; other rows are left out.
        part_rows: rows of one part in the layout of clip-retrieval.
        progress: called with the number of rows written since the last call.

    Returns:
        The number of rows written.

    Raises:
        ExchangeError: something is there already, or it cannot be written.
        QueryError: the condition is wrong.
        ValueError: part_rows below 1.
    """
    from pyarrow import types

    if part_rows < 1:
        raise ValueError(f"part_rows must be at least 1, got {part_rows}")
    num_rows = sum(len(batch) for batch in index.scan(["id"], where=where))
    ours = ("id", VECTOR, *ROW_COLUMNS)
    metadata = tuple(name for name in index.schema.names if name not in ours)
    times = tuple(name for name in metadata if types.is_timestamp(index.schema.field(name).type))
    provenance = Provenance(index.identity, index.vector_dtype, metadata, times=times)
    outgoing = RowExport(index, where, num_rows, provenance, progress)
    path = os.path.abspath(path)
    check_target(path)
    with atomic_write(path, ExchangeError) as temporary:
        target = str(temporary)
        if layout == "parquet":
            parquet_file.write_file(outgoing, target)
        else:
            os.mkdir(target)
            if layout == "clip-retrieval":
                clip_retrieval.write_folder(outgoing, target, part_rows)
            else:
                line_files.write_folder(outgoing, target, layout)
            provenance.save(target)
    if outgoing.left_out:
        logger.warning(
            "%s: %d values that JSON cannot hold (NaN, infinities) are null in %s: %s; "
            "parquet keeps them",
            path,
            outgoing.left_out.total(),
            line_files.ROWS,
            ", ".join(outgoing.left_out),
        )
    return num_rows


def open_source(path: str | os.PathLike[str]) -> RowReader:
    """Open files that `export_index` or another program wrote in one of the layouts.

    Raises:
        ExchangeError: nothing is there, the layout is unknown, or it cannot be read.
    """
    path = os.path.abspath(path)
    try:
        if os.path.isfile(path):
            return parquet_file.open_file(path)
        if os.path.isdir(os.path.join(path, "img_emb")):
            return clip_retrieval.open_folder(path)
        for layout, name in line_files.VECTORS.items():
            if os.path.isfile(os.path.join(path, name)):
                return line_files.open_folder(path, layout)
    except (OSError, ValueError, LookupError, TypeError, RuntimeError) as err:  # numpy's, Arrow's
        raise ExchangeError(f"{path} cannot be read: {err}") from err
    raise ExchangeError(
        f"{path}: neither a Parquet file nor a folder with img_emb/ and metadata/, vectors.npy and "
        "rows.jsonl, or vectors.faiss and rows.jsonl"
    )
