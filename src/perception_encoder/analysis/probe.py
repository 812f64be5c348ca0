"""Linear probes: what embeddings say of labels, learned from examples and cross-validated.

A probe is a matrix and a bias, whatever it was learned by: means of the examples where there are
few, logistic regression (scikit-learn) from `FEWEST_FOR_REGRESSION` examples of a label on. The
choice, the penalty and the weight of prompts were measured (`benchmarks/few_shot.py`).

Cross-validation keeps copies together: an image whose near-duplicate was learned from would be
recognized, not classified.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_encoder.errors import BackendUnavailableError
from perception_encoder.types import Embeddings
from perception_encoder.vectors import normalize_rows

Targets: TypeAlias = NDArray[np.bool_]
"""(N, L): which labels each example has."""

Groups: TypeAlias = NDArray[np.int64]
"""(N,): examples with one number are copies of each other."""

FEWEST_FOR_REGRESSION: Final = 5
"""Examples of a label (the median of all labels) from which on a regression is fitted."""

NUM_FOLDS: Final = 5
COPY: Final = 0.98
"""The cosine from which on two examples are copies: that of near-duplicates in `pe duplicates`."""

PROMPT_WEIGHT: Final = 1.0
"""Examples that the text of a label counts as."""

_PENALTY: Final = 3.0  # C of scikit-learn, for embeddings of mean square 1 around their mean
_MAX_ROUNDS: Final = 300
_MEANS_SCALE: Final = 20.0  # of cosines with means, before the temperature is known
_BLOCK: Final = 2048  # examples; a block of products takes 16 MB
_NEVER: Final = -np.inf  # the logit of a label that was not learned


@dataclass(frozen=True)
class Probe:
    """A linear classifier of embeddings.

    Attributes:
        weights: (L, E) float32.
        biases: (L,) float32; -inf for labels without examples.
    """

    weights: NDArray[np.float32]
    biases: NDArray[np.float32]

    def logits(self, embeddings: Embeddings) -> NDArray[np.float32]:
        """Return (N, L) float32 for (N, E) embeddings of any length."""
        rows = normalize_rows(np.asarray(embeddings, np.float32))
        return np.asarray(rows @ self.weights.T + self.biases, np.float32)


@dataclass(frozen=True)
class CrossValidation:
    """What probes say of examples that they did not learn from.

    Attributes:
        labels: L labels.
        logits: (N, L) float32; -inf for a label that had no examples in the other folds.
        probabilities: (N, L) float32: softmax of the logits; rows sum to 1.
        folds: (N,) int64, the fold that each example was held out in.
        groups: (N,) int64, see `Groups`.
    """

    labels: tuple[str, ...]
    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    folds: NDArray[np.int64]
    groups: Groups


def cross_validate(
    embeddings: Embeddings,
    labels: Sequence[str],
    *,
    groups: Groups | None = None,
    num_folds: int = NUM_FOLDS,
    seed: int = 0,
) -> CrossValidation:
    """Predict the label of each example by a probe of the other folds.

    A label whose examples are all copies of one image cannot be predicted: its probability is 0
    where it is right.

    Args:
        embeddings: (N, E) float of any length.
        labels: N labels.
        groups: copies, which share a fold; None finds near-duplicates with `find_copies`.
        num_folds: at least 2; there are fewer folds if there are fewer groups.
        seed: of the folds.

    Raises:
        BackendUnavailableError: scikit-learn is not installed, and is needed.
        ValueError: fewer than two labels or groups, or another number of labels than embeddings.
    """
    if len(labels) != len(embeddings):
        raise ValueError(f"{len(labels)} labels for {len(embeddings)} embeddings")
    names = tuple(sorted(set(labels)))
    if len(names) < 2:
        raise ValueError(f"cross-validation needs at least two labels, got {len(names)}")
    numbers = np.searchsorted(np.array(names), np.array(list(labels)))
    targets = numbers[:, None] == np.arange(len(names))
    if groups is None:
        groups = find_copies(embeddings)
    folds = assign_folds(targets, groups, num_folds, seed)
    logits = predict_held_out(embeddings, targets, folds)
    return CrossValidation(names, logits, softmax(logits), folds, groups)


def predict_held_out(
    embeddings: Embeddings,
    targets: Targets,
    folds: NDArray[np.int64],
    *,
    prompts: Embeddings | None = None,
    is_multi_label: bool = False,
) -> NDArray[np.float32]:
    """Return (N, L) logits of each example by a probe of the other folds; see `fit_probe`."""
    logits = np.full(targets.shape, _NEVER, np.float32)
    by_regression = has_enough_for_regression(targets)  # the probe of all examples is of one kind
    for fold in np.unique(folds):
        held_out = folds == fold
        probe = fit_probe(
            embeddings[~held_out],
            targets[~held_out],
            prompts=prompts,
            is_multi_label=is_multi_label,
            by_regression=by_regression,
        )
        logits[held_out] = probe.logits(embeddings[held_out])
    return logits


def assign_folds(
    targets: Targets, groups: Groups, num_folds: int = NUM_FOLDS, seed: int = 0
) -> NDArray[np.int64]:
    """Divide examples into folds with about equal numbers of each label; groups stay together.

    Args:
        targets: (N, L).
        groups: (N,).
        num_folds: at least 2.
        seed: of the order of equally large groups.

    Returns:
        (N,) int64.

    Raises:
        ValueError: fewer than two folds or groups.
    """
    names, numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    num_folds = min(num_folds, len(names))
    if num_folds < 2:
        raise ValueError("cross-validation needs at least two folds of examples that differ")
    counts = np.zeros((len(names), targets.shape[1]), np.int64)
    np.add.at(counts, numbers, targets)
    loads = np.zeros((num_folds, targets.shape[1]), np.float64)
    totals = np.zeros(num_folds, np.int64)
    rarity = 1 / np.maximum(targets.sum(axis=0), 1)
    folds = np.empty(len(names), np.int64)
    order = np.random.default_rng(seed).permutation(len(names))
    for group in order[np.argsort(-sizes[order], kind="stable")].tolist():
        load = loads @ (rarity * (counts[group] > 0))  # of the labels of this group
        fold = int(np.lexsort((totals, load))[0])
        folds[group] = fold
        loads[fold] += counts[group]
        totals[fold] += sizes[group]
    return np.asarray(folds[numbers], np.int64)


def find_copies(embeddings: Embeddings, contents: Sequence[str | None] | None = None) -> Groups:
    """Group examples that show the same: by near embeddings, and by equal content.

    All pairs are compared: 100,000 embeddings of E = 512 take minutes.

    Args:
        embeddings: (N, E) float of any length.
        contents: the SHA-256 of each file, or None.

    Returns:
        (N,) int64: the position of the first example of its group.
    """
    rows = normalize_rows(np.asarray(embeddings, np.float32))
    first = np.arange(len(rows))

    def find(number: int) -> int:
        while first[number] != number:
            first[number] = first[first[number]]
            number = int(first[number])
        return number

    def join(one: int, other: int) -> None:
        low, high = sorted((find(one), find(other)))
        first[high] = low

    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        for other in range(0, start + 1, _BLOCK):
            near = np.argwhere(block @ rows[other : other + _BLOCK].T >= COPY)
            for one, two in near[near[:, 0] + start > near[:, 1] + other].tolist():
                join(start + one, other + two)
    known: dict[str, int] = {}
    for number, content in enumerate(() if contents is None else contents):
        if content is not None:
            join(known.setdefault(content, number), number)
    return np.array([find(number) for number in range(len(rows))], np.int64)


def fit_probe(
    embeddings: Embeddings,
    targets: Targets,
    *,
    prompts: Embeddings | None = None,
    is_multi_label: bool = False,
    by_regression: bool | None = None,
) -> Probe:
    """Learn labels from examples.

    Args:
        embeddings: (N, E) float of any length.
        targets: (N, L). Without `is_multi_label` each example has one label.
        prompts: (P, E), the text embeddings of the first P labels; None learns from images alone.
        is_multi_label: Each label is a question of its own; an example may have none.
        by_regression: fit a logistic regression, or take means; None decides by
            `has_enough_for_regression`.

    Raises:
        BackendUnavailableError: scikit-learn is not installed, and is needed.
    """
    rows = normalize_rows(np.asarray(embeddings, np.float32))
    if by_regression is None:
        by_regression = has_enough_for_regression(targets)
    weights = np.ones(len(rows), np.float32)
    if prompts is not None:
        rows, targets, weights = _with_prompts(rows, targets, prompts)
    fit = _fit_regression if by_regression else _fit_means
    if not is_multi_label:
        return fit(rows, targets, weights)
    return _join([fit(rows, _as_pair(one), weights) for one in targets.T])


def has_enough_for_regression(targets: Targets) -> bool:
    """Whether the median label has `FEWEST_FOR_REGRESSION` examples."""
    counts = targets.sum(axis=0)
    return bool(counts.any()) and bool(np.median(counts[counts > 0]) >= FEWEST_FOR_REGRESSION)


def _with_prompts(
    rows: Embeddings, targets: Targets, prompts: Embeddings
) -> tuple[Embeddings, Targets, NDArray[np.float32]]:
    """Add the prompt of each label as an example of it.

    Texts are learned from as if they were images: Lin et al., "Multimodality helps unimodality:
    cross-modal few-shot learning with multimodal models", CVPR 2023. Texts and images lie in
    different parts of the space, so the prompts are moved to the middle of the examples.
    """
    texts = normalize_rows(np.asarray(prompts, np.float32))
    means = [rows[column].mean(axis=0) for column in targets.T if column.any()]
    moved = texts - texts.mean(axis=0) + np.mean(means, axis=0)
    weights = np.ones(len(rows) + len(texts), np.float32)
    weights[len(rows) :] = PROMPT_WEIGHT
    return (
        np.concatenate([rows, moved]),
        np.concatenate([targets, np.eye(len(texts), targets.shape[1], dtype=np.bool_)]),
        weights,
    )


def _fit_means(rows: Embeddings, targets: Targets, weights: NDArray[np.float32]) -> Probe:
    """Compare with the mean of each label's examples."""
    known = targets.any(axis=0)
    means = np.stack([weights[column] @ rows[column] for column in targets.T])
    scaled = (_MEANS_SCALE * normalize_rows(means)).astype(np.float32)
    return Probe(scaled, np.where(known, 0, _NEVER).astype(np.float32))


