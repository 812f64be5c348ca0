"""Labels that are likely wrong, by confident learning.

C. Northcutt, L. Jiang and I. Chuang, "Confident learning: estimating uncertainty in dataset labels"
(Journal of Artificial Intelligence Research 70, 2021): a class's threshold is the mean probability
of that class among the images with its label; an image is confidently of another class if it passes
that class's threshold with its highest probability. Probabilities are out of sample: a mean of
those of a cross-validated probe and of the votes of the nearest neighbors, weighted so that the
labels of a sample are the most probable.

A label is reported where the image is confidently of another class, or where that class is more
probable by `SURE`, which the images of a class that is easily told need not pass its threshold for.
Both the probe and the neighbors must prefer that class (what this gains and costs:
`benchmarks/cleaning.py`). Of each image the `_NUM_KEPT` most probable classes are kept, 60 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.analysis.cleaning.neighbors import Neighbors
from perception_encoder.analysis.discriminant import DiscriminantSums, divide_into_folds
from perception_encoder.analysis.ranked_images import Numbers, RankedVectors

LEAST_IMAGES: Final = 4
"""The images that a class needs, so that its labels can be judged."""

SURE: Final = 0.6
"""A difference of probabilities that suffices for a report."""

_NUM_KEPT: Final = 5
_WEIGHTS: Final = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)  # of the probe; the rest is the votes'
_MAX_SAMPLE: Final = 8192
_PRIOR_VOTES: Final = 1.0  # of all classes together, by their size
_BLOCK_BYTES: Final = 16 << 20  # of probabilities in memory
_SEED: Final = 0
_TINY: Final = 1e-6


@dataclass(frozen=True)
class WrongLabels:
    """Labels that are likely wrong.

    Attributes:
        numbers: the images, the most certain first.
        suggested: (W,) int64, the class that fits each image better.
        margins: (W,) float32: the probability of that class minus that of the label, from 0 to 1.
        num_judged: number of images whose labels were judged.
        estimated: the number of wrong labels that confident learning estimates.
    """

    numbers: Numbers
    suggested: Numbers
    margins: NDArray[np.float32]
    num_judged: int
    estimated: int


def find_wrong_labels(
    vectors: RankedVectors, labels: Numbers, copies: Numbers, neighbors: Neighbors
) -> WrongLabels:
    """Find labels that the other images of the index contradict; three passes over it.

    Args:
        vectors: reads the embeddings.
        labels: (R,) int64, the class of each image; -1 for none.
        copies: (R,) int64, equal for images of the same content, which share a fold.
        neighbors: of all images.

    Returns:
        Nothing is judged where fewer than two classes have `LEAST_IMAGES`.
    """
    counts = np.bincount(labels[labels >= 0], minlength=1)
    is_usable = counts >= LEAST_IMAGES
    judged = np.flatnonzero((labels >= 0) & is_usable[labels])
    if np.count_nonzero(is_usable) < 2:
        nothing = np.empty(0, np.int64)
        return WrongLabels(nothing, nothing, np.empty(0, np.float32), 0, 0)
    classes = np.flatnonzero(is_usable)
    own = np.full(len(labels), -1, np.int64)
    own[judged] = np.searchsorted(classes, labels[judged])
    folds = divide_into_folds(copies, seed=_SEED)
    scores = _score(vectors, judged, own, folds, neighbors, len(classes))
    return scores.wrong_labels(judged, own[judged], classes)


@dataclass(frozen=True)
class _Scores:
    """Probabilities of J judged images.

    Attributes:
        given: (J,) float32, of the label.
        top: (J, T) int64, the most probable classes, best first.
        probabilities: (J, T) float32, of these.
        agrees: (J, T) bool: whether both the probe and the neighbors prefer each to the label.
    """

    given: NDArray[np.float32]
    top: Numbers
    probabilities: NDArray[np.float32]
    agrees: NDArray[np.bool_]

    def wrong_labels(self, judged: Numbers, labels: Numbers, classes: Numbers) -> WrongLabels:
        num_classes = len(classes)
        thresholds = np.bincount(labels, self.given, num_classes) / np.bincount(
            labels, minlength=num_classes
        )
        confident = np.where(
            self.probabilities >= thresholds[self.top], self.probabilities, -np.inf
        )
        best = confident.argmax(axis=1)
        rows = np.arange(len(judged))
        is_confident = np.isfinite(confident[rows, best])
        guessed = self.top[rows, best]
        # Where no class is confident, or only the label is, the most probable one may be sure.
        is_sure = self.probabilities[:, 0] - self.given >= SURE
        chosen = np.where(is_confident & (guessed != labels), best, 0)
        is_other = (is_confident & (guessed != labels)) | is_sure
        found = np.flatnonzero(is_other & self.agrees[rows, chosen])
        margins = self.probabilities[found, chosen[found]] - self.given[found]
        order = np.lexsort((found, -margins))
        return WrongLabels(
            numbers=judged[found[order]],
            suggested=classes[self.top[found, chosen[found]][order]],
            margins=margins[order].astype(np.float32),
            num_judged=len(judged),
            estimated=_estimate(labels, guessed, is_confident, num_classes),
        )


def _estimate(
    labels: Numbers, guessed: Numbers, is_confident: NDArray[np.bool_], num_classes: int
) -> int:
    """Return the number of wrong labels by the calibrated confident joint."""
    counts = np.bincount(labels, minlength=num_classes)
    confident = np.bincount(labels[is_confident], minlength=num_classes)
    is_wrong = is_confident & (guessed != labels)
    wrong = np.bincount(labels[is_wrong], minlength=num_classes)
    return round(float((counts * wrong / np.maximum(confident, 1)).sum()))


def _score(
    vectors: RankedVectors,
    judged: Numbers,
    labels: Numbers,
    folds: Numbers,
    neighbors: Neighbors,
    num_classes: int,
) -> _Scores:
    sums = DiscriminantSums(num_classes, vectors.embed_dim)
    for numbers, block in vectors.blocks(judged):
        sums.add(block, labels[numbers], folds[numbers])
    sample = judged
    if len(judged) > _MAX_SAMPLE:
        random = np.random.default_rng(_SEED)
        sample = np.sort(random.choice(judged, _MAX_SAMPLE, replace=False))
    embeddings = vectors.read(sample)
    probe = sums.fit(embeddings, labels[sample], folds[sample])
    shares = np.bincount(labels[judged], minlength=num_classes) / len(judged)
    weight = _choose_weight(
        probe.predict(embeddings, folds[sample])[np.arange(len(sample)), labels[sample]],
        _vote(neighbors.numbers[sample], labels, shares)[np.arange(len(sample)), labels[sample]],
    )
    places = np.full(len(labels), -1, np.int64)
    places[judged] = np.arange(len(judged))
    num_kept = min(_NUM_KEPT, num_classes)
    scores = _Scores(
        np.empty(len(judged), np.float32),
        np.empty((len(judged), num_kept), np.int64),
        np.empty((len(judged), num_kept), np.float32),
        np.empty((len(judged), num_kept), np.bool_),
    )
    step = max(1, _BLOCK_BYTES // (4 * num_classes))
    for block_numbers, block in vectors.blocks(judged):
        for start in range(0, len(block), step):
            numbers = block_numbers[start : start + step]
            probed = probe.predict(block[start : start + step], folds[numbers])
            voted = _vote(neighbors.numbers[numbers], labels, shares)
            mean = weight * probed + (1 - weight) * voted
            _note(scores, places[numbers], labels[numbers], mean, (probed, voted))
    return scores


def _choose_weight(probed: NDArray[np.float32], voted: NDArray[np.float32]) -> np.float32:
    """Return the weight of the probe, given (S,) probabilities of the labels by it and by votes."""
    losses = [-np.log(weight * probed + (1 - weight) * voted + _TINY).mean() for weight in _WEIGHTS]
    return np.float32(_WEIGHTS[int(np.argmin(losses))])


def _vote(near: Numbers, labels: Numbers, shares: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return (N, K) float32: the share of each class among the neighbors, smoothed by its size."""
    votes = np.tile((_PRIOR_VOTES * shares).astype(np.float32), (len(near), 1))
    rows, columns = np.nonzero((near >= 0) & (labels[near] >= 0))
    np.add.at(votes, (rows, labels[near[rows, columns]]), 1)
    return np.asarray(votes / votes.sum(axis=1, keepdims=True), np.float32)


def _note(
    scores: _Scores,
    places: Numbers,
    labels: Numbers,
    mean: NDArray[np.float32],
    opinions: Sequence[NDArray[np.float32]],
) -> None:
    rows = np.arange(len(labels))[:, None]
    num_kept = scores.top.shape[1]
    top = np.argpartition(-mean, num_kept - 1, axis=1)[:, :num_kept]
    top = np.take_along_axis(top, np.argsort(-mean[rows, top], axis=1, kind="stable"), axis=1)
    scores.given[places] = mean[rows[:, 0], labels]
    scores.top[places] = top
    scores.probabilities[places] = mean[rows, top]
    given = labels[:, None]
    scores.agrees[places] = np.all([one[rows, top] > one[rows, given] for one in opinions], axis=0)
