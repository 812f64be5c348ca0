"""A folder with vectors in one file and the rows, in their order, as lines of JSON in another.

The vectors are a numpy array (`vectors.npy`) or a faiss index (`vectors.faiss`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from perception_encoder.errors import ExchangeError
from perception_encoder.index.exchange.provenance import read_provenance
from perception_encoder.index.exchange.row_lines import count_lines, holds, read_row_lines, row_line
from perception_encoder.index.exchange.streams import Block, Incoming, Outgoing
from perception_encoder.index.exchange.vector_files import NpyArray, faiss_file, npy_file
from perception_encoder.index.schema import rows_of
from perception_encoder.types import Embeddings

VectorLayout: TypeAlias = Literal["npy", "faiss"]

VECTORS: Final[dict[VectorLayout, str]] = {"npy": "vectors.npy", "faiss": "vectors.faiss"}
ROWS: Final = "rows.jsonl"

_Reader: TypeAlias = Callable[[int, int], Embeddings]  # (from row, to row) to vectors


def write_folder(table: Outgoing, folder: str, layout: VectorLayout) -> None:
    """Write both files into an empty folder: npy in the table's own type, faiss as float32."""
    path = os.path.join(folder, VECTORS[layout])
    if layout == "npy":
        file = npy_file(path, table.num_rows, table.embed_dim, table.index.vector_dtype)
    else:
        file = faiss_file(path, table.num_rows, table.embed_dim)
    with file, open(os.path.join(folder, ROWS), "w", encoding="utf-8") as lines:
        for rows, vectors in table.blocks():
            file.write(vectors)
            for row in rows_of(rows):
                lines.write(row_line(row))
                table.left_out.update(k for k, value in row.metadata.items() if not holds(value))


def open_folder(folder: str, layout: VectorLayout) -> Incoming:
    """Recognise such a folder.

    Raises:
        ExchangeError: the files do not fit together, or cannot be read.
    """
    path, lines = os.path.join(folder, VECTORS[layout]), os.path.join(folder, ROWS)
    num_rows, embed_dim, vectors = _open_npy(path) if layout == "npy" else _open_faiss(path)
    if not os.path.isfile(lines):
        raise ExchangeError(f"{folder}: {ROWS} is missing; it says which vector is which picture")
    num_lines = count_lines(lines)
    if num_rows != num_lines:
        raise ExchangeError(
            f"{path} has {num_rows} vectors, {lines} {num_lines} lines; they are no pair"
        )
    return Incoming(
        path=folder,
        layout=layout,
        num_rows=num_rows,
        embed_dim=embed_dim,
        provenance=read_provenance(folder),
        dropped=(),
        read=partial(_read, lines, vectors),
    )


def _read(lines: str, vectors: _Reader, block_rows: int) -> Iterator[Block]:
    start = 0
    for rows in read_row_lines(lines, block_rows):
        yield Block(rows, vectors(start, start + len(rows)))
        start += len(rows)


def _open_npy(path: str) -> tuple[int, int, _Reader]:
    array = NpyArray(path)
    return array.num_rows, array.embed_dim, array.rows


def _open_faiss(path: str) -> tuple[int, int, _Reader]:
    """Open an index that keeps its vectors: flat ones from the disk, others in memory."""
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
