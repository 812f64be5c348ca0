"""Shares of cases with the interval in which the true share lies, at 95 %. Pure arithmetic."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from perception_encoder.analysis.classifiers import LabelScores
from perception_encoder.types import Embeddings

_Z: Final = 1.959963984540054  # of the normal distribution, 95 % two-sided
_TIE: Final = 1e-6
"""Cosines in float32 that are nearer than this are equal, as rounding differs by as much."""

_BLOCK_BYTES: Final = 64 << 20  # of scores in memory
_TOP: Final = 5
RECALL_AT: Final = (1, 5, 10)


@dataclass(frozen=True)
class Share:
    """A share in [0, 1], or the difference of two, and the ends of its interval."""

    value: float
    low: float
    high: float


def estimate_share(num_hits: int, count: int) -> Share:
    """Return a share of independent cases with Wilson's score interval.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference" (1927).
    Unlike the textbook's, it is of use near 0 and 1 and with few cases.

    Raises:
        ValueError: no cases.
    """
    if count < 1:
        raise ValueError("a share of no cases is not defined")
    share = num_hits / count
    square = _Z * _Z / count
    middle = (share + square / 2) / (1 + square)
    reach = _Z * ((share * (1 - share) + square / 4) / count) ** 0.5 / (1 + square)
    # At the ends rounding could put the share itself outside.
    return Share(share, max(0.0, min(share, middle - reach)), min(1.0, max(share, middle + reach)))


def estimate_mean_share(num_hits: NDArray[np.int64], counts: NDArray[np.int64]) -> Share:
    """Return the mean of several groups' shares, with a normal interval.

    Each group adds the variance of its share to that of the mean, computed with two hits and two
    misses more than there were: A. Agresti and B. A. Coull, "Approximate is better than exact for
    interval estimation of binomial proportions" (1998). Without these a group that is all hits
    would seem to be known for sure, as it does to a bootstrap: of two groups of two cases that are
    hits in nine of ten, its intervals hold the true mean in 4 of 10 trials, these in 99 of 100.

    Args:
        num_hits: (G,) of each group.
        counts: (G,) its cases, at least one each.

    Raises:
        ValueError: no groups, or one without cases.
    """
    if not len(counts) or counts.min() < 1:
        raise ValueError("a mean of shares needs groups with at least one case each")
    mean = float((num_hits / counts).mean())
    cautious = (num_hits + 2) / (counts + 4)
    variance = float((cautious * (1 - cautious) / counts).sum()) / len(counts) ** 2
    reach = _Z * variance**0.5
    return Share(mean, max(0.0, mean - reach), min(1.0, mean + reach))


def estimate_difference(num_only_first: int, num_only_second: int, count: int) -> Share:
    """Return by how much the first of two shares of the same cases is larger.

    Only cases that are hits of one and not of the other tell them apart, so this says more than two
    intervals side by side. The interval is that of A. Agresti and Y. Min, "Simple improved
    confidence intervals for comparing matched proportions" (2005).

    Args:
        num_only_first: cases that are hits of the first only.
        num_only_second: of the second only.
        count: all cases.

    Raises:
        ValueError: no cases.
    """
    if count < 1:
        raise ValueError("a share of no cases is not defined")
    size = count + 2
    middle = (num_only_first - num_only_second) / size
    apart = num_only_first + num_only_second + 1
    reach = _Z * (apart - (num_only_first - num_only_second) ** 2 / size) ** 0.5 / size
    value = (num_only_first - num_only_second) / count
    return Share(value, max(-1.0, min(value, middle - reach)), min(1.0, max(value, middle + reach)))


def rank_right_columns(
    scores: NDArray[np.float32], right: Sequence[Sequence[int]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the best of the right ones in each row.

    Args:
        scores: (N, L); they are overwritten.
        right: for each row the columns that are right, at least one.

    Returns:
        (N,): how many wrong ones score as high as the best right one or higher, so 0 is a hit at
        the first place. (N,): the column of the best wrong one.
    """
    counts = [len(columns) for columns in right]
    rows = np.repeat(np.arange(len(scores)), counts)
    columns = np.fromiter(chain.from_iterable(right), np.int64)
    starts = np.cumsum([0, *counts])[:-1]
    best = np.maximum.reduceat(scores[rows, columns], starts)
    scores[rows, columns] = -np.inf
    return (scores >= best[:, None] - _TIE).sum(axis=1), scores.argmax(axis=1)


