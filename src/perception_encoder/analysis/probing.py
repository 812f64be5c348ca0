"""Classifiers on top of embeddings that measure a model: a linear probe and nearest neighbors.

The linear probe is that of CLIP (Radford et al., arXiv 2103.00020, A.3): logistic regression by
L-BFGS, its penalty found on a fifth of the training images. Neighbors vote as in DINO's
`eval_knn.py` (Caron et al., arXiv 2104.14294): each of the k nearest with exp(cosine / 0.07).
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.errors import BackendUnavailableError
from perception_encoder.types import Embeddings

_MAX_ROUNDS: Final = 1000  # of L-BFGS, as in CLIP
_VALIDATION: Final = 0.2
_EXPONENTS: Final = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)  # powers of ten that C is tried at
_STEPS: Final = (1.0, 0.5, 0.25, 0.125)  # then around the best, down to eight values a decade
_TEMPERATURE: Final = 0.07
_BLOCK_BYTES: Final = 64 << 20  # of cosines in memory


def probe_linearly(
    embeddings: Embeddings, numbers: NDArray[np.int64], num_labels: int, images: Embeddings
) -> NDArray[np.float32]:
    """Fit a linear probe, and score images by it.

    Args:
        embeddings: (N, E) float32 of unit length, to learn from.
        numbers: (N,) their labels.
        num_labels: L.
        images: (M, E) float32 of unit length.

    Returns:
        (M, L) float32 logits, -inf for labels without examples.

    Raises:
        BackendUnavailableError: scikit-learn is not installed.
        ValueError: there are fewer than two labels with examples.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise BackendUnavailableError(
            "a linear probe needs scikit-learn; install it: pip install 'perception-encoder[teach]'"
        )
    if len(np.unique(numbers)) < 2:
        raise ValueError("a linear probe needs examples of at least two labels")
    learned, held_out = split_examples(numbers)
    accuracy: dict[float, float] = {}

    def measure(exponents: Sequence[float]) -> float:
        """Measure these values of C, and return the exponent of the best one so far."""
        for exponent in exponents:
            if exponent not in accuracy and _EXPONENTS[0] <= exponent <= _EXPONENTS[-1]:
                logits = _fit(embeddings[learned], numbers[learned], num_labels, exponent)(
                    embeddings[held_out]
                )
                accuracy[exponent] = float((logits.argmax(axis=1) == numbers[held_out]).mean())
        best = max(accuracy.values())
        return min((one for one in accuracy if accuracy[one] == best), key=abs)

    exponent = 0.0
    if len(held_out) and len(np.unique(numbers[learned])) > 1:
        exponent = measure(_EXPONENTS)
        for step in _STEPS:
            exponent = measure([exponent - step, exponent + step])
    return _fit(embeddings, numbers, num_labels, exponent)(images)


def vote_by_neighbors(
    embeddings: Embeddings,
    numbers: NDArray[np.int64],
    num_labels: int,
    images: Embeddings,
    k: int = 20,
) -> NDArray[np.float32]:
    """Let the k nearest examples of each image vote for their label.

    Args:
        embeddings: (N, E) float32 of unit length, whose labels are known.
        numbers: (N,) their labels.
        num_labels: L.
        images: (M, E) float32 of unit length.
        k: neighbors; all examples if there are fewer.

    Returns:
        (M, L) float32: the share of votes of each label.

    Raises:
        ValueError: there are no examples, or `k` is below 1.
    """
    if not len(embeddings):
        raise ValueError("nearest neighbors need examples")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    k = min(k, len(embeddings))
    votes = np.zeros((len(images), num_labels), np.float32)
    step = max(1, _BLOCK_BYTES // (4 * len(embeddings)))
    for start in range(0, len(images), step):
        cosines = images[start : start + step] @ embeddings.T
        nearest = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        near = np.take_along_axis(cosines, nearest, axis=1)
        weights = np.exp((near - near.max(axis=1, keepdims=True)) / _TEMPERATURE)
        rows = np.arange(start, start + len(cosines))[:, None]
        np.add.at(votes, (rows, numbers[nearest]), weights / weights.sum(axis=1, keepdims=True))
    return votes


def split_examples(
    numbers: NDArray[np.int64], share: float = _VALIDATION, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions of examples to learn from and of a share to hold out of each label.

    A label's only example is learned from.
    """
    generator = np.random.default_rng(seed)
    held_out = []
    for number in np.unique(numbers):
        places = generator.permutation(np.flatnonzero(numbers == number))
        count = min(round(share * len(places)) or int(len(places) > 1), len(places) - 1)
        held_out.append(places[:count])
    kept = np.concatenate(held_out)
    return np.setdiff1d(np.arange(len(numbers)), kept), np.sort(kept)


def _fit(
    embeddings: Embeddings, numbers: NDArray[np.int64], num_labels: int, exponent: float
) -> Callable[[Embeddings], NDArray[np.float32]]:
    """Return a function from (M, E) embeddings to (M, L) logits."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=10.0**exponent, max_iter=_MAX_ROUNDS)
        model.fit(embeddings, numbers)

    def score(images: Embeddings) -> NDArray[np.float32]:
        found = model.decision_function(images)
        if found.ndim == 1:  # of two labels
            found = np.stack([-found, found], axis=1) / 2
        logits = np.full((len(images), num_labels), -np.inf, np.float32)
        logits[:, model.classes_] = found
        return logits

    return score
