"""Measures of a model on labeled or captioned images, with 95 % confidence intervals.

Accuracy is computed as in CLIP_benchmark (LAION-AI/CLIP_benchmark @082089f,
metrics/zeroshot_classification.py), except that ties count against the model. Retrieval is computed
as in its metrics/zeroshot_retrieval.py: recall@k is the share of queries with at least one right
result among the first k. Scores are plain cosines; Meta's fork multiplies them by a softmax over
all queries (facebookresearch/perception_models, apps/pe/clip_benchmark): its figures may be higher.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from perception_encoder.analysis.classifiers import LabelScores
from perception_encoder.types import Embeddings

RECALL_AT: Final = (1, 5, 10)
_TOP: Final = 5
_Z: Final = 1.959963984540054  # quantile of the normal distribution, 95 % two-sided
_TIE: Final = 1e-6  # float32 cosines that differ by less are equal
_BLOCK_BYTES: Final = 64 << 20  # of scores in memory


@dataclass(frozen=True)
class Share:
    """A share in [0, 1], or the difference of two shares, and the ends of its interval."""

    value: float
    low: float
    high: float


def estimate_share(num_hits: int, count: int) -> Share:
    """Return a share of independent cases with Wilson's score interval.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference" (1927). It
    also holds near 0 and 1 and for few cases.

    Raises:
        ValueError: there are no cases.
    """
    if count < 1:
        raise ValueError("a share of no cases is not defined")
    share = num_hits / count
    square = _Z * _Z / count
    middle = (share + square / 2) / (1 + square)
    reach = _Z * ((share * (1 - share) + square / 4) / count) ** 0.5 / (1 + square)
    # Rounding could leave the share itself outside.
    return Share(share, max(0.0, min(share, middle - reach)), min(1.0, max(share, middle + reach)))


def estimate_mean_share(num_hits: NDArray[np.int64], counts: NDArray[np.int64]) -> Share:
    """Return the mean of the shares of several groups, with a normal interval.

    The variance of a group's share is computed with two more hits and two more misses: A. Agresti
    and B. A. Coull, "Approximate is better than exact for interval estimation of binomial
    proportions" (1998). Otherwise a group of hits only would have no variance, as in a bootstrap:
    for two groups of two cases with a true share of 0.9, bootstrap intervals hold the true mean in
    4 of 10 trials, these in 99 of 100.

    Args:
        num_hits: (G,) hits of each group.
        counts: (G,) cases of each group, at least one.

    Raises:
        ValueError: there are no groups, or one has no cases.
    """
    if not len(counts) or counts.min() < 1:
        raise ValueError("a mean of shares needs groups with at least one case each")
    mean = float((num_hits / counts).mean())
    cautious = (num_hits + 2) / (counts + 4)
    variance = float((cautious * (1 - cautious) / counts).sum()) / len(counts) ** 2
    reach = _Z * variance**0.5
    return Share(mean, max(0.0, mean - reach), min(1.0, mean + reach))


def estimate_difference(num_only_first: int, num_only_second: int, count: int) -> Share:
    """Return the difference of two shares of the same cases.

    Its interval is narrower than those of the two shares suggest, because only cases that are hits
    of one alone count: A. Agresti and Y. Min, "Simple improved confidence intervals for comparing
    matched proportions" (2005).

    Args:
        num_only_first: cases that are hits of the first only.
        num_only_second: cases that are hits of the second only.
        count: all cases.

    Raises:
        ValueError: there are no cases.
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
    """Rank the best right column of each row.

    Args:
        scores: (N, L); they are overwritten.
        right: the right columns of each row, at least one.

    Returns:
        (N,): the number of wrong columns that score at least as high, so 0 is the first rank.
        (N,): the best wrong column.
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
    """Rank the best right candidate of each query by cosine.

    At most 64 MB of cosines are in memory, or one row of them.

    Args:
        queries: (Q, E) float32 of unit length.
        candidates: (C, E) float32 of unit length.
        right: the right candidates of each query, at least one.

    Returns:
        (Q,): the number of wrong candidates that come before it.
    """
    ranks = np.empty(len(queries), np.int64)
    step = max(1, _BLOCK_BYTES // (4 * len(candidates)))
    for start in range(0, len(queries), step):
        block = slice(start, start + step)
        ranks[block], _ = rank_right_columns(queries[block] @ candidates.T, right[block])
    return ranks


@dataclass(frozen=True)
class ClassRecall:
    """A class, the number of its images, and the share of them that got its label."""

    label: str
    num_images: int
    recall: float


@dataclass(frozen=True)
class Confusion:
    """The number of images of a class that got another label."""

    label: str
    taken_for: str
    count: int


@dataclass(frozen=True)
class Accuracy:
    """How good a model is at a set of classes.

    Attributes:
        num_images: number of classified images.
        num_labels: number of labels.
        top1: share of images whose best label is right, with Wilson's interval.
        top5: share of images whose label is among the five best; None for up to five labels.
        mean_recall: mean recall of the classes, each of equal weight; see `estimate_mean_share`.
        classes: the classes that have images, the worst first.
        confusions: the most frequent first.
        is_right: (N,) bool: whether the best label of each image is right.
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
        difference: top-1 of the first minus top-1 of the second, see `estimate_difference`.
        num_only_one: number of images that only the first got right.
        num_only_other: number of images that only the second got right.
    """

    difference: Share
    num_only_one: int
    num_only_other: int


def compare_accuracies(one: Accuracy, other: Accuracy) -> Comparison:
    """Compare two models image by image.

    Raises:
        ValueError: the numbers of images differ.
    """
    if len(one.is_right) != len(other.is_right):
        raise ValueError(
            f"{len(one.is_right)} and {len(other.is_right)} images: measure both models on the "
            "same images"
        )
    num_only_one = int((one.is_right & ~other.is_right).sum())
    num_only_other = int((other.is_right & ~one.is_right).sum())
    difference = estimate_difference(num_only_one, num_only_other, one.num_images)
    return Comparison(difference, num_only_one, num_only_other)


class AccuracyTally:
    """Counts right and wrong labels, block by block.

    Args:
        labels: the labels of the classifier.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = labels
        self._counts = np.zeros(len(labels), np.int64)
        self._hits = np.zeros(len(labels), np.int64)
        self._num_in_top = 0
        self._is_right: list[NDArray[np.bool_]] = []
        self._confusions = Counter[tuple[int, int]]()

    def add(self, found: LabelScores, truth: NDArray[np.int64]) -> None:
        """Count N images.

        Args:
            found: the scores of their labels.
            truth: (N,) the position of the right label of each.
        """
        ranks, others = rank_right_columns(found.scores.copy(), truth[:, None].tolist())
        self._counts += np.bincount(truth, minlength=len(self._labels))
        self._hits += np.bincount(truth[ranks == 0], minlength=len(self._labels))
        self._num_in_top += int((ranks < _TOP).sum())
        self._is_right.append(ranks == 0)
        wrong = ranks > 0
        self._confusions.update(zip(truth[wrong].tolist(), others[wrong].tolist(), strict=True))

    def accuracy(self) -> Accuracy:
        """Return the measures of all images.

        Raises:
            ValueError: there are no images.
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
    """Images and captions that belong together.

    Equal captions are one text, and identical images are one image with the captions of all, so
    that a model does not have to tell them apart.

    Attributes:
        places: the first position of each of P different images.
        texts: T different captions.
        texts_of: the captions of each image, as positions in `texts`.
        images_of: the images of each caption, as positions in `places`.
    """

    places: tuple[int, ...]
    texts: tuple[str, ...]
    texts_of: tuple[tuple[int, ...], ...]
    images_of: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, contents: Sequence[str], captions: Sequence[Sequence[str]]) -> Self:
        """Merge equal images and equal captions.

        Args:
            contents: the SHA-256 of each image, or another name of its content.
            captions: the captions of each image; they are equal if only case and spaces differ.
                Images without captions are left out.
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
        num_images: number of different images.
        num_texts: number of different captions.
        text_to_image: recall by k: the share of captions with one of their images among the first
            k results, with Wilson's interval, which treats captions as independent.
        image_to_text: likewise, the share of images with one of their captions.
    """

    num_images: int
    num_texts: int
    text_to_image: Mapping[int, Share]
    image_to_text: Mapping[int, Share]


def measure_retrieval(pairs: CaptionPairs, images: Embeddings, texts: Embeddings) -> Retrieval:
    """Measure how well captions find their images, and images their captions.

    Args:
        pairs: the images and captions that belong together.
        images: (P, E) float32 of unit length, of `pairs.places`.
        texts: (T, E) float32 of unit length, of `pairs.texts`.

    Raises:
        ValueError: there are no pairs.
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