def rank_candidates(
    queries: Embeddings, candidates: Embeddings, right: Sequence[Sequence[int]]
) -> NDArray[np.int64]:
    """Rank all candidates for each query by cosine, and find the best of the right ones.

    Never more than 64 MB of cosines are in memory, or one row of them.

    Args:
        queries: (Q, E) float32 of unit length.
        candidates: (C, E) float32 of unit length.
        right: for each query the candidates that are right, at least one.

    Returns:
        (Q,): how many wrong ones come before it.
    """
    ranks = np.empty(len(queries), np.int64)
    step = max(1, _BLOCK_BYTES // (4 * len(candidates)))
    for start in range(0, len(queries), step):
        block = slice(start, start + step)
        ranks[block], _ = rank_right_columns(queries[block] @ candidates.T, right[block])
    return ranks


@dataclass(frozen=True)
class ClassRecall:
    """One class: its images, and which share of them was given its label."""

    label: str
    num_images: int
    recall: float


@dataclass(frozen=True)
class Confusion:
    """So many images of a class were given another label."""

    label: str
    taken_for: str
    count: int


@dataclass(frozen=True)
class Accuracy:
    """How good a model is at a set of classes.

    Attributes:
        num_images: that were classified.
        num_labels: that there were to choose from.
        top1: the right label is the best one; with Wilson's interval.
        top5: it is among the five best; None where there are no more than five.
        mean_recall: the mean over classes of their recall, so that a class counts as much as
            another however many images it has; with the interval of `estimate_mean_share`.
        classes: those that have images, the worst first.
        confusions: the most frequent first.
        is_right: (N,) bool, of each image in its order whether its label is.
    """

    num_images: int
    num_labels: int
    top1: Share
    top5: Share | None
    mean_recall: Share
    classes: tuple[ClassRecall, ...]
    confusions: tuple[Confusion, ...]
    is_right: NDArray[np.bool_]


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images.

    Attributes:
        difference: by how much the one's top-1 is larger, see `estimate_difference`.
        num_only_one: images that only the one got right.
        num_only_other: images that only the other got right.
    """

    difference: Share
    num_only_one: int
    num_only_other: int


def compare_accuracies(one: Accuracy, other: Accuracy) -> Comparison:
    """Compare two models image by image.

    Raises:
        ValueError: they did not see the same number of images.
    """
    if len(one.is_right) != len(other.is_right):
        raise ValueError(
            f"{len(one.is_right)} and {len(other.is_right)} images do not compare: both models "
            "have to see the same"
        )
    num_only_one = int((one.is_right & ~other.is_right).sum())
    num_only_other = int((other.is_right & ~one.is_right).sum())
    difference = estimate_difference(num_only_one, num_only_other, one.num_images)
    return Comparison(difference, num_only_one, num_only_other)


class AccuracyTally:
    """Counts right and wrong labels while images go by.

    Args:
        labels: of the classifier.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = labels
        self._counts = np.zeros(len(labels), np.int64)
        self._hits = np.zeros(len(labels), np.int64)
        self._num_in_top = 0
        self._is_right: list[NDArray[np.bool_]] = []
        self._confusions = Counter[tuple[int, int]]()

    def add(self, found: LabelScores, truth: NDArray[np.int64]) -> None:
        """Take N images into account.

        Args:
            found: how well the labels fit them.
            truth: (N,) the number of each one's right label.
        """
        ranks, others = rank_right_columns(found.scores.copy(), truth[:, None].tolist())
        self._counts += np.bincount(truth, minlength=len(self._labels))
        self._hits += np.bincount(truth[ranks == 0], minlength=len(self._labels))
        self._num_in_top += int((ranks < _TOP).sum())
        self._is_right.append(ranks == 0)
        wrong = ranks > 0
        self._confusions.update(zip(truth[wrong].tolist(), others[wrong].tolist(), strict=True))

    def accuracy(self) -> Accuracy:
        """Return what was counted.

        Raises:
            ValueError: no images.
        """
        count = int(self._counts.sum())
        has_images = self._counts > 0
        hits, counts = self._hits[has_images], self._counts[has_images]
        classes = [
            ClassRecall(
                self._labels[n], int(self._counts[n]), float(self._hits[n] / self._counts[n])
            )
            for n in np.flatnonzero(has_images).tolist()
        ]
        return Accuracy(
            num_images=count,
            num_labels=len(self._labels),
            top1=estimate_share(int(hits.sum()), count),
            top5=estimate_share(self._num_in_top, count) if len(self._labels) > _TOP else None,
            mean_recall=estimate_mean_share(hits, counts),
            classes=tuple(sorted(classes, key=lambda one: (one.recall, -one.num_images))),
            confusions=tuple(
                Confusion(self._labels[truth], self._labels[other], times)
                for (truth, other), times in sorted(
                    self._confusions.items(), key=lambda one: (-one[1], one[0])
                )
            ),
            is_right=np.concatenate(self._is_right),
        )


@dataclass(frozen=True)
class CaptionPairs:
    """Which images and captions belong together.

    Attributes:
        places: of P images that differ, where each was first among those that were given.
        texts: T captions that differ.
        texts_of: for each image the numbers of its captions.
        images_of: for each caption the numbers of its images.
    """

    places: tuple[int, ...]
    texts: tuple[str, ...]
    texts_of: tuple[tuple[int, ...], ...]
    images_of: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, contents: Sequence[str], captions: Sequence[Sequence[str]]) -> Self:
        """Join what is the same.

        Args:
            contents: of each image what tells it from others, such as its SHA-256.
            captions: its captions; case and spaces do not count. An image without any is left out.
        """
        places, texts = dict[str, int](), dict[str, str]()
        pairs = dict[tuple[str, str], None]()  # in order, each once
        for place, (content, written) in enumerate(zip(contents, captions, strict=True)):
            for caption in written:
                key = " ".join(caption.lower().split())
                if key:
                    places.setdefault(content, place)
                    texts.setdefault(key, caption)
                    pairs[content, key] = None
        images = {content: number for number, content in enumerate(places)}
        numbers = {key: number for number, key in enumerate(texts)}
        texts_of: list[list[int]] = [[] for _ in images]
        images_of: list[list[int]] = [[] for _ in numbers]
        for content, key in pairs:
            texts_of[images[content]].append(numbers[key])
            images_of[numbers[key]].append(images[content])
        return cls(
            tuple(places.values()),
            tuple(texts.values()),
            tuple(map(tuple, texts_of)),
            tuple(map(tuple, images_of)),
        )


