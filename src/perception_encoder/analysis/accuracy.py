"""How often zero-shot classification is right, in all and for each class.

Top-1, top-5 and mean per-class recall as CLIP_benchmark computes them (LAION-AI/CLIP_benchmark,
metrics/zeroshot_classification.py), but for ties, which count against the model.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.analysis.measures import (
    Share,
    mean_of_shares,
    paired_difference,
    ranks_in,
    wilson,
)
from perception_encoder.analysis.zero_shot import LabelScores

_TOP: Final = 5


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
            another however many images it has; with the interval of `mean_of_shares`.
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
        difference: by how much the one's top-1 is larger, with the interval of `paired_difference`.
        num_only_one: images that only the one got right.
        num_only_other: images that only the other got right.
    """

    difference: Share
    num_only_one: int
    num_only_other: int


def compare(one: Accuracy, other: Accuracy) -> Comparison:
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
    difference = paired_difference(num_only_one, num_only_other, one.num_images)
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
        ranks, others = ranks_in(found.scores.copy(), truth[:, None].tolist())
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
            top1=wilson(int(hits.sum()), count),
            top5=wilson(self._num_in_top, count) if len(self._labels) > _TOP else None,
            mean_recall=mean_of_shares(hits, counts),
            classes=tuple(sorted(classes, key=lambda one: (one.recall, -one.num_images))),
            confusions=tuple(
                Confusion(self._labels[truth], self._labels[other], times)
                for (truth, other), times in sorted(
                    self._confusions.items(), key=lambda one: (-one[1], one[0])
                )
            ),
            is_right=np.concatenate(self._is_right),
        )
