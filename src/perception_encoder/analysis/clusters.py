"""Clusters of an index: groups of images that look alike.

Every image belongs to the cluster whose center is nearest. Centers are learned from a sample of at
most `SAMPLE_BYTES`; then one pass over the index assigns the images, which takes about 300 bytes an
image (for 64 clusters, a million embeddings of E = 1024 take 130 GFLOP).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, overload

import numpy as np
from numpy.typing import NDArray

from perception_encoder.analysis.cluster_centers import find_cluster_centers, find_nearest_center
from perception_encoder.analysis.cluster_names import ClusterName, name_clusters
from perception_encoder.analysis.ranked_images import (
    Numbers,
    RankedImages,
    RankedVectors,
    ReportStep,
    exclude_rows,
    find_damaged_rows,
    rank_images,
    report_nothing,
)
from perception_encoder.index import Index, Row
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    import pyarrow as pa

    from perception_encoder.embedder import EmbeddingModel

SAMPLE_BYTES: Final = 256 << 20
"""The size of the sample that centers are learned from: 65,536 embeddings of E = 1024."""

SAME: Final = 0.95
"""The cosine from which two images count as the same, as for `pe search --unique`."""

_SEED: Final = 0
_CANDIDATES: Final = 8  # for each typical image that is asked for


@dataclass(frozen=True)
class Cluster:
    """Images that look alike.

    Attributes:
        members: (S,) int64, the numbers of its images, the most central first.
        tightness: the mean cosine of its images with the center.
        center: (E,) float32, unit length.
    """

    members: Numbers
    tightness: float
    center: NDArray[np.float32]

    @property
    def size(self) -> int:
        """The number of its images."""
        return len(self.members)


@dataclass(frozen=True)
class Clusters:
    """The images of an index in clusters.

    Attributes:
        clusters: K clusters, the largest first.
        images: R images, by path.
        labels: (R,) int64, the position of each image's cluster in `clusters`.
        scores: (R,) float32, the cosine of each image with its cluster's center.
        silhouette: how well the clusters are separated, from -1 to 1; None where their number was
            given.
    """

    clusters: tuple[Cluster, ...]
    images: RankedImages
    labels: Numbers
    scores: NDArray[np.float32]
    silhouette: float | None

    @property
    def centers(self) -> Embeddings:
        """(K, E) float32, unit length."""
        return np.stack([cluster.center for cluster in self.clusters])

    def rows(self, numbers: Numbers) -> list[Row]:
        """Return the rows of images, without digests and metadata."""
        return [self.images.row(number) for number in numbers.tolist()]


def find_clusters(
    index: Index,
    *,
    num_clusters: int | None = None,
    where: str | None = None,
    report: ReportStep = report_nothing,
) -> Clusters:
    """Divide the images of an index into clusters.

    The same images give the same clusters, whatever their order in the index.

    Args:
        index: the index.
        num_clusters: the number of clusters; clusters without images are left out. None chooses it
            by the silhouette, up to √R and 100.
        where: an SQL condition; other rows are left out.
        report: called between blocks of work.

    Raises:
        QueryError: the condition is wrong.
        ValueError: num_clusters below 1.
    """
    if num_clusters is not None and num_clusters < 1:
        raise ValueError(f"the number of clusters must be at least 1, got {num_clusters}")
    images = rank_images(index, "first", where, report)
    vectors = RankedVectors(index, images, where, report)
    labels = np.empty(len(images), np.int64)
    scores = np.empty(len(images), np.float32)
    if not len(images):
        return Clusters((), images, labels, scores, None)
    sample = vectors.read(choose_sample(len(images), vectors.embed_dim))
    report("finding clusters", 0, 0)
    centers = find_cluster_centers(sample, num_clusters)
    for numbers, block in vectors.blocks(np.arange(len(images))):
        labels[numbers], scores[numbers] = find_nearest_center(block, centers.vectors)
    clusters, places = _sort_clusters(centers.vectors, labels, scores)
    return Clusters(clusters, images, places[labels], scores, centers.silhouette)


def choose_sample(num_images: int, embed_dim: int) -> Numbers:
    """Return the numbers of the images to learn centers from, ascending."""
    room = max(1, SAMPLE_BYTES // (4 * embed_dim))
    if num_images <= room:
        return np.arange(num_images)
    chosen = np.random.default_rng(_SEED).choice(num_images, room, replace=False)
    return np.sort(chosen)


def _sort_clusters(
    centers: Embeddings, labels: Numbers, scores: NDArray[np.float32]
) -> tuple[tuple[Cluster, ...], Numbers]:
    """Return the clusters that have images, the largest first, and the position of each center."""
    order = np.lexsort((-scores, labels))  # stable: equal scores are ordered by path
    found, starts = np.unique(labels[order], return_index=True)
    members = np.split(order, starts[1:])
    by_size = sorted(range(len(found)), key=lambda place: (-len(members[place]), place))
    places = np.full(len(centers), -1, np.int64)
    places[found[by_size]] = np.arange(len(found))
    clusters = tuple(
        Cluster(
            members=members[place],
            tightness=float(scores[members[place]].mean(dtype=np.float64)),
            center=centers[found[place]],
        )
        for place in by_size
    )
    return clusters, places


def find_typical_members(
    index: Index, found: Clusters, count: int, *, where: str | None = None
) -> list[Numbers]:
    """Return the numbers of up to `count` typical images of each cluster, the most central first.

    Near-duplicates are left out as long as there are other central images. This takes one pass over
    the index.

    Args:
        index: the index.
        found: its clusters.
        count: the most images of a cluster.
        where: the condition that `found` was made with.
    """
    central = [cluster.members[: count * _CANDIDATES] for cluster in found.clusters]
    if not central:
        return []
    wanted = np.sort(np.concatenate(central))
    vectors = RankedVectors(index, found.images, where).read(wanted)
    return [
        members[_choose_different(vectors[np.searchsorted(wanted, members)], count)]
        for members in central
    ]


def _choose_different(vectors: Embeddings, count: int) -> Numbers:
    """Return up to `count` positions, ascending; near-duplicates of earlier ones come last."""
    is_new = np.ones(len(vectors), np.bool_)
    for place, products in enumerate(vectors @ vectors.T):
        if is_new[place]:
            is_new[place + 1 :] &= products[place + 1 :] < SAME
    chosen = np.concatenate([np.flatnonzero(is_new), np.flatnonzero(~is_new)])[:count]
    return np.sort(chosen)


@dataclass(frozen=True)
class NamedCluster:
    """One cluster of an index.

    Attributes:
        name: its name, or "cluster 3" where clusters have no names.
        tightness: the mean cosine of its images with its center.
        images: its rows, the most central first, without digests and metadata.
        scores: of each, the cosine with the center.
    """

    name: str
    tightness: float
    images: list[Row]
    scores: list[float]

    def __repr__(self) -> str:
        return f"<{self.name}: {len(self.images)} images, tightness {self.tightness:.3f}>"


@dataclass(frozen=True)
class NamedClusters(Sequence[NamedCluster]):
    """The clusters of an index, the largest first, and their names.

    Attributes:
        found: the clusters.
        names: one for each; none where no words were given.
        where: the condition that the clustered rows meet.
        damaged: rows that were left out because their embedding is damaged.
    """

    found: Clusters
    names: Sequence[ClusterName]
    where: str | None
    damaged: Sequence[Row]

    def __len__(self) -> int:
        return len(self.found.clusters)

    def __repr__(self) -> str:
        names = [self.title(place) for place in range(min(3, len(self)))]
        return f"<{len(self)} clusters: {', '.join(names)}{', …' if len(self) > 3 else ''}>"

    @overload
    def __getitem__(self, place: int) -> NamedCluster: ...
    @overload
    def __getitem__(self, place: slice) -> list[NamedCluster]: ...
    def __getitem__(self, place: int | slice) -> NamedCluster | list[NamedCluster]:
        if isinstance(place, slice):
            return [self[number] for number in range(len(self))[place]]
        cluster = self.found.clusters[place]
        return NamedCluster(
            name=self.title(range(len(self))[place]),
            tightness=cluster.tightness,
            images=self.found.rows(cluster.members),
            scores=self.found.scores[cluster.members].tolist(),
        )

    def title(self, place: int) -> str:
        """Return the name of a cluster, or "cluster 3" where clusters have no names."""
        return self.names[place].text if self.names else f"cluster {place + 1}"

    def columns(self) -> dict[str, pa.Array]:
        """Return cluster, cluster_name and cluster_score of each row, in the index's order."""
        import pyarrow as pa

        found = self.found
        labels = found.labels[found.images.numbers]
        titles = pa.array([self.title(place) for place in range(len(self))], pa.string())
        return {
            "cluster": pa.array(labels + 1, pa.int32()),
            "cluster_name": titles.take(pa.array(labels)),
            "cluster_score": pa.array(found.scores[found.images.numbers], pa.float32()),
        }


def cluster_index(
    index: Index,
    open_model: Callable[[], EmbeddingModel],
    *,
    num_clusters: int | None = None,
    words: Sequence[str] = (),
    where: str | None = None,
    report: ReportStep = report_nothing,
) -> NamedClusters:
    """Divide an index's images into groups that look alike, and name the groups.

    Args:
        index: the index.
        open_model: opens the index's model; called only if there are words.
        num_clusters: as in `find_clusters`.
        words: to choose names from; without any, clusters have no names.
        where: an SQL condition; other rows do not take part.
        report: called between blocks of work.

    Raises:
        IndexStorageError: too many embeddings are damaged.
        QueryError: the condition is wrong.
        ValueError: num_clusters below 1.
    """
    damaged = find_damaged_rows(index, where, report)
    where = exclude_rows(damaged, where)
    found = find_clusters(index, num_clusters=num_clusters, where=where, report=report)
    names: list[ClusterName] = []
    if words and found.clusters:
        vectors = open_model().embed_text(words, show_progress=False)
        names = name_clusters(found.centers, words, vectors)
    return NamedClusters(found, names, where, damaged)
