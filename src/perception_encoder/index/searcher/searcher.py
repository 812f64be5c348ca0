"""A searcher: proposes the rows of one version of an index that may be nearest to a query.

Exact search looks at every covered row and proposes all that rounding leaves in doubt; approximate
search looks into as many lists as were measured to be enough. Either way the caller reads the rows
that were proposed from the index, scores them there, and adds what is not covered.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np

from perception_encoder.index.checksums import CheckedFile, SearcherDamageError
from perception_encoder.index.exact import SLACK, product
from perception_encoder.index.searcher.candidates import CoarseSearch, Lists, MappedVectors
from perception_encoder.index.searcher.files import Header, SearcherFolder, Stamp, Tuning
from perception_encoder.index.searcher.fragments import Coverage, Mask, ReadIds
from perception_encoder.index.searcher.kernels import ScanHits, make_selector
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    import lance

_SPARE: Final = 16  # asked for beside k, so that rows within rounding of the last are seen at once
_MORE: Final = 8
_HALF_FLOAT: Final = 2.0**-10  # twice what rounding a unit vector to float16 can change a product


def num_candidates(k: int) -> int:
    """How many rows to score again for the best k; their codes tell only roughly."""
    return 100 + 5 * k


class Searcher:
    """The opened files of a searcher. Several threads may use it at once.

    What it reads of them is compared with their checksums before it has a part in an answer.

    Args:
        folder: where the files are.
        header: of a searcher that is committed, or of one that is being built and has no sizes.

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
        self.lists: Final = self._opened_lists(folder, opened) if header.num_lists else None
        self.slack: Final = SLACK if header.vector_dtype == "float16" else SLACK + _HALF_FLOAT

    def _opened_lists(self, folder: SearcherFolder, opened: Callable[[str], CheckedFile]) -> Lists:
        self.files["coarse"], self.files["lists"] = opened("coarse"), opened("lists")
        self.files["coarse"].check_all()
        coarse = CoarseSearch.load(folder.path(self.header.token, "coarse"))
        return Lists(self.files["lists"], self.header.lists_start, coarse, self.header.num_rows)

    def tuning(self, k: int) -> Tuning | None:
        """Return how to search approximately for the best k; None where it must be exact."""
        fitting = (tuning for tuning in self.header.tuning if tuning.k >= k)
        return None if self.lists is None else next(fitting, None)

    def exactly(
        self, queries: Embeddings, k: int, threshold: float | None, mask: Mask | None
    ) -> list[ScanHits]:
        """Propose every row that may be among the best k, and few others.

        Args:
            queries: (Q, E) float32.
            k: how many are wanted.
            threshold: rows of a lower score are not.
            mask: which rows take part; None for all.
        """
        number = k + _SPARE
        while True:
            found = self._vectors.nearest(queries, number, mask)
            proposed = [self._promising(result, k, threshold) for result in found]
            if all(
                len(result.scores) < number or len(some.scores) < number
                for result, some in zip(found, proposed, strict=True)
            ):
                return proposed
            number = min(number * _MORE, self.header.num_rows + 1)  # many are equal

    def approximately(
        self, query: Embeddings, k: int, threshold: float | None, mask: Mask | None
    ) -> ScanHits | None:
        """Propose rows near to one query, (E,); None where too few are found to tell."""
        tuning = self.tuning(k)
        if tuning is None or self.lists is None:
            return None
        found = self.look_into(query, num_candidates(k), tuning.probes, mask)
        return None if len(found.scores) < k else self._promising(found, k, threshold)

    def look_into(self, query: Embeddings, number: int, probes: int, mask: Mask | None) -> ScanHits:
        """Return that many rows of the lists nearest to a query, (E,), best first."""
        assert self.lists is not None  # or there is no tuning
        numbers = self.lists.candidates(query, number, probes, make_selector(mask))
        if numbers.size and numbers.max() >= self.header.num_rows:
            raise SearcherDamageError("its lists hold rows that there are not")
        scores = product(self._vectors.rows(numbers), query)
        order = np.argsort(-scores, kind="stable")
        return ScanHits(scores[order], numbers[order])

    def _promising(self, found: ScanHits, k: int, threshold: float | None) -> ScanHits:
        """Keep the rows that may be among the best k, of rows that are sorted."""
        floor = -np.inf if threshold is None else threshold
        if len(found.scores) >= k:
            floor = max(floor, float(found.scores[k - 1]))
        count = int(np.count_nonzero(found.scores >= floor - self.slack))
        return ScanHits(found.scores[:count], found.numbers[:count])


class BoundSearcher:
    """A searcher beside one version of the index.

    Attributes:
        coverage: what of the version it covers.
        slack: how far its scores may be from the index's.
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
        """Return for each query the covered rows that may be among the best k.

        With a condition it is always exact: which lists hold rows that meet it is not known.

        Raises:
            QueryError: the condition is wrong.
            SearcherDamageError: the searcher is wrong.
        """
        if where is not None:
            meeting = self.coverage.meeting(where)
            return self._searcher.exactly(queries, k, threshold, meeting)
        mask = self.coverage.alive
        if exact or self._searcher.tuning(k) is None:
            return self._searcher.exactly(queries, k, threshold, mask)
        return [self._one(query, k, threshold, mask) for query in queries]

    def _one(
        self, query: Embeddings, k: int, threshold: float | None, mask: Mask | None
    ) -> ScanHits:
        found = self._searcher.approximately(query, k, threshold, mask)
        if found is not None:
            return found
        return self._searcher.exactly(query[None], k, threshold, mask)[0]


class Searchers:
    """Gives the searcher that is in place, and opens each only once. For one index's path."""

    def __init__(self, find_index: str) -> None:
        self.folder: Final = SearcherFolder(find_index)
        self._lock = threading.Lock()
        self._stamp: Stamp | None = None
        self._searcher: Searcher | None = None

    def current(self) -> Searcher | None:
        """Return the searcher; None where there is none that can be used."""
        with self._lock:
            if self._stamp is None or self._present() != self._stamp:
                before = self.folder.stamp(None)
                self._searcher = self._open()
                present = self._present()
                # Another may have been put in place in this moment; then it is looked at again.
                self._stamp = present if before and present and before[0] == present[0] else None
            return self._searcher

    def _present(self) -> Stamp | None:
        return self.folder.stamp(None if self._searcher is None else self._searcher.header)

    def dismiss(self, reason: object) -> None:
        """Throw the present searcher away, because it turned out to be wrong."""
        self.folder.warn(reason)
        with self._lock:
            self._searcher = None
            with contextlib.suppress(OSError):  # a reader may not be allowed to
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
