"""Images of one split that are copies or near-duplicates of images of another: leaks.

A model that is tested on images that it was trained on looks better than it is (B. Barz and J.
Denzler, "Do we train on test data? Purging CIFAR of near-duplicates", Journal of Imaging 6, 2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.analysis.cleaning.classes import Groups
from perception_encoder.analysis.near_pairs import NearPairs, find_near_pairs, find_star_cover
from perception_encoder.analysis.ranked_images import Numbers, RankedImages, ReportStep
from perception_encoder.index import Index

_TRAIN: Final = "train"


@dataclass(frozen=True)
class Leaks:
    """Images of one split with a near-duplicate in another.

    Attributes:
        numbers: (P,) int64: the images, each once: of a pair the one that is not of `train`, or the
            one of the smaller split. The most similar pairs come first.
        others: (P,) int64: the most similar image of another split.
        scores: (P,) float32: the cosine of the two.
        num_copies: the number of redundant images with identical bytes, in all splits.
        num_near: the number of further redundant images.
        num_crowded: images with more near images than were compared.
    """

    numbers: Numbers
    others: Numbers
    scores: NDArray[np.float32]
    num_copies: int
    num_near: int
    num_crowded: int


def find_leaks(
    index: Index,
    images: RankedImages,
    splits: Groups,
    *,
    threshold: float,
    where: str | None,
    report: ReportStep,
) -> Leaks:
    """Find near-duplicates across splits, and count those of the whole index.

    Time and memory are those of `find_near_pairs`.

    Args:
        index: the index.
        images: its images.
        splits: of the images; images without one leak nothing.
        threshold: the lowest cosine of a near-duplicate.
        where: the condition that `images` was made with.
        report: called between blocks.
    """
    is_copy = images.contents != np.arange(len(images))
    # Copies of one split are compared once; each split keeps one of each content.
    place = images.contents * (len(splits.names) + 1) + splits.numbers + 1
    compared = np.sort(np.unique(place, return_index=True)[1])
    pairs = find_near_pairs(
        index, images, compared, threshold=threshold, where=where, report=report
    )
    cover = find_star_cover(pairs.earlier, pairs.later, pairs.scores, len(images), report)
    is_redundant = is_copy | (cover.kept != np.arange(len(images)))
    numbers, others, scores = _crossing(pairs, splits)
    return Leaks(
        numbers=numbers,
        others=others,
        scores=scores,
        num_copies=int(is_copy.sum()),
        num_near=int((is_redundant & ~is_copy).sum()),
        num_crowded=int(pairs.is_crowded.sum()),
    )


def _crossing(pairs: NearPairs, splits: Groups) -> tuple[Numbers, Numbers, NDArray[np.float32]]:
    """Return the image to report of each pair across splits, its partner and their cosine."""
    first, second = splits.numbers[pairs.earlier], splits.numbers[pairs.later]
    crosses = (first >= 0) & (second >= 0) & (first != second)
    earlier, later, scores = pairs.earlier[crosses], pairs.later[crosses], pairs.scores[crosses]
    ranks = _rank(splits)
    swaps = ranks[first[crosses]] < ranks[second[crosses]]
    numbers, others = np.where(swaps, earlier, later), np.where(swaps, later, earlier)
    order = np.lexsort((others, -scores, numbers))  # of each image the best pair first
    numbers, others, scores = numbers[order], others[order], scores[order]
    is_best = np.ones(len(numbers), np.bool_)
    is_best[1:] = numbers[1:] != numbers[:-1]
    numbers, others, scores = numbers[is_best], others[is_best], scores[is_best]
    order = np.lexsort((numbers, -scores))
    return numbers[order], others[order], scores[order]


def _rank(splits: Groups) -> Numbers:
    """Return (G,) int64: the larger a split's rank, the rather its images are to be kept."""
    ranks = np.argsort(np.argsort(splits.counts(), kind="stable"), kind="stable")
    return np.where([name == _TRAIN for name in splits.names], len(ranks), ranks)
