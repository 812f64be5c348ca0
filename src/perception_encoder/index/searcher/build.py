"""Builds the searcher of a version of an index, and tunes it.

A small index needs none, a larger one a copy of its vectors for exact search, and a large one lists
for approximate search. An interruption at any point leaves the previous searcher.

Which lists a query must search, how many, and how many rows of them are worth a second look, is
measured, see `recall`.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_encoder.index.schema import VectorDtype
from perception_encoder.index.searcher.candidates import CoarseSearch, Lists, to_float32
from perception_encoder.index.searcher.files import (
    RESULT_COUNTS,
    Header,
    SearcherFolder,
    Tuning,
)
from perception_encoder.index.searcher.fragments import Mask, RowPositions, list_fragments
from perception_encoder.index.searcher.recall import RecallSample, split_kinds
from perception_encoder.index.searcher.searcher import Searcher
from perception_encoder.index.searcher.train import (
    ListFiller,
    TrainedLists,
    choose_num_lists,
    choose_queries,
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
_TARGET: Final = 0.97
"""The recall that is tuned for. 0.95 is documented; other queries than those that are measured find
less, as the lists are chosen for these."""

_STEP: Final = 1.15  # from one number of lists to the next
_WORTHWHILE: Final = 0.25  # share of the lists; searching more is no faster than a scan
_REACHES: Final = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1)  # see `TrainedLists.coarse`
_MOST_CANDIDATES: Final = 4096
_MARGIN: Final = 1.5  # times the candidates that sufficed: codes may err more for other queries
_CODES_OF_CANDIDATE: Final = 150  # that are compared in the time of scoring a candidate again

Propose: TypeAlias = Callable[[Embeddings, int, int], list[RowPositions]]
"""Returns at most so many rows of so many lists for each query, the most promising first."""


class ListTuning(RecallSample):
    """Chooses which lists are searched, how many, and how many rows of them are scored again."""

    def choose_lists(self, trained: TrainedLists, list_of: NDArray[np.int32]) -> CoarseSearch:
        """Return the choice of lists with which the fewest codes are compared.

        Args:
            trained: the lists.
            list_of: (R,) the list of every row; -1 for a deleted one.
        """
        best = [rows[: RESULT_COUNTS[0]] for rows in self.truth()]
        if min(map(len, best)) < RESULT_COUNTS[0]:
            return trained.coarse(0)  # too few rows to measure
        sizes = np.bincount(list_of[list_of >= 0], minlength=len(trained.centers))

        def count_codes(coarse: CoarseSearch) -> int:
            order = self._order_lists(coarse)
            return int(sizes[order[:, : self._least_lists(order, list_of, best)]].sum())

        return min((trained.coarse(weight) for weight in _REACHES), key=count_codes)

    def tune(
        self, coarse: CoarseSearch, list_of: NDArray[np.int32], propose: Propose
    ) -> tuple[Tuning, ...]:
        """Return what suffices, for each of `RESULT_COUNTS` where that saves time.

        Args:
            coarse: chooses lists.
            list_of: (R,) the list of every row.
            propose: searches the lists.
        """
        truth = self.truth()
        if min(map(len, truth)) < max(RESULT_COUNTS):
            return ()  # too few rows to measure
        order = self._order_lists(coarse)
        tunings = []
        for k in RESULT_COUNTS:
            best = [rows[:k] for rows in truth]
            least = self._least_lists(order, list_of, best)
            tuning = self._cheapest(best, least, len(coarse.centers), len(list_of), propose)
            if tuning is None:
                break
            tunings.append(tuning)
        return tuple(tunings)

    def _order_lists(self, coarse: CoarseSearch) -> NDArray[np.int64]:
        """Return (Q, num_lists): all lists in the order of `CoarseSearch.nearest`."""
        scores = self.queries @ coarse.centers.T + coarse.reach
        return np.argsort(-scores, axis=1)

    def _least_lists(
        self, order: NDArray[np.int64], list_of: NDArray[np.int32], best: list[RowPositions]
    ) -> int:
        """Return how many lists hold enough of the true rows, ignoring the loss of codes."""
        shares = []
        rank = np.empty(order.shape[1], np.int64)
        for lists, rows in zip(order, best, strict=True):
            rank[lists] = np.arange(len(lists))
            shares.append(np.bincount(rank[list_of[rows]], minlength=len(lists)) / len(rows))
        curves = [np.mean(part, axis=0).cumsum() for part in split_kinds(shares)]
        return 1 + int(np.argmax(np.minimum(*curves) >= _TARGET))

    def _cheapest(
        self,
        best: list[RowPositions],
        probes: int,
        num_lists: int,
        num_rows: int,
        propose: Propose,
    ) -> Tuning | None:
        """Return what takes the least time; None if a scan does.

        In few lists more candidates are needed, and those of few codes come at a price, too.

        Args:
            best: the true rows of each query.
            probes: the least number of lists.
            num_lists: of the searcher.
            num_rows: in them.
            propose: searches the lists.
        """
        found, lowest = None, math.inf
        while probes <= _WORTHWHILE * num_lists:
            codes = probes * num_rows / num_lists
            if codes >= lowest:
                break
            recall = self._recall(best, propose(self.queries, _MOST_CANDIDATES, probes))
            candidates = math.ceil(_MARGIN * (1 + int(np.argmax(recall >= _TARGET))))
            cost = codes + candidates * _CODES_OF_CANDIDATE
            if recall[-1] >= _TARGET and cost < lowest:
                measured = float(recall[min(candidates, len(recall)) - 1])
                found, lowest = Tuning(len(best[0]), probes, candidates, measured), cost
            probes = int(probes * _STEP) + 1
        return found

    @staticmethod
    def _recall(best: list[RowPositions], found: list[RowPositions]) -> NDArray[np.float64]:
        """Return the recall of the worse kind of query, for every number of candidates."""
        shares = np.zeros((len(best), _MOST_CANDIDATES))
        for share, rows, numbers in zip(shares, best, found, strict=True):
            share[: len(numbers)] = np.isin(numbers, rows) / len(rows)
        curves = [np.mean(part, axis=0).cumsum() for part in split_kinds(list(shares))]
        worse: NDArray[np.float64] = np.minimum(*curves)
        return worse


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
    numbers = choose_queries(np.flatnonzero(alive), chosen)
    queries = read_rows(vectors, numbers, header.embed_dim)
    calibration = ListTuning(queries, numbers, trained.mean, max(RESULT_COUNTS))
    filler = ListFiller(trained, len(alive))
    for first, block in read_blocks(vectors, header.embed_dim):
        here = alive[first : first + len(block)]
        numbers = first + np.flatnonzero(here)
        rows = to_float32(block if here.all() else block[here])
        if len(rows):
            filler.add(rows, numbers)
            calibration.add(rows, numbers)
    filler.write(folder.path(header.token, "lists"))
    logger.info("%s: filled the lists in %.1f s", vectors, time.monotonic() - started)
    started = time.monotonic()
    coarse = calibration.choose_lists(trained, filler.list_of)
    coarse.save(folder.path(header.token, "coarse"))
    header = dataclasses.replace(header, num_lists=len(trained.centers))
    lists = Searcher(folder, header).lists
    assert lists is not None  # they were just written
    tuning = calibration.tune(coarse, filler.list_of, _batch_search(lists))
    logger.info("%s: measured %s in %.1f s", vectors, tuning, time.monotonic() - started)
    if not tuning:
        folder.discard(header.token, ("lists", "coarse"))
        return dataclasses.replace(header, num_lists=0)
    return dataclasses.replace(header, tuning=tuning, lists_start=lists.start)


def _batch_search(lists: Lists) -> Propose:
    """Return the search of lists for many queries."""

    def propose(queries: Embeddings, number: int, probes: int) -> list[RowPositions]:
        def ask(query: Embeddings) -> RowPositions:
            return lists.candidates(query, number, probes, None)

        with ThreadPoolExecutor() as pool:
            return list(pool.map(ask, queries))

    return propose