@dataclass(frozen=True)
class Retrieval:
    """How good a model is at a set of images with captions.

    Attributes:
        num_images: that differ.
        num_texts: captions that differ.
        text_to_image: recall by k: the share of captions that find one of their images among
            the first k; with Wilson's interval, which takes captions for independent.
        image_to_text: the share of images that find one of their captions, likewise.
    """

    num_images: int
    num_texts: int
    text_to_image: Mapping[int, Share]
    image_to_text: Mapping[int, Share]


def measure_retrieval(pairs: CaptionPairs, images: Embeddings, texts: Embeddings) -> Retrieval:
    """Search for every caption among the images, and for every image among the captions.

    Args:
        pairs: what belongs together.
        images: (P, E) float32 of unit length, of `pairs.places`.
        texts: (T, E) float32 of unit length, of `pairs.texts`.

    Raises:
        ValueError: no pairs.
    """
    return Retrieval(
        num_images=len(images),
        num_texts=len(texts),
        text_to_image=_recall(texts, images, pairs.images_of),
        image_to_text=_recall(images, texts, pairs.texts_of),
    )


def _recall(
    queries: Embeddings, candidates: Embeddings, right: Sequence[Sequence[int]]
) -> dict[int, Share]:
    ranks = rank_candidates(queries, candidates, right)
    return {k: estimate_share(int(np.count_nonzero(ranks < k)), len(ranks)) for k in RECALL_AT}
