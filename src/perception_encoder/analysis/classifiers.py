"""Classifiers of images: what they share, and zero-shot classification.

Zero-shot: the embedding of a label is the normalized mean of its prompts' unit embeddings, that is
of each of its names in each template, as in open_clip's `build_zero_shot_classifier`. An image gets
the label with the nearest embedding. Classifiers that learn from examples are in `few_shot`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from perception_encoder.errors import TextTooLargeError
from perception_encoder.preprocess.tokenizer import MAX_TEXT_BYTES
from perception_encoder.types import Embeddings
from perception_encoder.vectors import cosine_similarity, normalize_rows

if TYPE_CHECKING:
    from perception_encoder.embedder import EmbeddingModel
    from perception_encoder.embedder.options import ImageBatch

PLACE: Final = "{}"
"""The placeholder of a name in a template."""

DEFAULT_TEMPLATE: Final = PLACE
"""The model reads the name alone. Whether a sentence such as "a photo of a {}" is more accurate
depends on the model: measure it with `pe eval`."""


@dataclass(frozen=True)
class Prompts:
    """The texts of labels.

    Attributes:
        labels: L labels, as results show them.
        texts: T prompts; the prompts of a label are neighbors.
        starts: the position of the first prompt of each label.
    """

    labels: tuple[str, ...]
    texts: tuple[str, ...]
    starts: tuple[int, ...]

    @classmethod
    def of(
        cls,
        labels: Sequence[str] | Mapping[str, Sequence[str]],
        templates: Iterable[str] = (DEFAULT_TEMPLATE,),
    ) -> Self:
        """Put every name of every label into every template.

        Args:
            labels: labels that are names, or the names of each label.
            templates: sentences with {} in place of the name.

        Raises:
            ValueError: there are no labels or templates, a label has no names, or a template has
                no {}.
            TextTooLargeError: a prompt has more than `MAX_TEXT_BYTES`.
        """
        named = labels if isinstance(labels, Mapping) else [(label, [label]) for label in labels]
        pairs = list(named.items() if isinstance(named, Mapping) else named)
        templates = tuple(templates)
        if not pairs or not templates:
            raise ValueError("needs at least one label and one template")
        for template in templates:
            if PLACE not in template:
                raise ValueError(
                    f"the template {template[:100]!r} needs {PLACE} where the label goes"
                )
        texts, starts = list[str](), list[int]()
        for label, names in pairs:
            if not names or isinstance(names, str):
                raise ValueError(f"label {label!r}: expected a list of names, got {names!r}")
            starts.append(len(texts))
            texts += [_prompt(template, name) for name in names for template in templates]
        return cls(tuple(label for label, _ in pairs), tuple(texts), tuple(starts))


def _prompt(template: str, name: str) -> str:
    """Put a name into a template, unless the prompt would be too long."""
    num_chars = len(template) + template.count(PLACE) * (len(name) - len(PLACE))
    if num_chars > MAX_TEXT_BYTES:
        raise TextTooLargeError(
            f"label {name[:100]!r} in the template {template[:100]!r}: at least {num_chars:,} "
            f"bytes, the limit for a text is {MAX_TEXT_BYTES:,}; shorten the label"
        )
    return template.replace(PLACE, name)


class LabelScore(NamedTuple):
    """A label of an image: its score and its probability, see `LabelScores`."""

    label: str
    score: float
    probability: float


@dataclass(frozen=True)
class LabelScores:
    """The scores of L labels for N images.

    Zero-shot, a probability compares a label with the other labels: where no label fits, one of
    them has a high probability all the same. A few-shot classifier decides by itself which labels
    an image has: see `applies`.

    Attributes:
        labels: L labels.
        scores: (N, L) float32: cosines in [-1, 1]; logits of a few-shot classifier.
        probabilities: (N, L) float32. Rows sum to 1; of a few-shot classifier to less if it knows
            images without a label, and to anything if an image may have several.
        applies: (N, L) bool: the labels that each image has; None where that is not decided.
    """

    labels: tuple[str, ...]
    scores: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    applies: NDArray[np.bool_] | None = None

    @property
    def order(self) -> NDArray[np.int64]:
        """(N, L) int64: the positions of the labels, best first."""
        return np.argsort(-self.scores, axis=1, kind="stable")

    def given(self) -> list[tuple[str, ...]]:
        """Return the labels that each image gets: the best one, unless a classifier decides.

        Of several labels the likeliest is first.
        """
        if self.applies is None:
            return [(first.label,) for (first,) in self.best()]
        return [
            tuple(self.labels[n] for n in order if has[n])
            for order, has in zip(self.order.tolist(), self.applies.tolist(), strict=True)
        ]

    def best(self, k: int = 1) -> list[list[LabelScore]]:
        """Return the k best labels of each image, best first."""
        # Sorting a thousand labels to get one would take most of the time.
        first = self.scores.argmax(axis=1)[:, None] if k == 1 else self.order[:, :k]
        scores, probabilities = (
            np.take_along_axis(values, first, axis=1).tolist()
            for values in (self.scores, self.probabilities)
        )
        names = [[self.labels[n] for n in row] for row in first.tolist()]
        return [
            [LabelScore(*one) for one in zip(*columns, strict=True)]
            for columns in zip(names, scores, probabilities, strict=True)
        ]


class ImageClassifier(ABC):
    """Gives labels to embeddings, and to images if it has a model.

    Args:
        labels: L of them.
        model: embeds the images that `predict` is given.
    """

    def __init__(self, labels: Sequence[str], model: EmbeddingModel | None = None) -> None:
        self.labels: Final = tuple(labels)
        self._model = model

    @abstractmethod
    def classify(self, vectors: Embeddings) -> LabelScores:
        """Score the labels of embeddings.

        Args:
            vectors: (N, E) float, of any length.

        Raises:
            ValueError: embeddings of another E.
        """

    def predict(self, images: ImageBatch) -> Sequence[str | None]:
        """Return the best label of each image; None if a few-shot classifier abstains.

        Args:
            images: as in `EmbeddingModel.embed_images`.

        Raises:
            ImageError: an image cannot be used.
            ValueError: the classifier was made without a model.
        """
        return [given[0] if given else None for given in self._classify_images(images).given()]

    def predict_proba(self, images: ImageBatch) -> NDArray[np.float32]:
        """Return (N, L) float32, the probabilities of the labels; see `LabelScores`.

        Raises:
            ImageError, ValueError: as `predict`.
        """
        return self._classify_images(images).probabilities

    def _classify_images(self, images: ImageBatch) -> LabelScores:
        if self._model is None:
            raise ValueError(
                "this classifier has no model to embed images with: make it with from_model, or "
                "give embeddings to classify"
            )
        return self.classify(self._model.embed_images(images))


class LabelClassifier(ImageClassifier):
    """Gives images the labels whose embeddings are nearest.

    Args:
        labels: L of them.
        vectors: (L, E) float32, one embedding for each, of any length.
        logit_scale: what a cosine is multiplied by before the softmax; the model knows it.
        model: embeds the images that `predict` is given.

    Attributes:
        vectors: (L, E) float32, of unit length.
    """

    def __init__(
        self,
        labels: Sequence[str],
        vectors: Embeddings,
        logit_scale: float,
        model: EmbeddingModel | None = None,
    ) -> None:
        super().__init__(labels, model)
        self.vectors: Final = normalize_rows(vectors)
        self._logit_scale = logit_scale

    def classify(self, vectors: Embeddings) -> LabelScores:
        """Compare embeddings of images with the labels, as `ImageClassifier.classify`."""
        scores = cosine_similarity(vectors, self.vectors)  # (N, L)
        logits = self._logit_scale * scores
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares = np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)
        return LabelScores(self.labels, scores, shares)


class ZeroShotClassifier(LabelClassifier):
    """Gives images the labels whose texts fit them best, without training.

        classifier = ZeroShotClassifier.from_model(model, ["cat", "dog"], ["a photo of a {}"])
        classifier.predict(["rex.jpg"])  # ["dog"]

    Args:
        prompts: of the labels.
        embeddings: (T, E) float, the prompts' embeddings, of any length.
        logit_scale: as for `LabelClassifier`.
        model: as for `LabelClassifier`.
    """

    def __init__(
        self,
        prompts: Prompts,
        embeddings: Embeddings,
        logit_scale: float,
        model: EmbeddingModel | None = None,
    ) -> None:
        if len(embeddings) != len(prompts.texts):
            raise ValueError(f"{len(prompts.texts)} prompts, but {len(embeddings)} embeddings")
        ends = (*prompts.starts[1:], len(prompts.texts))
        rows = normalize_rows(np.asarray(embeddings, np.float32))
        means = [
            rows[start:end].mean(axis=0) for start, end in zip(prompts.starts, ends, strict=True)
        ]
        super().__init__(prompts.labels, np.stack(means), logit_scale, model)

    @classmethod
    def from_model(
        cls,
        model: EmbeddingModel,
        labels: Sequence[str] | Mapping[str, Sequence[str]],
        templates: Iterable[str] = (DEFAULT_TEMPLATE,),
    ) -> Self:
        """Embed the prompts of some labels.

        Args:
            model: embeds the images that are classified; it must read texts.
            labels: as in `Prompts.of`: names, or `{"pet": ["cat", "dog"], …}`.
            templates: sentences with {} in place of the name.

        Raises:
            ValueError: as `Prompts.of`.
            TokenizerNotFoundError, UnsupportedOperationError: as `EmbeddingModel.embed_text`.
        """
        prompts = Prompts.of(labels, templates)
        return cls(prompts, model.embed_text(prompts.texts), model.logit_scale, model)
