"""Analyses of a whole index, in the background: duplicates, clusters, a map."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Protocol, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from perception_encoder.analysis.clusters import Clusters, find_clusters, find_typical_members
from perception_encoder.analysis.duplicates import (
    NEAR_DUPLICATE,
    SIMILAR,
    Duplicates,
    Tier,
    find_duplicates,
)
from perception_encoder.analysis.index_map import project_vectors
from perception_encoder.analysis.ranked_images import (
    Numbers,
    RankedVectors,
    ReportStep,
    exclude_rows,
    find_damaged_rows,
)
from perception_encoder.errors import QueueFullError
from perception_encoder.index import Index, Row
from perception_encoder.server.core.indexes import ServedIndex
from perception_encoder.server.core.pools import DaemonThreads, WorkPool
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    import pyarrow as pa


"""Notes the stage of a job and the share of it that is done; raises where the job is to end."""

TierName: TypeAlias = Literal["bytes", "pixels", "near", "similar"]

MAX_CLUSTERS: Final = 200
MAX_EXAMPLES: Final = 24
MAX_MAP_IMAGES: Final = 20_000
"""Placed on a map, drawn at random from a larger index: t-SNE of so many takes minutes."""

_TIERS: Final[dict[TierName, Tier]] = {
    "bytes": "identical bytes",
    "pixels": "identical pixels",
    "near": "near duplicate",
    "similar": "similar",
}
_CUTOFFS: Final[dict[TierName, float]] = {"near": NEAR_DUPLICATE, "similar": SIMILAR}
ResultT = TypeVar("ResultT", covariant=True)

_MAX_RESULTS: Final = 8  # kept
_MAX_UNFINISHED: Final = 8  # jobs that run or wait
_PATIENCE_SECONDS: Final = 1.0  # a request waits this long for a result before it is told to return
_ABANDONED_SECONDS: Final = 300.0  # the page asks every second or two
_RETRY_SECONDS: Final = 30

_Key: TypeAlias = tuple[str, Hashable]


@dataclass(frozen=True)
class DuplicateSearch:
    """A search for duplicates.

    Attributes:
        tier: how far to go.
        cutoff: the lowest cosine of duplicates; None for tiers that compare no embeddings.
        read: returns an image's encoded bytes.
    """

    tier: TierName
    cutoff: float | None
    read: Callable[[Row], bytes] = field(compare=False)

    @classmethod
    def of(cls, tier: TierName, cutoff: float | None, read: Callable[[Row], bytes]) -> Self:
        """Fill in the tier's usual cutoff, so that equal searches are equal values."""
        usual = _CUTOFFS.get(tier)
        return cls(tier, usual if usual is None or cutoff is None else cutoff, read)

    def run(self, index: Index, report: ReportStep) -> Duplicates:
        """Find the duplicates; raises as `find_duplicates`."""
        return find_duplicates(
            index,
            self.read,
            tier=_TIERS[self.tier],
            threshold=self.cutoff,
            report=report,
        )


@dataclass(frozen=True)
class ClusterFigures:
    """K clusters of an index, the largest first.

    Attributes:
        sizes: how many images each has.
        tightness: the mean cosine of each one's images with its center.
        centers: (K, E) float32, unit length.
        silhouette: how distinct they are, from -1 to 1; None where their number was given.
        num_images: that take part.
        num_damaged: left out, as their vectors are damaged.
    """

    sizes: list[int]
    tightness: list[float]
    centers: Embeddings
    silhouette: float | None
    num_images: int
    num_damaged: int


@dataclass(frozen=True)
class ClusterResult:
    """Clusters and their images.

    Attributes:
        figures: of the K clusters.
        members: of each, the ids of its images, the most central first.
        examples: of each, ids of up to `MAX_EXAMPLES` unlike images among the most central.
    """

    figures: ClusterFigures
    members: list[pa.Array]
    examples: list[list[str]]


@dataclass(frozen=True)
class ClusterSearch:
    """A search for clusters: `num_clusters` of them, or as many as are distinct."""

    num_clusters: int | None
    where: str | None

    def run(self, index: Index, report: ReportStep) -> ClusterResult:
        """Find the clusters; raises as `find_clusters`."""
        found, where, figures = _find_clusters(index, self.num_clusters, self.where, report)
        report("choosing examples", 0, 0)
        examples = find_typical_members(index, found, MAX_EXAMPLES, where=where)
        ids = _ids(index, found, where)
        return ClusterResult(
            figures,
            [ids.take(cluster.members) for cluster in found.clusters],
            [ids.take(chosen).to_pylist() for chosen in examples],
        )


@dataclass(frozen=True)
class MapResult:
    """Places of images in the plane.

    Attributes:
        figures: of the clusters.
        ids: of the C images that have a place.
        places: (C, 2) float32, x to the right and y upwards, from -1 to 1.
        labels: (C,) int64, of each image the number of its cluster.
    """

    figures: ClusterFigures
    ids: list[str]
    places: NDArray[np.float32]
    labels: Numbers


@dataclass(frozen=True)
class MapLayout:
    """A map of an index, with its clusters."""

    where: str | None

    def run(self, index: Index, report: ReportStep) -> MapResult:
        """Place the images; raises as `project` and `find_clusters`."""
        found, where, figures = _find_clusters(index, None, self.where, report)
        numbers = np.arange(len(found.images))
        if len(numbers) > MAX_MAP_IMAGES:
            numbers = np.sort(np.random.default_rng(0).permutation(numbers)[:MAX_MAP_IMAGES])
        places = project_vectors(
            RankedVectors(index, found.images, where),
            numbers,
            progress=lambda share: report("placing images", round(100 * share), 100),
        )
        ids = _ids(index, found, where).take(numbers)
        return MapResult(figures, ids.to_pylist(), places, found.labels[numbers])


