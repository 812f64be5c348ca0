"""A linear classifier that is cross-validated over a whole index: discriminant analysis.

Classes are Gaussians with one covariance (R. A. Fisher 1936; Hastie, Tibshirani and Friedman, "The
Elements of Statistical Learning", section 4.3), which is shrunk toward a multiple of the identity
(J. H. Friedman, "Regularized discriminant analysis", 1989). Each fold keeps its own sums, so that
the classifier for a fold is that of all sums but its own. One pass over the embeddings suffices,
and memory does not grow with their number: F · (E² + K · E) · 8 bytes, 45 MB for five folds,
E = 1024 and 100 classes. `probe` learns from examples that are all in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.analysis.probe import softmax
from perception_encoder.analysis.ranked_images import Numbers
from perception_encoder.types import Embeddings

MAX_CLASSES: Final = 2000
NUM_FOLDS: Final = 5

_SHRINKAGES: Final = (0.02, 0.1, 0.3, 0.6, 0.9)
_TEMPERATURES: Final = np.geomspace(0.25, 64, 25)
_LEAST_VARIANCE: Final = 1e-6
_NO_CLASS: Final = -1e9  # the logit of a class that a fold's classifier has no example of

Probabilities = NDArray[np.float32]


def divide_into_folds(groups: Numbers, num_folds: int = NUM_FOLDS, seed: int = 0) -> Numbers:
    """Return (R,) int64: the fold of each image, from 0.

    Args:
        groups: (R,) int64; images of equal numbers, such as copies, share a fold.
        num_folds: number of folds.
        seed: another seed gives other folds.
    """
    if not len(groups):
        return groups
    order = np.random.default_rng(seed).permutation(int(groups.max()) + 1)
    folds: Numbers = order[groups] % num_folds
    return folds


class DiscriminantSums:
    """The sums of labeled embeddings that classifiers are computed from.

    Args:
        num_classes: K.
        embed_dim: E.
        num_folds: F.

    Raises:
        ValueError: more than `MAX_CLASSES`.
    """

    def __init__(self, num_classes: int, embed_dim: int, num_folds: int = NUM_FOLDS) -> None:
        if num_classes > MAX_CLASSES:
            raise ValueError(f"{num_classes:,} classes, the limit is {MAX_CLASSES:,}")
        self.num_folds: Final = num_folds
        self._counts = np.zeros((num_folds, num_classes))
        self._sums = np.zeros((num_folds, num_classes, embed_dim))
        self._squares = np.zeros((num_folds, embed_dim, embed_dim))

    def add(self, vectors: Embeddings, labels: Numbers, folds: Numbers) -> None:
        """Add labeled embeddings.

        Args:
            vectors: (N, E) float32, unit length.
            labels: (N,) int64, from 0 to K - 1.
            folds: (N,) int64, from 0 to F - 1.
        """
        for fold in range(self.num_folds):
            rows = vectors[folds == fold]
            own = labels[folds == fold]
            np.add.at(self._sums[fold], own, rows)
            self._counts[fold] += np.bincount(own, minlength=self._counts.shape[1])
            self._squares[fold] += rows.T @ rows

    def fit(self, vectors: Embeddings, labels: Numbers, folds: Numbers) -> Discriminant:
        """Compute the classifiers, with the shrinkage and temperature that predict a sample best.

        Args:
            vectors: (S, E) float32, a sample of the embeddings that were added.
            labels: (S,) int64, their labels.
            folds: (S,) int64, their folds: each is predicted by the classifier without its fold.
        """
        spectra = [self._spectrum(fold) for fold in (*range(self.num_folds), None)]
        best: tuple[float, Discriminant] | None = None
        for shrinkage in _SHRINKAGES:
            weights, biases = zip(*(one.discriminants(shrinkage) for one in spectra), strict=True)
            found = Discriminant(np.stack(weights), np.stack(biases), 1.0, shrinkage)
            logits = found.logits(vectors, folds)
            losses = [_log_loss(logits / value, labels) for value in _TEMPERATURES]
            place = int(np.argmin(losses))
            if best is None or losses[place] < best[0]:
                tempered = Discriminant(
                    found.weights, found.biases, float(_TEMPERATURES[place]), shrinkage
                )
                best = losses[place], tempered
        assert best is not None
        return best[1]

    def _spectrum(self, left_out: int | None) -> _Spectrum:
        kept = [fold for fold in range(self.num_folds) if fold != left_out]
        counts, sums = self._counts[kept].sum(axis=0), self._sums[kept].sum(axis=0)
        means = sums / np.maximum(counts, 1)[:, None]
        scatter = self._squares[kept].sum(axis=0) - sums.T @ means
        degrees = max(1.0, counts.sum() - np.count_nonzero(counts))
        values, directions = np.linalg.eigh(scatter / degrees)
        return _Spectrum(counts, means @ directions, np.maximum(values, 0), directions)


@dataclass(frozen=True)
class _Spectrum:
    """Class counts (K,), means (K, E) along the axes of the covariance, variances (E,), axes."""

    counts: NDArray[np.float64]
    means: NDArray[np.float64]
    variances: NDArray[np.float64]
    directions: NDArray[np.float64]

    def discriminants(self, shrinkage: float) -> tuple[Embeddings, Probabilities]:
        """Return (K, E) and (K,) float32: weights and biases of the classes' logits."""
        mean = max(float(self.variances.mean()), _LEAST_VARIANCE)
        scaled = self.means / ((1 - shrinkage) * self.variances + shrinkage * mean)
        priors = (self.counts + 1) / (self.counts.sum() + len(self.counts))
        biases = np.log(priors) - (scaled * self.means).sum(axis=1) / 2
        biases[self.counts == 0] = _NO_CLASS
        return (scaled @ self.directions.T).astype(np.float32), biases.astype(np.float32)


@dataclass(frozen=True)
class Discriminant:
    """Linear classifiers, one for each fold and one of all examples.

    Attributes:
        weights: (F + 1, K, E) float32.
        biases: (F + 1, K) float32.
        temperature: divides the logits.
        shrinkage: of the covariance, from 0 to 1.
    """

    weights: Embeddings
    biases: Probabilities
    temperature: float
    shrinkage: float

    def logits(self, vectors: Embeddings, folds: Numbers | None = None) -> Probabilities:
        """Return (N, K) float32, see `predict`."""
        if folds is None:
            folds = np.full(len(vectors), len(self.weights) - 1)
        found = np.empty((len(vectors), self.weights.shape[1]), np.float32)
        for fold in np.unique(folds).tolist():
            rows = folds == fold
            found[rows] = vectors[rows] @ self.weights[fold].T + self.biases[fold]
        return found / np.float32(self.temperature)

    def predict(self, vectors: Embeddings, folds: Numbers | None = None) -> Probabilities:
        """Return (N, K) float32: the probabilities of the classes; rows sum to 1.

        Args:
            vectors: (N, E) float32, unit length.
            folds: (N,) int64: the fold of each, whose examples did not train its classifier; None
                takes the classifier of all examples, for images without a label.
        """
        return softmax(self.logits(vectors, folds))


def _log_loss(logits: Probabilities, labels: Numbers) -> float:
    highest = logits.max(axis=1)
    totals = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))
    return float((totals - logits[np.arange(len(labels)), labels]).mean())
