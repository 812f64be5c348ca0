"""Layouts with one file of vectors: `.npy` or a flat faiss index with JSON lines, and Parquet.

Files are written block by block. `.npy` and faiss files begin with the number of rows, which must
be known first.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Collection, Iterator
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias

import numpy as np

from perception_encoder.errors import ExchangeError
from perception_encoder.index.exchange.rows import (
    RowColumns,
    can_be_json,
    count_lines,
    format_row_line,
    match_columns,
    read_row_lines,
)
from perception_encoder.index.exchange.streams import (
    RowBlock,
    RowExport,
    RowReader,
    provenance_of,
    read_provenance,
)
from perception_encoder.index.schema import VECTOR, VectorDtype, rows_of
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    import pyarrow as pa


_FAISS_FLAT_INNER_PRODUCT: Final = b"IxFI"
_NPY: Final = b"\x93NUMPY"
_INNER_PRODUCT: Final = 0  # faiss.METRIC_INNER_PRODUCT
_DUMMY: Final = 1 << 20  # two fields that faiss once used
VectorLayout: TypeAlias = Literal["npy", "faiss"]

VECTORS: Final[dict[VectorLayout, str]] = {"npy": "vectors.npy", "faiss": "vectors.faiss"}
ROWS: Final = "rows.jsonl"

_Reader: TypeAlias = Callable[[int, int], Embeddings]  # (from row, to row) to vectors
LAYOUT: Final = "parquet"


class VectorFile:
    """A file that vectors are appended to; a context manager.

    Args:
        path: the file to create.
        header: the bytes before the first vector.
        dtype: of the vectors.
    """

    def __init__(self, path: str, header: bytes, dtype: VectorDtype) -> None:
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._file = open(path, "wb")  # noqa: SIM115  closed by __exit__
        self._file.write(header)

    def write(self, vectors: Embeddings) -> None:
        """Append vectors, (R, E)."""
        self._file.write(np.ascontiguousarray(vectors, self._dtype).tobytes())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()


def create_npy(path: str, num_rows: int, embed_dim: int, dtype: VectorDtype) -> VectorFile:
    """Create a `.npy` file for a matrix of (num_rows, embed_dim)."""
    described = {
        "descr": np.dtype(dtype).newbyteorder("<").str,
        "fortran_order": False,
        "shape": (num_rows, embed_dim),
    }
    text = repr(described)
    padding = -(10 + len(text) + 1) % 64
    header = text + " " * padding + "\n"
    start = _NPY + b"\x01\x00" + struct.pack("<H", len(header))
    return VectorFile(path, start + header.encode("ascii"), dtype)


def create_faiss(path: str, num_rows: int, embed_dim: int) -> VectorFile:
    """Create the file of an `IndexFlatIP` as `faiss.write_index` does, without it in memory."""
    header = _FAISS_FLAT_INNER_PRODUCT + struct.pack(
        "<iqqq?iQ",
        embed_dim,
        num_rows,
        _DUMMY,
        _DUMMY,
        True,  # trained
        _INNER_PRODUCT,
        num_rows * embed_dim,
    )
    return VectorFile(path, header, "float32")


class NpyArray:
    """A `.npy` file of (R, E) floats, read in parts.

    It is not mapped: pages of a mapping count as memory of this process until the end.

    Raises:
        ExchangeError: it holds something else.
    """

    def __init__(self, path: str) -> None:
        try:
            with open(path, "rb") as file:
                is_array = file.read(len(_NPY)) == _NPY
            if not is_array:  # `np.load` would also open archives
                raise ValueError("it does not begin as a .npy does; save one array with numpy.save")
            with np.errstate(over="ignore"):
                mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as err:  # reading a damaged header ends in errors of many kinds
            reason = str(err).strip().partition("\n")[0] or type(err).__name__
            raise ExchangeError(f"{path}: cannot be read as a numpy array: {reason}") from err
        if mapped.ndim != 2 or mapped.dtype.kind != "f" or not mapped.flags.c_contiguous:
            raise ExchangeError(
                f"{path}: an array of shape {mapped.shape} and type {mapped.dtype}; it has to be "
                "(R, E) of floats, row by row"
            )
        self._path = path
        self._dtype: np.dtype[np.floating] = mapped.dtype
        self._start: int = mapped.offset
        self.num_rows: Final[int] = mapped.shape[0]
        self.embed_dim: Final[int] = mapped.shape[1]

    def rows(self, start: int, end: int) -> Embeddings:
        """Return rows from `start` to before `end`, float32."""
        offset = self._start + start * self.embed_dim * self._dtype.itemsize
        count = (end - start) * self.embed_dim
        numbers = np.fromfile(self._path, self._dtype, count, offset=offset)
        return numbers.reshape(end - start, self.embed_dim).astype(np.float32)


def write_folder(index: RowExport, folder: str, layout: VectorLayout) -> None:
    """Write both files into an empty folder: npy in the index's type, faiss as float32."""
    path = os.path.join(folder, VECTORS[layout])
    if layout == "npy":
        file = create_npy(path, index.num_rows, index.embed_dim, index.index.vector_dtype)
    else:
        file = create_faiss(path, index.num_rows, index.embed_dim)
    with file, open(os.path.join(folder, ROWS), "w", encoding="utf-8") as lines:
        for rows, vectors in index.blocks():
            file.write(vectors)
            for row in rows_of(rows):
                lines.write(format_row_line(row))
                index.left_out.update(
                    k for k, value in row.metadata.items() if not can_be_json(value)
                )