def _fit_regression(rows: Embeddings, targets: Targets, weights: NDArray[np.float32]) -> Probe:
    """Fit a logistic regression; rows are centered and scaled first, as its penalty expects."""
    known = np.flatnonzero(targets.any(axis=0))
    heads = np.zeros((targets.shape[1], rows.shape[1]), np.float32)
    biases = np.full(targets.shape[1], _NEVER, np.float32)
    if len(known) == 1:
        biases[known] = 0
        return Probe(heads, biases)
    middle = rows.mean(axis=0)
    spread = float(np.sqrt(np.square(rows - middle).sum(axis=1).mean())) or 1.0
    regression = _new_regression()
    regression.fit((rows - middle) / spread, targets.argmax(axis=1), sample_weight=weights)
    found, offsets = regression.coef_, regression.intercept_
    if len(known) == 2:  # one row says how much the second label is likelier
        found, offsets = (
            np.concatenate([-found, found]) / 2,
            np.concatenate([-offsets, offsets]) / 2,
        )
    heads[known] = found / spread
    biases[known] = offsets - heads[known] @ middle
    return Probe(heads, biases)


def _new_regression() -> Any:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as err:
        raise BackendUnavailableError(
            f"learning from {FEWEST_FOR_REGRESSION} or more examples of a label needs "
            "scikit-learn; install it with: pip install 'perception-encoder[teach]'"
        ) from err
    return LogisticRegression(C=_PENALTY, max_iter=_MAX_ROUNDS)


def _as_pair(has_label: NDArray[np.bool_]) -> Targets:
    """Return (N, 2): those without a label, and those with it."""
    return np.stack([~has_label, has_label], axis=1)


def _join(pairs: Sequence[Probe]) -> Probe:
    """Join yes-or-no probes of each label; the sigmoid of a logit is the probability."""
    weights = np.stack([pair.weights[1] - pair.weights[0] for pair in pairs])
    # A label that all or none of the examples have is always, or never, there.
    biases = np.array([pair.biases[1] - pair.biases[0] for pair in pairs], np.float32)
    return Probe(weights, biases)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities of each row that sum to 1; a row of -inf only is uniform."""
    highest = logits.max(axis=1, keepdims=True)
    powers = np.exp(logits - np.where(np.isfinite(highest), highest, 0))
    powers += ~np.isfinite(highest)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)
