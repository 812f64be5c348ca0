"""Copies a table's vectors into one file, in the table's order, and takes a sample on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.index.schema import VECTOR
from perception_encoder.index.searcher.files import CoveredFragment
from perception_encoder.index.searcher.fragments import Mask, RowNumbers

if TYPE_CHECKING:
    import lance
    import pyarrow as pa

HalfFloats = NDArray[np.float16]

_ROW_ID: Final = "_rowid"
_OFFSETS: Final = (1 << 32) - 1
_BLOCK_BYTES: Final = 32 << 20


def copy_vectors(
    dataset: lance.LanceDataset, fragments: Sequence[CoveredFragment], path: str, embed_dim: int
) -> Mask:
    """Write the fragments' vectors as float16, one after another.

    A row that is deleted keeps its place and is written as zeros.

    Returns:
        (R,) bool: which rows are not deleted.

    Raises:
        OSError, ValueError, RuntimeError: reading or writing failed.
    """
    parts = {part.fragment_id: part for part in dataset.get_fragments()}
    alive = np.zeros(sum(fragment.num_rows for fragment in fragments), np.bool_)
    block_rows = rows_in_block(embed_dim)
    start = 0
    # Written, not mapped: on a full disk a mapped file ends the process.
    with open(path, "wb") as file:
        for fragment in fragments:
            scanner = dataset.scanner(
                columns=[VECTOR],
                fragments=[parts[fragment.id]],
                with_row_id=True,
                batch_size=block_rows,
                scan_in_order=True,
            )
            here = alive[start : start + fragment.num_rows]
            _copy_fragment(scanner.to_batches(), file, here, embed_dim)
            start += fragment.num_rows
    return alive


def rows_in_block(embed_dim: int) -> int:
    """How many vectors are worked on at once."""
    return max(1, _BLOCK_BYTES // (4 * embed_dim))


def read_blocks(path: str, embed_dim: int) -> Iterator[tuple[int, HalfFloats]]:
    """Yield what `copy_vectors` wrote, block by block, each with the number of its first row."""
    start = 0
    with open(path, "rb") as file:
        while True:
            block = np.fromfile(file, np.float16, rows_in_block(embed_dim) * embed_dim)
            if block.size == 0:
                return
            yield start, block.reshape(-1, embed_dim)
            start += len(block) // embed_dim


def read_rows(path: str, numbers: RowNumbers, embed_dim: int) -> HalfFloats:
    """Return some of the rows; the file is mapped and most of it is not read."""
    matrix = np.memmap(path, np.float16, "r").reshape(-1, embed_dim)
    return np.asarray(matrix[numbers])


def _copy_fragment(
    batches: Iterator[pa.RecordBatch], file: IO[bytes], alive: Mask, embed_dim: int
) -> None:
    end = 0  # of what is written
    for batch in batches:
        offsets = batch[_ROW_ID].to_numpy().astype(np.int64) & _OFFSETS
        flat: NDArray[np.floating] = batch[VECTOR].flatten().to_numpy()
        block = np.zeros((int(offsets[-1]) + 1 - end, embed_dim), np.float16)
        block[offsets - end] = flat.reshape(-1, embed_dim)
        alive[offsets] = True
        file.write(block.data)
        end = int(offsets[-1]) + 1
    file.write(bytes(2 * embed_dim * (len(alive) - end)))
