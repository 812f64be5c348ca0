"""Labels the hits of a search: strong, weak, or none (nothing like it in the index).

A cosine depends on the model, on the size of the index, and on whether the query is a text or an
image. So a hit is compared with the best hits of other queries in the same index:

- For texts, these are prompts for things that almost no collection has. A hit is strong if 95 % of
  the prompts have no hit as good, and weak if half of them have none.
- For images, these are images of the index, most of which have similar ones there. A hit is strong
  if it is as near as the nearest neighbor of half of them, and weak if it is as near as that of all
  but 5 %.
- For sums, these are sums of the same form, of prompts and images.

The labels of classified images are compared with the same prompts, see `fit_labels`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_encoder.index import Index
from perception_encoder.index.storage import is_remote
from perception_encoder.search.null_distribution import (
    NUM_QUERIES,
    SAME,
    NullDistribution,
    embed_prompts,
    is_outdated,
    load_null_distribution,
    store_null_distribution,
)
from perception_encoder.search.queries import Query
from perception_encoder.types import Embeddings
from perception_encoder.vectors import normalize_rows

if TYPE_CHECKING:
    from perception_encoder.embedder import EmbeddingModel

Label: TypeAlias = Literal["strong", "weak", "none"]
"""How well a hit fits; "none" means that the index has nothing like the query."""

_Form: TypeAlias = tuple[tuple[bool, float], ...]
"""For each term of a query: whether it is a text, and its weight."""

_TEXT_LEVELS: Final = (0.95, 0.5)  # quantiles of the null distribution: strong, weak
_IMAGE_LEVELS: Final = (0.5, 0.05)
_LABEL_LEVELS: Final = (0.99, 0.95)
_FEWEST_ROWS: Final = 20  # a smaller index is not calibrated


@dataclass(frozen=True, slots=True)
class Cutoffs:
    """The lowest cosines of strong and of weak hits of a query."""

    strong: float
    weak: float

    def label(self, score: float) -> Label:
        """Return the label of a hit with that cosine."""
        return "strong" if score >= self.strong else "weak" if score >= self.weak else "none"


def _quantiles(scores: NDArray[np.floating[Any]], levels: Sequence[float]) -> NDArray[np.float64]:
    """As np.quantile, which takes 30 ms to import."""
    ordered = np.sort(scores)
    return np.interp(np.multiply(levels, len(ordered) - 1), np.arange(len(ordered)), ordered)


class Calibration:
    """The cutoffs of queries in one index."""

    def __init__(self, null_distribution: NullDistribution) -> None:
        self._null = null_distribution
        self._known: dict[_Form, Cutoffs] = {}

    def cutoffs(self, query: Query) -> Cutoffs:
        """Return the cutoffs of a query; queries of one form have the same."""
        form = tuple((term.kind == "text", term.weight) for term in query.terms)
        if form not in self._known:
            self._known[form] = self._compute(form, is_image=query.is_image)
        return self._known[form]

    def _compute(self, form: _Form, *, is_image: bool) -> Cutoffs:
        null = self._null
        levels = _IMAGE_LEVELS if is_image else _TEXT_LEVELS
        scores = null.image_scores if is_image else null.prompt_scores
        assert scores is not None  # `calibrate` has embedded prompts if they are needed
        found = _quantiles(scores, levels)
        if len(form) > 1 or form[0][1] <= 0:
            # Sums are searched for in the sample. What the rest of the index adds to a best hit is
            # estimated from single queries, which were searched for in both.
            single = self._best_in_sample(((not is_image, 1.0),))
            found += _quantiles(self._best_in_sample(form), levels) - _quantiles(single, levels)
        return Cutoffs(float(found[0]), float(found[1]))

    def _best_in_sample(self, form: _Form) -> NDArray[np.float32]:
        """Search the sample for sums of prompts and images.

        Returns:
            (NUM_QUERIES,) float32: the cosine of the best hit of each sum that is no near-duplicate
            of an image in it.
        """
        null = self._null
        sample = null.sample.astype(np.float32)  # (R, E)
        total = np.zeros((NUM_QUERIES, sample.shape[1]), np.float32)
        left_out = np.zeros((NUM_QUERIES, len(sample)), bool)
        generator = np.random.default_rng(0)  # draws the terms of each sum
        for is_text, weight in form:
            if is_text:
                assert null.prompts is not None
                part = generator.permutation(null.prompts)
            else:
                part = generator.permutation(sample[np.resize(null.images, NUM_QUERIES)])
                left_out |= part @ sample.T >= SAME
            total += np.float32(weight) * part
        scores = normalize_rows(total) @ sample.T
        best: NDArray[np.float32] = np.where(left_out, -1.0, scores).max(axis=1)
        return np.where(left_out.all(axis=1), SAME, best).astype(np.float32)


def fit_labels(
    scores: NDArray[np.float32], images: Embeddings, prompts: Embeddings
) -> list[list[Label]]:
    """Say how well each label fits each image; a softmax only compares labels with each other.

    A label is strong if its cosine is higher than that of 99 % of unrelated prompts with the same
    image, and weak if it is higher than that of 95 %. In the bundled gallery, 95 % of the images'
    own names are strong, and 3 % of the names of other images.

    Args:
        scores: (N, L) float32, cosines of N images with L labels.
        images: (N, E) float32, unit length.
        prompts: (P, E) float32, unit length, from `embed_prompts`.

    Returns:
        (N, L) labels.
    """
    null = np.sort(images @ prompts.T, axis=1)  # (N, P)
    strong, weak = (
        null[:, [min(int(level * null.shape[1]), null.shape[1] - 1)]] for level in _LABEL_LEVELS
    )
    names: list[list[Label]] = np.where(
        scores >= strong, "strong", np.where(scores >= weak, "weak", "none")
    ).tolist()
    return names


def can_be_calibrated(index: Index) -> bool:
    """Whether the index has enough images."""
    return index.count() >= _FEWEST_ROWS


def is_calibrated_by_writers(index: Index) -> bool:
    """Whether only programs that write to the index calibrate it: in a bucket.

    Searching would write to it, and to compute it anew for each reader takes too long.
    """
    return is_remote(index.path)


def read_calibration(index: Index, queries: Sequence[Query]) -> Calibration | None:
    """Return the stored calibration of an index, if it is up to date and fits the queries."""
    null = load_null_distribution(index)
    if null is None or is_outdated(null, index.count()):
        return None
    if null.prompts is None and any(map(_needs_prompts, queries)):
        return None
    return Calibration(null)


def ensure_calibration(
    index: Index,
    queries: Sequence[Query],
    open_model: Callable[[], EmbeddingModel],
    *,
    on_calibrate: Callable[[], object] = lambda: None,
) -> Calibration | None:
    """Return the calibration for some queries; it is computed and stored if there is none yet.

    Args:
        index: the index.
        queries: that it will be used for.
        open_model: as in `calibrate`.
        on_calibrate: called before it is computed.

    Returns:
        None where the index cannot be calibrated, see `can_be_calibrated`; for queries of images
        that need prompts, where the model reads no text; or where only writers calibrate, and have
        not yet.
    """
    if not can_be_calibrated(index):
        return None
    calibration = read_calibration(index, queries)
    if calibration is None and not is_calibrated_by_writers(index):
        has_text = any(term.kind == "text" for query in queries for term in query.terms)
        needs_prompts = any(map(_needs_prompts, queries))
        if needs_prompts and not has_text and not open_model().reads_text:
            return None  # no tower is fetched for labels alone
        on_calibrate()
        calibration = calibrate(index, open_model, queries)
    return calibration


def calibrate(
    index: Index, open_model: Callable[[], EmbeddingModel], queries: Sequence[Query] | None = None
) -> Calibration:
    """Compute the calibration of an index, and store it.

    It reads the index once and takes as long as some hundred searches. The prompts are embedded
    once for an index.

    Args:
        index: the index.
        open_model: opens the index's model; called only if prompts have to be embedded.
        queries: the queries that it will be used for; None for any.

    Raises:
        IndexMismatchError: the model is not the index's.
        IndexStorageError: the index cannot be read.
    """
    known = load_null_distribution(index)
    prompts = known.prompts if known is not None else None
    if prompts is None and (queries is None or any(map(_needs_prompts, queries))):
        model = open_model()
        index.check(model.identity)
        prompts = embed_prompts(model)
    null = NullDistribution.of(index, prompts)
    store_null_distribution(index, null)
    return Calibration(null)


def update_calibration(index: Index, model: EmbeddingModel, *, num_changed: int) -> None:
    """Calibrate an index if it has changed, so that no search has to wait for it.

    Args:
        index: the index.
        model: its model.
        num_changed: number of rows that were added or replaced since.

    Raises:
        IndexStorageError: the index cannot be read.
    """
    if not can_be_calibrated(index) or not model.reads_text:
        return
    known = load_null_distribution(index)
    if (
        known is None
        or known.prompts is None
        or is_outdated(known, index.count(), num_changed=num_changed)
    ):
        calibrate(index, lambda: model)


def _needs_prompts(query: Query) -> bool:
    return any(term.kind == "text" for term in query.terms) or not query.is_image
