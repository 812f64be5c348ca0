"""Builds the searcher of a version of an index, and tunes it.

A small index needs none, a larger one a copy of its vectors for exact search, and a large one lists
for approximate search. An interruption at any point leaves the previous searcher.

The number of lists that a query must search is measured, see `recall`.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_encoder.index.schema import VectorDtype
from perception_encoder.index.searcher.candidates import CoarseSearch, to_float32
from perception_encoder.index.searcher.files import (
    RESULT_COUNTS,
    Header,
    SearcherFolder,
    Tuning,
)
from perception_encoder.index.searcher.fragments import Mask, RowPositions, list_fragments
from perception_encoder.index.searcher.recall import TARGET, RecallSample, split_kinds
from perception_encoder.index.searcher.searcher import Searcher, num_candidates
from perception_encoder.index.searcher.train import (
    ListFiller,
    choose_num_lists,
    choose_sample,
    copy_vectors,
    read_blocks,
    read_rows,
    train,
)
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    import lance


logger = logging.getLogger(__name__)
_STEP: Final = 1.25
_WORTHWHILE: Final = 0.25  # share of the lists; searching more is no faster than a scan

LookInto: TypeAlias = Callable[[Embeddings, int, int], list[RowPositions]]
"""Returns the row numbers for queries, k and probes, best first."""


class ListTuning(RecallSample):
    """Chooses how many lists are searched."""

    def tune(
        self, coarse: CoarseSearch, list_of: NDArray[np.int32], look_into: LookInto
    ) -> tuple[Tuning, ...]:
        """Return how many lists suffice, for each of `RESULT_COUNTS` where that saves time.

        Args:
            coarse: chooses lists.
            list_of: (R,) the list of every row.
            look_into: searches the lists.
        """
        truth = self.truth()
        if min(map(len, truth)) < max(RESULT_COUNTS):
            return ()  # too few rows to measure
        most = int(_WORTHWHILE * len(coarse.centers))
        tunings = []
        for k in RESULT_COUNTS:
            best = [rows[:k] for rows in truth]
            probes = self._lower_bound(coarse, list_of, best)
            while probes <= most and (recall := self._recall(best, k, probes, look_into)) < TARGET:
                probes = int(probes * _STEP) + 1
            if probes > most:
                break
            tunings.append(Tuning(k, probes, recall))
        return tuple(tunings)

    def _lower_bound(
        self, coarse: CoarseSearch, list_of: NDArray[np.int32], best: list[RowPositions]
    ) -> int:
        """Return how many lists hold enough of the true rows, ignoring the loss of codes."""
        shares = []
        for query, rows in zip(self.queries, best, strict=True):
            order = coarse.nearest(query, len(coarse.centers))
            rank = np.empty(len(order), np.int64)
            rank[order] = np.arange(len(order))
            shares.append(np.bincount(rank[list_of[rows]], minlength=len(order)) / len(rows))
        curves = [np.mean(part, axis=0).cumsum() for part in split_kinds(shares)]
        return 1 + int(np.argmax(np.minimum(*curves) >= TARGET))

    def _recall(self, best: list[RowPositions], k: int, probes: int, look_into: LookInto) -> float:
        """Return the recall of the worse kind of query."""
        found = look_into(self.queries, k + 1, probes)
        shares = [
            np.isin(rows, numbers[numbers != itself][:k]).mean()
            for rows, numbers, itself in zip(best, found, self.itself, strict=True)
        ]
        return float(min(np.mean(part) for part in split_kinds(shares)))


@dataclass(frozen=True)
class SearcherSizes:
    """Bytes of float16 vectors from which parts of the searcher are built.

    Attributes:
        copy: the vectors are copied; below this size the index is read in about 30 ms.
        lists: lists are built; below this size exact search takes about 20 ms.
    """

    copy: int = 16 << 20
    lists: int = 256 << 20


DEFAULT_SIZES: Final = SearcherSizes()


def build_searcher(
    dataset: lance.LanceDataset,
    folder: SearcherFolder,
    *,
    embed_dim: int,
    vector_dtype: VectorDtype,
    sizes: SearcherSizes = DEFAULT_SIZES,
) -> Header | None:
    """Build and commit a searcher.

    Args:
        dataset: the version of the index.
        folder: the folder of the searcher.
        embed_dim: E.
        vector_dtype: how the index stores vectors.
        sizes: from which sizes to build what.

    Returns:
        The new header; None if the index is too small to need a searcher.

    Raises:
        OSError, ValueError, RuntimeError: reading or writing failed.
    """
    started = time.monotonic()
    fragments = tuple(list_fragments(dataset))
    num_bytes = 2 * embed_dim * sum(part.num_rows - part.num_deleted for part in fragments)
    if num_bytes < sizes.copy or num_bytes == 0:
        folder.remove()
        return None
    header = Header(
        token=folder.begin(),
        version=int(dataset.version),
        embed_dim=embed_dim,
        vector_dtype=vector_dtype,
        fragments=fragments,
        sizes={},
    )
    path = folder.path(header.token, "vectors")
    alive = copy_vectors(dataset, fragments, path, embed_dim)
    logger.info("%s: copied %d vectors in %.1f s", path, len(alive), time.monotonic() - started)
    if num_bytes >= sizes.lists:
        header = _add_lists(header, folder, alive)
    header = dataclasses.replace(
        folder.finished(header), build_seconds=round(time.monotonic() - started, 1)
    )
    folder.commit(header)
    return header


def _add_lists(header: Header, folder: SearcherFolder, alive: Mask) -> Header:
    """Write the files of the lists; return the header unchanged if they save no time."""
    vectors = folder.path(header.token, "vectors")
    started = time.monotonic()
    chosen = choose_sample(np.flatnonzero(alive))
    sample = read_rows(vectors, chosen, header.embed_dim)
    trained = train(sample, choose_num_lists(int(np.count_nonzero(alive))))
    logger.info("%s: trained in %.1f s", vectors, time.monotonic() - started)
    started = time.monotonic()
    calibration = ListTuning(sample, chosen, trained.mean, max(RESULT_COUNTS))
    filler = ListFiller(trained, len(alive))
    for first, block in read_blocks(vectors, header.embed_dim):
        here = alive[first : first + len(block)]
        numbers = first + np.flatnonzero(here)
        rows = to_float32(block if here.all() else block[here])
        if len(rows):
            filler.add(rows, numbers)
            calibration.add(rows, numbers)
    filler.write(folder.path(header.token, "lists"))
    trained.coarse.save(folder.path(header.token, "coarse"))
    logger.info("%s: filled the lists in %.1f s", vectors, time.monotonic() - started)
    started = time.monotonic()
    header = dataclasses.replace(header, num_lists=len(trained.centers))
    searcher = Searcher(folder, header)
    tuning = calibration.tune(trained.coarse, filler.list_of, _batch_search(searcher))
    logger.info("%s: measured %s in %.1f s", vectors, tuning, time.monotonic() - started)
    if not tuning:
        folder.discard(header.token, ("lists", "coarse"))
        return dataclasses.replace(header, num_lists=0)
    assert searcher.lists is not None  # they were just written
    return dataclasses.replace(header, tuning=tuning, lists_start=searcher.lists.start)


def _batch_search(searcher: Searcher) -> LookInto:
    """Return the searcher's approximate search for many queries."""

    def look_into(queries: Embeddings, k: int, probes: int) -> list[RowPositions]:
        def ask(query: Embeddings) -> RowPositions:
            return searcher.search_lists(query, num_candidates(k), probes, None).numbers

        with ThreadPoolExecutor() as pool:
            return list(pool.map(ask, queries))

    return look_into