def open_folder(folder: str, layout: VectorLayout) -> RowReader:
    """Open such a folder.

    Raises:
        ExchangeError: the files do not match, or cannot be read.
    """
    path, lines = os.path.join(folder, VECTORS[layout]), os.path.join(folder, ROWS)
    num_rows, embed_dim, vectors = _open_npy(path) if layout == "npy" else _open_faiss(path)
    if not os.path.isfile(lines):
        raise ExchangeError(f"{folder}: {ROWS} is missing, which names the images of the vectors")
    num_lines = count_lines(lines)
    if num_rows != num_lines:
        raise ExchangeError(
            f"{path} has {num_rows} vectors, {lines} {num_lines} lines; they do not belong together"
        )
    provenance = read_provenance(folder)
    return RowReader(
        path=folder,
        layout=layout,
        num_rows=num_rows,
        embed_dim=embed_dim,
        provenance=provenance,
        dropped=(),
        read=partial(_read, lines, vectors, provenance.times if provenance else ()),
    )


def _read(
    lines: str, vectors: _Reader, times: Collection[str], block_rows: int
) -> Iterator[RowBlock]:
    start = 0
    for rows in read_row_lines(lines, block_rows, times):
        yield RowBlock(rows, vectors(start, start + len(rows)))
        start += len(rows)


def _open_npy(path: str) -> tuple[int, int, _Reader]:
    array = NpyArray(path)
    return array.num_rows, array.embed_dim, array.rows


def _open_faiss(path: str) -> tuple[int, int, _Reader]:
    """Open a faiss index that keeps its vectors; flat ones are mapped."""
    import faiss

    try:
        index: Any = faiss.read_index(path, getattr(faiss, "IO_FLAG_MMAP_IFC", 0))
        if hasattr(index, "make_direct_map"):
            index.make_direct_map()
        if index.ntotal:
            index.reconstruct_n(0, 1)
    except RuntimeError as err:
        raise ExchangeError(
            f"{path}: faiss cannot give its vectors back: {str(err).splitlines()[-1]}; write an "
            "IndexFlatIP"
        ) from err

    def read(start: int, end: int) -> Embeddings:
        if start == end:
            return np.empty((0, index.d), np.float32)
        return np.asarray(index.reconstruct_n(start, end - start), np.float32)

    return index.ntotal, index.d, read


def write_file(index: RowExport, path: str) -> None:
    """Write a Parquet file with a row group for each block."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.list_(pa.float32(), index.embed_dim)
    schema = index.row_schema.append(pa.field(VECTOR, kind, nullable=False))
    with pq.ParquetWriter(path, schema) as writer:
        for rows, vectors in index.blocks():
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=kind)
            writer.write_batch(pa.record_batch([*rows.columns, column], schema=schema))


def open_file(path: str) -> RowReader:
    """Open a Parquet file; the vectors may be lists of one length and any float type.

    Raises:
        ExchangeError: it has no column of vectors, or none with the images' names.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        schema, num_rows = file.schema_arrow, file.metadata.num_rows
        if VECTOR not in schema.names:
            raise ExchangeError(
                f"{path}: no column {VECTOR!r}; it has {', '.join(schema.names)}. Rename the one "
                "that holds the vectors"
            )
        first = next(file.iter_batches(1, columns=[VECTOR]), None)
    provenance = provenance_of(schema, path)
    columns = match_columns(schema, provenance, path)
    if first is not None:
        embed_dim = _matrix(first[VECTOR], path).shape[1]
    else:
        embed_dim = 0 if provenance is None else provenance.identity.embed_dim
    return RowReader(
        path=path,
        layout=LAYOUT,
        num_rows=num_rows,
        embed_dim=embed_dim,
        provenance=provenance,
        dropped=columns.dropped,
        read=partial(_read_batches, path, columns),
    )


def _read_batches(path: str, columns: RowColumns, block_rows: int) -> Iterator[RowBlock]:
    import pyarrow.parquet as pq

    # Arrow's read-ahead would keep all of the file in memory.
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(block_rows, columns=[*columns.types, VECTOR]):
            yield RowBlock(columns.rows(batch, path), _matrix(batch[VECTOR], path))


def _matrix(column: pa.Array, path: str) -> Embeddings:
    """Return a column of lists as (R, E) float32."""
    import pyarrow.compute as pc
    from pyarrow import types

    kind = column.type
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if not is_list or not types.is_floating(kind.value_type):
        raise ExchangeError(f"{path}: {VECTOR} is of type {kind}, not lists of floats")
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    numbers = column.flatten()
    if column.null_count or numbers.null_count or len(set(lengths.tolist())) > 1:
        raise ExchangeError(
            f"{path}: some rows have no vector, or one of another length; remove these rows"
        )
    flat = np.asarray(numbers.to_numpy(zero_copy_only=False), np.float32)
    return flat.reshape(len(column), -1) if len(column) else flat.reshape(0, 0)
