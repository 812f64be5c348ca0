"""Chooses some images of an index: diverse, representative, or uncertain ones.

- diverse: each next image is the one farthest from all chosen ones, beginning with the most central
  (T. F. Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985; O. Sener and S.
  Savarese, "Active learning for convolutional neural networks: a core-set approach", 2018). No
  choice covers the images with less than half its radius. It takes outliers first.
- representative: the images nearest to the centers of n clusters (spherical k-means), so that dense
  regions get more of them.
- uncertain: the images whose two most probable labels differ least (T. Scheffer, C. Decomain and S.
  Wrobel, "Active hidden Markov models for information extraction", 2001); of near-duplicates only
  one.

Up to `CANDIDATE_BYTES` of embeddings are in memory. Of a larger index, diverse and representative
images are chosen among a random sample of that size; uncertain ones among all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from perception_encoder.analysis.cleaning.classes import Groups, read_groups
from perception_encoder.analysis.cluster_centers import find_cluster_centers, find_nearest_center
from perception_encoder.analysis.clusters import SAME
from perception_encoder.analysis.discriminant import DiscriminantSums, divide_into_folds
from perception_encoder.analysis.few_shot import FewShotClassifier
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
from perception_encoder.errors import QueryError
from perception_encoder.index import Index, Row
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    import pandas as pd

    from perception_encoder.analysis.classifiers import ImageClassifier

SelectBy: TypeAlias = Literal["diverse", "representative", "uncertain"]
"""How images are chosen."""

CANDIDATE_BYTES: Final = 512 << 20
"""Of embeddings in memory: 131,072 of E = 1024."""

_CANDIDATES: Final = 8  # uncertain ones, for each that is asked for
_FEWEST: Final = 2  # classes that a classifier needs
_SAMPLE: Final = 8192


@dataclass(frozen=True)
class Selection:
    """Images that were chosen, in the order in which they were.

    Attributes:
        by: how.
        rows: of each, without digest and metadata.
        labels: the label of each; None where there is none.
        scores: diverse: the distance (1 - cosine) to the images chosen before; representative: the
            cosine with the cluster's center; uncertain: the difference of the two highest
            probabilities.
        num_images: number of images to choose from.
        num_candidates: of these, the number that were compared.
        mean_distance: 1 - cosine of an image with the nearest chosen one, the mean of all images.
        radius: the greatest such distance.
        damaged: images that were left out because their embedding is damaged.
    """

    by: SelectBy
    rows: Sequence[Row]
    labels: Sequence[str | None]
    scores: Sequence[float]
    num_images: int
    num_candidates: int
    mean_distance: float
    radius: float
    damaged: Sequence[Row] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __repr__(self) -> str:
        return (
            f"<Selection: {len(self):,} of {self.num_images:,} images, {self.by}; mean distance "
            f"{self.mean_distance:.3f}, radius {self.radius:.3f}>"
        )

    def to_pandas(self) -> pd.DataFrame:
        """Return a data frame with a row for each image; needs pandas."""
        import pandas as pd

        return pd.DataFrame(
            {
                "uri": [row.uri for row in self.rows],
                "member": [row.member for row in self.rows],
                "label": list(self.labels),
                "score": list(self.scores),
            }
        )


@dataclass(frozen=True)
class SelectOptions:
    """How to choose images.

    Attributes:
        count: how many; with `per_class`, of each class.
        by: see the module.
        label_column: the column of the labels; None takes `label`, see `read_groups`.
        label_folders: take the names of folders as labels.
        per_class: choose from each class; images without a label are left out.
        seed: another seed gives another sample of a large index, and other folds.

    Raises:
        ValueError: a count below 1, or an unknown `by`.
    """

    count: int
    by: SelectBy = "diverse"
    label_column: str | None = None
    label_folders: bool = False
    per_class: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"the number of images must be at least 1, got {self.count}")
        if self.by not in get_args(SelectBy):
            raise ValueError(f"unknown {self.by!r}; one of: {', '.join(get_args(SelectBy))}")


def select_images(
    index: Index,
    options: SelectOptions,
    *,
    classifier: ImageClassifier | None = None,
    where: str | None = None,
    report: ReportStep = report_nothing,
) -> Selection:
    """Choose images of an index.

    Args:
        index: the index.
        options: how many, and how.
        classifier: of "uncertain"; None trains one with the labels of the index. Then images
            without a label are chosen, or among all where none lacks one.
        where: an SQL condition; other rows are left out.
        report: called between blocks of work.

    Raises:
        IndexStorageError: too many embeddings are damaged.
        QueryError: the condition or a column is wrong, or there are no labels where they are
            needed, or the classifier gives several labels to an image.
        ClassifierError: the classifier is of another model.
    """
    if isinstance(classifier, FewShotClassifier):
        classifier.check(index.identity)
        if classifier.is_multi_label:
            raise QueryError("uncertain images need a classifier of one label for each image")
    damaged = find_damaged_rows(index, where, report)
    where = exclude_rows(damaged, where)
    images = rank_images(index, "first", where, report)
    labels, _ = read_groups(
        index,
        images,
        where,
        label_column=options.label_column,
        label_folders=options.label_folders,
    )
    vectors = RankedVectors(index, images, where, report)
    chooser = _Chooser(vectors, images, labels, options)
    if options.by == "uncertain":
        chosen, scores, num_candidates = chooser.uncertain(classifier)
    else:
        chosen, scores, num_candidates = chooser.spread()
    mean, radius = _measure_coverage(vectors, len(images), chosen)
    return Selection(
        by=options.by,
        rows=[images.row(number) for number in chosen.tolist()],
        labels=[labels.name_of(number) for number in chosen.tolist()],
        scores=[round(float(score), 6) for score in scores],
        num_images=len(images),
        num_candidates=num_candidates,
        mean_distance=mean,
        radius=radius,
        damaged=damaged,
    )


_Chosen: TypeAlias = tuple[Numbers, NDArray[np.float32], int]
"""The numbers of images, their scores, and how many images were compared."""


class _Chooser:
    """Chooses images of R."""

    def __init__(
        self, vectors: RankedVectors, images: RankedImages, labels: Groups, options: SelectOptions
    ) -> None:
        self._vectors = vectors
        self._images = images
        self._labels = labels
        self._options = options

    def spread(self) -> _Chosen:
        """Choose diverse or representative images."""
        groups = self._groups()
        room = max(1, CANDIDATE_BYTES // (4 * self._vectors.embed_dim))
        candidates = _sample_each(groups, room, self._options.seed)
        numbers = np.sort(np.concatenate([np.empty(0, np.int64), *candidates]))
        vectors = self._vectors.read(numbers)
        choose = _choose_diverse if self._options.by == "diverse" else _choose_representative
        chosen, scores = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        for members in candidates:
            own = vectors if len(candidates) == 1 else vectors[np.searchsorted(numbers, members)]
            places, found = choose(own, self._options.count, self._vectors.report)
            chosen.append(members[places])
            scores.append(found)
        return np.concatenate(chosen), np.concatenate(scores), len(numbers)

    def uncertain(self, classifier: ImageClassifier | None) -> _Chosen:
        """Choose images whose label is uncertain."""
        if classifier is None:
            predict, numbers = self._train()
        else:
            numbers = np.arange(len(self._images))
            predict = _predict_with(classifier)
        margins = np.full(len(self._images), np.inf, np.float32)
        classes = np.full(len(self._images), -1, np.int64)
        for block_numbers, block in self._vectors.blocks(numbers):
            probabilities = predict(block_numbers, block)
            classes[block_numbers] = probabilities.argmax(axis=1)
            highest = np.partition(probabilities, -2, axis=1)[:, -2:]
            margins[block_numbers] = highest[:, 1] - highest[:, 0]
        groups = [numbers]
        if self._options.per_class:
            groups = [numbers[classes[numbers] == one] for one in np.unique(classes[numbers])]
        chosen = [np.empty(0, np.int64)]
        for members in groups:
            order = members[np.lexsort((members, margins[members]))]
            chosen.append(self._drop_near(order))
        found = np.concatenate(chosen)
        return found, margins[found], len(numbers)

    def _groups(self) -> list[Numbers]:
        if not self._options.per_class:
            return [np.arange(len(self._images))]
        if not self._labels:
            raise QueryError(_NO_LABELS)
        order = np.argsort(self._labels.numbers, kind="stable")
        ends = np.cumsum(np.bincount(self._labels.numbers + 1, minlength=len(self._labels.names)))
        return [one for one in np.split(order, ends)[1:] if len(one)]

    def _train(self) -> tuple[_Predict, Numbers]:
        """Return a classifier of the labels, and the numbers of the images to classify."""
        labels, num_classes = self._labels.numbers, len(self._labels.names)
        if num_classes < _FEWEST:
            raise QueryError(_NO_LABELS)
        folds = divide_into_folds(self._images.contents, seed=self._options.seed)
        known = np.flatnonzero(labels >= 0)
        try:
            sums = DiscriminantSums(num_classes, self._vectors.embed_dim)
        except ValueError as err:
            raise QueryError(str(err)) from err
        for numbers, block in self._vectors.blocks(known):
            sums.add(block, labels[numbers], folds[numbers])
        sample = known
        if len(known) > _SAMPLE:
            random = np.random.default_rng(self._options.seed)
            sample = np.sort(random.choice(known, _SAMPLE, replace=False))
        probe = sums.fit(self._vectors.read(sample), labels[sample], folds[sample])
        unknown = np.flatnonzero(labels < 0)
        if len(unknown):
            return (lambda numbers, block: probe.predict(block)), unknown  # noqa: ARG005
        return (lambda numbers, block: probe.predict(block, folds[numbers])), known

    def _drop_near(self, ordered: Numbers) -> Numbers:
        """Return the first images, without those that nearly equal an earlier one."""
        count = self._options.count
        candidates = ordered[: count * _CANDIDATES]
        vectors = self._vectors.read(candidates)
        places: list[int] = []
        kept = np.empty((min(count, len(candidates)), vectors.shape[1]), np.float32)
        for place, vector in enumerate(vectors):
            if len(places) == count:
                break
            if not places or (kept[: len(places)] @ vector).max() < SAME:
                kept[len(places)] = vector
                places.append(place)
        if len(places) < count:  # near-duplicates rather than too few
            others = np.setdiff1d(np.arange(len(candidates)), places)
            places += others[: count - len(places)].tolist()
        return candidates[np.array(places, np.int64)]


_Predict: TypeAlias = Callable[[Numbers, Embeddings], NDArray[np.float32]]

_NO_LABELS: Final = (
    "there are no labels, or only one: name a column of labels, take the names of the folders, or "
    "for uncertain images give labels to compare with"
)


def _predict_with(classifier: ImageClassifier) -> _Predict:
    if len(classifier.labels) < _FEWEST:
        raise QueryError("uncertain images need at least two labels")
    return lambda _, block: classifier.classify(block).probabilities


def _sample_each(groups: Sequence[Numbers], room: int, seed: int) -> list[Numbers]:
    """Return up to `room` images, as many of each group as of any other that is no smaller."""
    if sum(map(len, groups)) <= room:
        return list(groups)
    random = np.random.default_rng(seed)
    found: dict[int, Numbers] = {}
    smallest_first = sorted(range(len(groups)), key=lambda place: len(groups[place]))
    for num_done, place in enumerate(smallest_first):
        share = max(1, room // (len(groups) - num_done))
        members = groups[place]
        if len(members) > share:
            members = np.sort(random.choice(members, share, replace=False))
        found[place] = members
        room -= len(members)
    return [found[place] for place in range(len(groups))]


def _choose_diverse(
    vectors: Embeddings, count: int, report: ReportStep
) -> tuple[Numbers, NDArray[np.float32]]:
    """Return positions, and the distance of each to the ones before (of the first: 0)."""
    count = min(count, len(vectors))
    places = np.empty(count, np.int64)
    scores = np.zeros(count, np.float32)
    nearest = np.full(len(vectors), -np.inf, np.float32)
    if count:
        places[0] = int((vectors @ vectors.mean(axis=0)).argmax())
    for step in range(count):
        if step:
            places[step] = int(nearest.argmin())
            scores[step] = np.clip(1 - nearest[places[step]], 0, 2)
        report("choosing images", step, count)
        np.maximum(nearest, vectors @ vectors[places[step]], out=nearest)
        nearest[places[step]] = np.inf
    return places, scores


def _choose_representative(
    vectors: Embeddings, count: int, report: ReportStep
) -> tuple[Numbers, NDArray[np.float32]]:
    """Return the positions of the images nearest to cluster centers, and their cosines."""
    count = min(count, len(vectors))
    if not count:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    report("finding clusters", 0, 0)
    centers = find_cluster_centers(vectors, count).vectors
    labels, scores = find_nearest_center(vectors, centers)
    order = np.lexsort((np.arange(len(vectors)), -scores, labels))
    ranks = np.arange(len(order)) - np.searchsorted(labels[order], labels[order])
    # One of each cluster, the largest first; empty clusters are made up for by second ones.
    sizes = np.bincount(labels, minlength=len(centers))
    first = np.lexsort((order, -sizes[labels[order]], ranks))[:count]
    places: Numbers = order[first]
    return places, scores[places]


def _measure_coverage(
    vectors: RankedVectors, num_images: int, chosen: Numbers
) -> tuple[float, float]:
    """Return the mean and the greatest distance of an image to the nearest chosen one."""
    if not len(chosen):
        return 0.0, 0.0
    selected = vectors.read(chosen)
    total, radius = 0.0, 0.0
    for _, block in vectors.blocks(np.arange(num_images)):
        distances = np.maximum(1 - find_nearest_center(block, selected)[1], 0)
        total += float(distances.sum(dtype=np.float64))
        radius = max(radius, float(distances.max()))
    return total / num_images, radius
