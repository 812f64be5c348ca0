"""Trains and fills the lists of approximate search.

Comparing every row with every center takes most of the time, so both are projected to the few
directions in which the vectors differ most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.index.schema import VECTOR
from perception_encoder.index.searcher.candidates import CoarseSearch
from perception_encoder.index.searcher.centers import CenterSearch
from perception_encoder.index.searcher.files import CoveredFragment
from perception_encoder.index.searcher.fragments import OFFSETS, Mask, RowPositions
from perception_encoder.index.searcher.kernels import add_to_lists
from perception_encoder.kmeans import find_centers
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    import lance
    import pyarrow as pa


HalfFloats = NDArray[np.float16]

_ROW_ID: Final = "_rowid"
_BLOCK_BYTES: Final = 32 << 20
SAMPLE_PER_LIST: Final = 40
_LISTS_PER_ROOT: Final = 4  # num_lists = 4 · sqrt(R)
_MAX_SAMPLE: Final = 1 << 18
_DIRECTIONS_SHARE: Final = 4  # dimensions per direction
_MIN_DIRECTIONS: Final = 64
_MOMENT_ROWS: Final = 32_768
_ROUNDS: Final = 4
_QUERY_ROWS: Final = 4096
_FEWEST_QUERIES: Final = 256
_SEED: Final = 1


def copy_vectors(
    dataset: lance.LanceDataset, fragments: Sequence[CoveredFragment], path: str, embed_dim: int
) -> Mask:
    """Write the vectors of fragments as consecutive float16 rows; deleted rows become zeros.

    Returns:
        (R,) bool: which rows are not deleted.

    Raises:
        OSError, ValueError, RuntimeError: reading or writing failed.
    """
    parts = {part.fragment_id: part for part in dataset.get_fragments()}
    alive = np.zeros(sum(fragment.num_rows for fragment in fragments), np.bool_)
    block_rows = rows_in_block(embed_dim)
    start = 0
    # Not mapped: on a full disk a mapped file crashes the process.
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
    """Return how many vectors are processed at once."""
    return max(1, _BLOCK_BYTES // (4 * embed_dim))


def read_blocks(path: str, embed_dim: int) -> Iterator[tuple[int, HalfFloats]]:
    """Yield the rows of `copy_vectors` in blocks, with the number of the first row."""
    start = 0
    with open(path, "rb") as file:
        while True:
            block = np.fromfile(file, np.float16, rows_in_block(embed_dim) * embed_dim)
            if block.size == 0:
                return
            yield start, block.reshape(-1, embed_dim)
            start += len(block) // embed_dim


def read_rows(path: str, numbers: RowPositions, embed_dim: int) -> HalfFloats:
    """Return some of the rows through a mapping of the file."""
    matrix = np.memmap(path, np.float16, "r").reshape(-1, embed_dim)
    return np.asarray(matrix[numbers])


def _copy_fragment(
    batches: Iterator[pa.RecordBatch], file: IO[bytes], alive: Mask, embed_dim: int
) -> None:
    end = 0  # of what is written
    for batch in batches:
        offsets = batch[_ROW_ID].to_numpy().astype(np.int64) & OFFSETS
        flat: NDArray[np.floating] = batch[VECTOR].flatten().to_numpy()
        block = np.zeros((int(offsets[-1]) + 1 - end, embed_dim), np.float16)
        block[offsets - end] = flat.reshape(-1, embed_dim)
        alive[offsets] = True
        file.write(block.data)
        end = int(offsets[-1]) + 1
    file.write(bytes(2 * embed_dim * (len(alive) - end)))


def choose_num_lists(num_rows: int) -> int:
    """Return the number of lists for a number of rows."""
    return min(num_rows, max(1, round(_LISTS_PER_ROOT * math.sqrt(num_rows))))


def choose_sample(rows: RowPositions) -> RowPositions:
    """Choose the rows to train with, in ascending order."""
    number = min(len(rows), SAMPLE_PER_LIST * choose_num_lists(len(rows)), _MAX_SAMPLE)
    return np.sort(np.random.default_rng(_SEED).choice(rows, number, replace=False))


def choose_queries(rows: RowPositions, trained: RowPositions) -> RowPositions:
    """Choose rows to measure with; if possible, none that centers were trained with.

    Those are nearer to centers than others are.
    """
    others = np.setdiff1d(rows, trained, assume_unique=True)
    some = others if len(others) >= _FEWEST_QUERIES else rows
    number = min(len(some), _QUERY_ROWS)
    return np.sort(np.random.default_rng(_SEED).choice(some, number, replace=False))


@dataclass(frozen=True)
class TrainedLists:
    """Lists trained with a sample.

    Attributes:
        projection: (E, d) float32: orthogonal directions.
        directions: (num_lists, d) float32, unit length: a row belongs to the nearest.
        centers: (num_lists, E) float32: means of the lists; codes are relative to them.
        mean: (E,) float32 of all rows.
    """

    projection: NDArray[np.float32]
    directions: NDArray[np.float32]
    centers: Embeddings
    mean: NDArray[np.float32]

    def coarse(self, weight: float) -> CoarseSearch:
        """Return the choice of lists.

        Args:
            weight: by how much the best row of a list exceeds its center, as a share of the rows'
                distance from it. For unit vectors that is √(1 - |center|²).
        """
        spread = np.sqrt(np.maximum(1 - (self.centers**2).sum(axis=1), 0))
        outlines = self.centers @ self.projection
        return CoarseSearch(self.projection, self.centers, outlines, weight * spread)


def train(sample: HalfFloats, num_lists: int) -> TrainedLists:
    """Train centers.

    Args:
        sample: (S, E) float16, S at least num_lists.
        num_lists: number of lists.
    """
    embed_dim = sample.shape[1]
    num_directions = min(embed_dim, max(_MIN_DIRECTIONS, embed_dim // _DIRECTIONS_SHARE))
    some = sample[:: -(-len(sample) // _MOMENT_ROWS)].astype(np.float32)
    found = np.linalg.eigh(some.T @ some)[1]  # in ascending order of importance
    projection = np.ascontiguousarray(found[:, ::-1][:, :num_directions], np.float32)
    projected = np.concatenate(
        [sample[i : i + _MOMENT_ROWS] @ projection for i in range(0, len(sample), _MOMENT_ROWS)]
    )
    directions = find_centers(
        projected,
        num_lists,
        rounds=_ROUNDS,
        seed=_SEED,
        find_nearest=lambda rows, centers: CenterSearch(centers).nearest(rows),
    )
    lists = CenterSearch(directions).nearest(projected)
    centers = _means(sample, lists, num_lists)
    empty = ~np.any(centers, axis=1)
    centers[empty] = directions[empty] @ projection.T
    return TrainedLists(projection, directions, centers, some.mean(axis=0))


class ListFiller:
    """Puts rows into lists.

    Args:
        trained: the centers.
        num_rows: the number of rows.
    """

    def __init__(self, trained: TrainedLists, num_rows: int) -> None:
        import faiss

        num_lists, embed_dim = trained.centers.shape
        self._projection = trained.projection
        self._centers = CenterSearch(trained.directions)
        self._quantizer = faiss.IndexFlatIP(embed_dim)
        self._quantizer.add(trained.centers)
        self._index: Any = faiss.IndexIVFRaBitQ(
            self._quantizer, embed_dim, num_lists, faiss.METRIC_INNER_PRODUCT
        )
        self._index.is_trained = True  # codes depend only on the centers
        self.list_of = np.full(num_rows, -1, np.int32)

    def add(self, vectors: Embeddings, numbers: RowPositions) -> None:
        """Put (R, E) float32 rows into their lists; (R,) are their numbers."""
        lists = self._centers.nearest(vectors @ self._projection)
        self.list_of[numbers] = lists
        add_to_lists(self._index, vectors, numbers, lists)

    def write(self, path: str) -> None:
        """Write the lists.

        Raises:
            RuntimeError: it failed.
        """
        import faiss

        faiss.write_index(self._index, path)


def _means(sample: HalfFloats, lists: NDArray[np.int64], num_lists: int) -> Embeddings:
    """Return the mean of the sample's rows of each list; zeros for an empty list."""
    order = np.argsort(lists, kind="stable")
    found, starts = np.unique(lists[order], return_index=True)
    means = np.zeros((num_lists, sample.shape[1]), np.float32)
    for number, rows in zip(found, np.split(order, starts[1:]), strict=True):
        means[number] = sample[rows].mean(axis=0, dtype=np.float32)
    return means
