"""Says what a cosine means in this index: strong, weak, or nothing like it here.

A cosine alone says little: it depends on the model, on the index's size and on whether words or a
image were searched for. So a hit is compared with what others reach in the same index.

- Words: the others are prompts for what next to no collection has. A hit is strong if 95 % of them
  have no hit as good, and weak if half of them have none.
- Images: the others are the index's own images, which have their likes here. A hit is strong if
  it is as near as the nearest neighbor of half of them, and weak if as near as of all but 5 %.
- Sums: the others are sums of the same form, with prompts in the place of words and the index's
  images in the place of images.

A label of a classified image is compared with the same prompts for the same image, without an
index: `fit_labels`.
"""

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

if TYPE_CHECKING:
    from perception_encoder.embedder import EmbeddingModel

Label: TypeAlias = Literal["strong", "weak", "none"]
"""How well a hit fits; "none" means that the index has nothing like what was searched for."""

_Form: TypeAlias = tuple[tuple[bool, float], ...]
"""Of each term of a query whether it is a text, and its weight."""

_OF_WORDS: Final = (0.95, 0.5)  # quantiles of the background: strong, weak
_OF_IMAGES: Final = (0.5, 0.05)
_OF_LABELS: Final = (0.99, 0.95)
_FEWEST_ROWS: Final = 20  # of a smaller index there is nothing to say


@dataclass(frozen=True, slots=True)
class Cutoffs:
    """The cosines from which on the hits of one query are strong, and weak."""

    strong: float
    weak: float

    def label(self, score: float) -> Label:
        """Return the label of a hit with that cosine."""
        return "strong" if score >= self.strong else "weak" if score >= self.weak else "none"


def _quantiles(scores: NDArray[np.floating[Any]], levels: Sequence[float]) -> NDArray[np.float64]:
    """As np.quantile, which imports another 30 ms of numpy."""
    ordered = np.sort(scores)
    return np.interp(np.multiply(levels, len(ordered) - 1), np.arange(len(ordered)), ordered)


class Calibration:
    """Cutoffs for the queries of one index."""

    def __init__(self, background: NullDistribution) -> None:
        self._background = background
        self._known: dict[_Form, Cutoffs] = {}

    def cutoffs(self, query: Query) -> Cutoffs:
        """Return the query's cutoffs; those of all queries of one form are the same."""
        form = tuple((term.kind == "text", term.weight) for term in query.terms)
        if form not in self._known:
            self._known[form] = self._computed(form, is_image=query.is_image)
        return self._known[form]

    def _computed(self, form: _Form, *, is_image: bool) -> Cutoffs:
        background = self._background
        levels = _OF_IMAGES if is_image else _OF_WORDS
        scores = background.image_scores if is_image else background.prompt_scores
        assert scores is not None  # `calibrate` sees to it
        found = _quantiles(scores, levels)
        if len(form) > 1 or form[0][1] <= 0:
            # The sums are searched for in the sample; what the rest of the index adds to a best hit
            # is taken from the single ones, of which both are known.
            single = self._best_in_sample(((not is_image, 1.0),))
            found += _quantiles(self._best_in_sample(form), levels) - _quantiles(single, levels)
        return Cutoffs(float(found[0]), float(found[1]))

    def _best_in_sample(self, form: _Form) -> NDArray[np.float32]:
        """Search the sample for sums of the background.

        Returns:
            (NUM_QUERIES,) the cosine of each one's best hit, leaving out the images that are in
            the sum with their near-duplicates.
        """
        background = self._background
        sample = background.sample.astype(np.float32)  # (R, E)
        total = np.zeros((NUM_QUERIES, sample.shape[1]), np.float32)
        left_out = np.zeros((NUM_QUERIES, len(sample)), bool)
        generator = np.random.default_rng(0)  # who meets whom in the sums
        for is_text, weight in form:
            if is_text:
                assert background.prompts is not None
                part = generator.permutation(background.prompts)
            else:
                part = generator.permutation(sample[np.resize(background.images, NUM_QUERIES)])
                left_out |= part @ sample.T >= SAME
            total += np.float32(weight) * part
        lengths = np.linalg.norm(total, axis=1, keepdims=True)
        scores = total / np.maximum(lengths, 1e-6) @ sample.T
        best: NDArray[np.float32] = np.where(left_out, -1.0, scores).max(axis=1)
        return np.where(left_out.all(axis=1), SAME, best).astype(np.float32)


def fit_labels(
    scores: NDArray[np.float32], images: Embeddings, prompts: Embeddings
) -> list[list[Label]]:
    """Say whether labels fit images, each for itself: a softmax only compares labels.

    A label is strong if its cosine is above those of 99 % of unrelated prompts with the same image,
    and weak if above 95 %. In the bundled gallery 95 % of the images' own names are strong, and 3 %
    of the other images' names.

    Args:
        scores: (N, L) float32, cosines of N images with L labels.
        images: (N, E) float32, unit length.
        prompts: (P, E) float32, unit length, from `embed_prompts`.

    Returns:
        (N, L) labels.
    """
    null = np.sort(images @ prompts.T, axis=1)  # (N, P)
    strong, weak = (
        null[:, [min(int(level * null.shape[1]), null.shape[1] - 1)]] for level in _OF_LABELS
    )
    names: list[list[Label]] = np.where(
        scores >= strong, "strong", np.where(scores >= weak, "weak", "none")
    ).tolist()
    return names


def can_be_calibrated(index: Index) -> bool:
    """Whether the index has enough images, and lies where the result can be kept."""
    return not is_remote(index.path) and index.count() >= _FEWEST_ROWS


def read_calibration(index: Index, queries: Sequence[Query]) -> Calibration | None:
    """Return the calibration that is kept beside the index, if it will do for these queries."""
    background = load_null_distribution(index)
    if background is None or is_outdated(background, index.count()):
        return None
    if background.prompts is None and any(map(_needs_prompts, queries)):
        return None
    return Calibration(background)


def ensure_calibration(
    index: Index,
    queries: Sequence[Query],
    open_model: "Callable[[], EmbeddingModel]",
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
        None where the index cannot be calibrated, see `can_be_calibrated`.
    """
    if not can_be_calibrated(index):
        return None
    calibration = read_calibration(index, queries)
    if calibration is None:
        on_calibrate()
        calibration = calibrate(index, open_model, queries)
    return calibration


def calibrate(
    index: Index, open_model: "Callable[[], EmbeddingModel]", queries: Sequence[Query] | None = None
) -> Calibration:
    """Compute the calibration of an index as it is now, and keep it beside the index.

    It reads the index once and takes as long as some hundred searches. The prompts are embedded
    only once for an index.

    Args:
        index: the index.
        open_model: opens the index's model; called only if prompts have to be embedded.
        queries: that it will be used for; None stands for any.

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
    background = NullDistribution.of(index, prompts)
    store_null_distribution(index, background)
    return Calibration(background)


def update_calibration(index: Index, model: "EmbeddingModel", *, num_changed: int) -> None:
    """Calibrate after a run where it is needed, so that no search has to wait for it.

    Args:
        index: the index.
        model: whose vectors it holds.
        num_changed: how many rows the run added or replaced.

    Raises:
        IndexStorageError: the index cannot be read.
    """
    if not can_be_calibrated(index):
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
