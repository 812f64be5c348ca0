"""A searcher: proposes rows of an index that may be nearest to a query.

Exact search scans every covered row and proposes all that rounding leaves open. Approximate search
searches as many lists as were measured to suffice. The caller scores the proposed rows with the
index's own vectors, and adds rows that are not covered.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np

from perception_encoder.index.checksums import CheckedFile, SearcherDamageError
from perception_encoder.index.exact import SLACK, product
from perception_encoder.index.searcher.candidates import (
    Lists,
    MappedVectors,
    keep_promising,
)
from perception_encoder.index.searcher.files import Header, SearcherFolder, Stamp, Tuning
from perception_encoder.index.searcher.fragments import Coverage, Mask, ReadIds
from perception_encoder.index.searcher.kernels import ScanHits, make_selector
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    import lance

HALF_FLOAT: Final = 2.0**-10
"""Twice the error of a product with float16 unit vectors."""


class Searcher:
    """The open files of a searcher, checked before use. Several threads may share it.

    Args:
        folder: the folder of the files.
        header: of a committed searcher, or of one that is being built and has no sizes.

    Raises:
        OSError, ValueError, DamageError: the files are gone or damaged.
    """

    def __init__(self, folder: SearcherFolder, header: Header) -> None:
        self.header: Final = header
        sums = folder.sums(header) if header.sizes else {}

        def opened(end: str) -> CheckedFile:
            return CheckedFile(folder.path(header.token, end), sums.get(end))

        self.files: Final = {"vectors": opened("vectors")}
        self._vectors = MappedVectors(self.files["vectors"], header.num_rows, header.embed_dim)
        self.lists: Final = self._open_lists(folder, opened) if header.num_lists else None
        self.slack: Final = SLACK if header.vector_dtype == "float16" else SLACK + HALF_FLOAT

    def _open_lists(self, folder: SearcherFolder, opened: Callable[[str], CheckedFile]) -> Lists:
        self.files["coarse"], self.files["lists"] = opened("coarse"), opened("lists")
        self.files["coarse"].check_all()
        coarse = folder.path(self.header.token, "coarse")
        return Lists(self.files["lists"], self.header.lists_start, coarse, self.header.num_rows)

    def tuning(self, k: int) -> Tuning | None:
        """Return the tuning for the best k; None if search must be exact."""
        fitting = (tuning for tuning in self.header.tuning if tuning.k >= k)
        return None if self.lists is None else next(fitting, None)

    def propose_exact(
        self, queries: Embeddings, k: int, threshold: float | None, mask: Mask | None
    ) -> list[ScanHits]:
        """Propose all rows that may be among the best k, see `VectorScan.propose`."""
        return self._vectors.propose(queries, k, threshold, mask, self.slack)

    def propose_approximate(
        self, query: Embeddings, k: int, threshold: float | None, mask: Mask | None
    ) -> ScanHits | None:
        """Propose rows near to one query, (E,); None if too few are found."""
        tuning = self.tuning(k)
        if tuning is None or self.lists is None:
            return None
        found = self.search_lists(query, tuning.candidates, tuning.probes, mask)
        return None if len(found.scores) < k else keep_promising(found, k, threshold, self.slack)

    def search_lists(
        self, query: Embeddings, number: int, probes: int, mask: Mask | None
    ) -> ScanHits:
        """Return `number` rows of the lists nearest to a query, (E,), best first."""
        assert self.lists is not None  # or there is no tuning
        numbers = self.lists.candidates(query, number, probes, make_selector(mask))
        if numbers.size and numbers.max() >= self.header.num_rows:
            raise SearcherDamageError("its lists contain unknown rows")
        scores = product(self._vectors.rows(numbers), query)
        order = np.argsort(-scores, kind="stable")
        return ScanHits(scores[order], numbers[order])


class BoundSearcher:
    """A searcher for one version of the index.

    Attributes:
        coverage: the rows of the version that it covers.
        slack: the largest error of its scores.
    """

    def __init__(self, searcher: Searcher, dataset: lance.LanceDataset, read_ids: ReadIds) -> None:
        self._searcher = searcher
        self.coverage: Final = Coverage(searcher.header.fragments, dataset, read_ids)
        self.slack: Final = searcher.slack

    def propose(
        self,
        queries: Embeddings,
        k: int,
        *,
        where: str | None,
        threshold: float | None,
        exact: bool,
    ) -> list[ScanHits]:
        """Return the covered rows that may be among the best k for each query.

        With a condition it is always exact, as it is unknown which lists hold rows that meet it.

        Raises:
            QueryError: the condition is wrong.
            SearcherDamageError: the searcher is wrong.
        """
        if where is not None:
            meeting = self.coverage.meeting(where)
            return self._searcher.propose_exact(queries, k, threshold, meeting)
        mask = self.coverage.alive
        if exact or self._searcher.tuning(k) is None:
            return self._searcher.propose_exact(queries, k, threshold, mask)
        return [self._one(query, k, threshold, mask) for query in queries]

    def _one(
        self, query: Embeddings, k: int, threshold: float | None, mask: Mask | None
    ) -> ScanHits:
        found = self._searcher.propose_approximate(query, k, threshold, mask)
        if found is not None:
            return found
        return self._searcher.propose_exact(query[None], k, threshold, mask)[0]


class Searchers:
    """Opens the committed searcher of an index, each once."""

    def __init__(self, find_index: str) -> None:
        self.folder: Final = SearcherFolder(find_index)
        self._lock = threading.Lock()
        self._stamp: Stamp | None = None
        self._searcher: Searcher | None = None

    def current(self) -> Searcher | None:
        """Return the searcher; None if there is none that can be used."""
        with self._lock:
            if self._stamp is None or self._present() != self._stamp:
                before = self.folder.stamp(None)
                self._searcher = self._open()
                present = self._present()
                # If another was committed meanwhile, the next call opens it.
                self._stamp = present if before and present and before[0] == present[0] else None
            return self._searcher

    def _present(self) -> Stamp | None:
        return self.folder.stamp(None if self._searcher is None else self._searcher.header)

    def dismiss(self, reason: object) -> None:
        """Delete the present searcher because it is damaged."""
        self.folder.warn(reason)
        with self._lock:
            self._searcher = None
            with contextlib.suppress(OSError):  # a reader may lack the permission
                self.folder.remove()
            self._stamp = self._present()

    def _open(self) -> Searcher | None:
        for is_last in (False, True):
            header = self.folder.read()
            if header is None:
                return None
            try:
                return Searcher(self.folder, header)
            except (OSError, ValueError, SearcherDamageError) as err:
                if isinstance(err, FileNotFoundError) and not is_last:
                    continue  # replaced while it was being opened
                self.folder.warn(err)
                return None
        return None