def _find_clusters(
    index: Index, num_clusters: int | None, where: str | None, report: ReportStep
) -> tuple[Clusters, str | None, ClusterFigures]:
    """Return the clusters, the condition that they were found with, and their figures."""
    damaged = find_damaged_rows(index, where, report)
    where = exclude_rows(damaged, where)
    found = find_clusters(index, num_clusters=num_clusters, where=where, report=report)
    figures = ClusterFigures(
        sizes=[cluster.size for cluster in found.clusters],
        tightness=[cluster.tightness for cluster in found.clusters],
        centers=found.centers if found.clusters else np.empty((0, 0), np.float32),
        silhouette=found.silhouette,
        num_images=len(found.images),
        num_damaged=len(damaged),
    )
    return found, where, figures


def _ids(index: Index, found: Clusters, where: str | None) -> pa.Array:
    """Return the ids of the clustered images, by their numbers."""
    import pyarrow as pa

    batches = [batch["id"] for batch in index.scan(["id"], where=where)]
    in_order = pa.concat_arrays(batches) if batches else pa.array([], pa.string())
    return in_order.take(np.argsort(found.images.numbers))


class Analysis(Hashable, Protocol[ResultT]):
    """What is asked for; equal ones share a job."""

    def run(self, index: Index, report: ReportStep) -> ResultT:
        """Analyze an index, in a thread."""
        ...


@dataclass(frozen=True)
class JobProgress:
    """A job that is not finished.

    Attributes:
        stage: what it is doing.
        share: how much of the stage is done, from 0 to 1; None where that is unknown.
        seconds: since it was asked for.
    """

    stage: str
    share: float | None
    seconds: float


@dataclass(frozen=True)
class JobResult(Generic[ResultT]):
    """The result of a job."""

    value: ResultT


class _EndedError(Exception):
    """No request wants the result any more."""


class _Job:
    """One analysis of one state of an index."""

    def __init__(self, state: tuple[int, str]) -> None:
        self.state: Final = state
        self.started_at: Final = time.monotonic()
        self.asked_at = self.started_at
        self.future: asyncio.Future[Any]
        self._stage: tuple[str, float | None] = ("waiting", None)
        self._is_ended = threading.Event()

    @property
    def has_failed(self) -> bool:
        return self.future.done() and (
            self.future.cancelled() or self.future.exception() is not None
        )

    @property
    def progress(self) -> JobProgress:
        stage, share = self._stage
        return JobProgress(stage, share, time.monotonic() - self.started_at)

    def end(self) -> None:
        """Stop at the next report, or never begin."""
        self._is_ended.set()
        self.future.cancel()

    def report(self, stage: str, done: int, total: int) -> None:
        """Note the progress; stop if no request wants the result. Called in the job's thread."""
        self._stage = (stage, done / total if total else None)
        if self._is_ended.is_set() or time.monotonic() - self.asked_at > _ABANDONED_SECONDS:
            raise _EndedError


class IndexJobs:
    """The jobs of a server. Belongs to one event loop.

    Args:
        searches: the threads that look at indexes.
    """

    def __init__(self, searches: WorkPool) -> None:
        self._searches = searches
        self._jobs: OrderedDict[_Key, _Job] = OrderedDict()
        self._thread = DaemonThreads(1, "analyses")

    async def get(
        self, served: ServedIndex, analysis: Analysis[ResultT]
    ) -> JobResult[ResultT] | JobProgress:
        """Return the result for the index as it is now, or the progress of its job.

        Raises:
            IndexStorageError: the index cannot be read.
            QueueFullError: too many other jobs run or wait.
        """
        state = await self._searches.run(lambda: served.fresh().state)
        key = (served.name, analysis)
        job = self._jobs.get(key)
        if job is None or job.state != state or job.has_failed:
            job = self._start(served, analysis, state)
        job.asked_at = time.monotonic()
        self._jobs.move_to_end(key)
        await asyncio.wait([job.future], timeout=_PATIENCE_SECONDS)
        if job.future.done() and not job.future.cancelled():
            return JobResult(job.future.result())
        return job.progress

    def close(self) -> None:
        """End all jobs."""
        for job in self._jobs.values():
            job.end()
        self._thread.close()

    def _start(
        self, served: ServedIndex, analysis: Analysis[ResultT], state: tuple[int, str]
    ) -> _Job:
        key = (served.name, analysis)
        for other, job in list(self._jobs.items()):
            is_outdated = other[0] == served.name and job.state != state
            if other == key or is_outdated:
                job.end()
                del self._jobs[other]
        finished = [other for other, job in self._jobs.items() if job.future.done()]
        num_unfinished = len(self._jobs) - len(finished)
        if num_unfinished >= _MAX_UNFINISHED:
            raise QueueFullError(
                f"{num_unfinished} analyses of indexes are running or waiting; ask again later",
                retry_after_seconds=_RETRY_SECONDS,
            )
        for other in finished[: max(0, len(finished) + 1 - _MAX_RESULTS)]:
            del self._jobs[other]
        job = self._jobs[key] = _Job(state)
        work = partial(_run, served, analysis, job.report)
        job.future = asyncio.wrap_future(self._thread.submit(work))
        job.future.add_done_callback(_retrieve_error)
        return job


def _run(served: ServedIndex, analysis: Analysis[ResultT], report: ReportStep) -> ResultT:
    report("starting", 0, 0)
    # An object of its own: the served one moves on to newer rows.
    return analysis.run(Index.open(served.path, hides_locations=True), report)


def _retrieve_error(future: asyncio.Future[Any]) -> None:
    """Keep asyncio from logging an error for which no request came back."""
    if not future.cancelled():
        future.exception()
