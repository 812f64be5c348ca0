"""Few-shot classification: labels learned from examples, with scores that are measured.

The classifier is a linear probe (see `probe`). Everything that is said of it comes from
cross-validation in which copies share a fold and count once: the scores, the temperature that makes
its probabilities right (Guo et al., "On calibration of modern neural networks", ICML 2017), and the
probability below which it abstains.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import numpy as np
from numpy.typing import NDArray

from perception_encoder.analysis.classifiers import ImageClassifier, LabelScores
from perception_encoder.analysis.evaluation import Share, estimate_share
from perception_encoder.analysis.probe import (
    Groups,
    Probe,
    Targets,
    assign_folds,
    find_copies,
    fit_probe,
    predict_held_out,
    softmax,
)
from perception_encoder.errors import ClassifierError
from perception_encoder.types import Embeddings, ModelIdentity

if TYPE_CHECKING:
    from perception_encoder.embedder import EmbeddingModel
    from perception_encoder.preprocess import ImageInput

EmbedText = Callable[[list[str]], Embeddings]

SHARE_RIGHT: Final = 0.9
"""The share of answers that should be right, by which the cutoff is chosen."""

FEWEST_TO_SAY: Final = 5
"""Different examples of a label from which on its scores are estimated."""

_FEWEST_IN_ALL: Final = 10
_FEWEST_FOR_CUTOFF: Final = 20
_EVEN: Final = 0.5  # likelier than not
_TEMPERATURES: Final = np.geomspace(0.02, 20, 121)
_LARGEST_LOGIT: Final = 80.0  # exp of it is finite in float32


@dataclass(frozen=True)
class LabelQuality:
    """How well a label is recognized in examples that were not learned from.

    Attributes:
        label: the label.
        num_examples: of it.
        num_different: copies counted once.
        recall: share of its examples that get it; None if there are too few to say.
        precision: share of the examples that get it which have it; likewise.
    """

    label: str
    num_examples: int
    num_different: int
    recall: Share | None
    precision: Share | None


@dataclass(frozen=True)
class Quality:
    """How good a classifier is, by cross-validation; copies count once.

    Attributes:
        num_examples: in all, those without a label included.
        num_different: copies counted once.
        num_folds: 0 if there were too few examples to divide.
        right: share of examples with the right label (all labels right, if there may be several);
            None if there are too few to say.
        answered: share of examples that get a label with the cutoff; likewise.
        right_if_answered: share of those answers that are right; likewise.
        labels: of each label.
    """

    num_examples: int
    num_different: int
    num_folds: int
    right: Share | None
    answered: Share | None
    right_if_answered: Share | None
    labels: tuple[LabelQuality, ...]


class FewShotClassifier(ImageClassifier):
    """Gives images the labels that it learned from examples, or none where it is not sure.

        examples = {"cat": ["tom.jpg", "felix.jpg"], "dog": ["rex.jpg", "lassie.jpg"]}
        classifier = FewShotClassifier.from_model(model, examples)
        classifier.predict(["unknown.jpg"])  # ["cat"]

    Args:
        labels: L of them.
        probe: of the labels; if it has one column more, that means none of them.
        identity: the model of the embeddings.
        is_multi_label: An image may have several labels, or none.
        cutoff: the lowest probability of a label that an image gets.
        quality: by cross-validation.
        model: embeds the images that `predict` is given.
    """

    def __init__(
        self,
        labels: Sequence[str],
        probe: Probe,
        *,
        identity: ModelIdentity,
        is_multi_label: bool = False,
        cutoff: float = 0.0,
        quality: Quality | None = None,
        model: EmbeddingModel | None = None,
    ) -> None:
        super().__init__(labels, model)
        self.probe: Final = probe
        self.identity: Final = identity
        self.is_multi_label: Final = is_multi_label
        self.cutoff: Final = cutoff
        self.quality: Final = quality

    @classmethod
    def from_model(
        cls,
        model: EmbeddingModel,
        examples: Mapping[str, Sequence[ImageInput]],
        *,
        none: Sequence[ImageInput] = (),
    ) -> Self:
        """Embed the examples, and learn from them.

        Args:
            model: embeds the examples, the labels if it reads texts, and what is classified.
            examples: the images of each label, as `EmbeddingModel.embed_images` takes them.
            none: images that have none of the labels.

        Raises:
            ImageError: an example cannot be used.
            ValueError: a label has no examples, or there is nothing to tell apart.
        """
        for label, images in examples.items():
            if not len(images):
                raise ValueError(f"the label {label!r} has no examples")
        labels = [[label] for label, images in examples.items() for _ in images]
        images = [image for images in examples.values() for image in images]
        return cls.fit(
            model.embed_images([*images, *none]),
            [*labels, *([] for _ in none)],
            identity=model.identity,
            embed_text=text_embedder(model),
            model=model,
        )

    @classmethod
    def fit(
        cls,
        embeddings: Embeddings,
        labels: Sequence[Collection[str]],
        *,
        identity: ModelIdentity,
        is_multi_label: bool = False,
        contents: Sequence[str | None] | None = None,
        embed_text: EmbedText | None = None,
        share_right: float = SHARE_RIGHT,
        model: EmbeddingModel | None = None,
    ) -> Self:
        """Learn from embeddings.

        Args:
            embeddings: (N, E) float of any length.
            labels: the labels of each example; none for an example that has none of them.
            identity: the model of the embeddings.
            is_multi_label: An image may have several labels.
            contents: the SHA-256 of each example's file, or None.
            embed_text: embeds labels, which then count as an example each; None does without.
            share_right: the share of answers that should be right, by which the cutoff is chosen.
            model: embeds the images that `predict` is given.

        Raises:
            BackendUnavailableError: scikit-learn is not installed, and is needed.
            ValueError: there is nothing to tell apart, or an example has several labels without
                `is_multi_label`.
        """
        names = list(dict.fromkeys(name for some in labels for name in some))
        targets = _read_targets(names, labels, len(embeddings), is_multi_label=is_multi_label)
        prompts = None if embed_text is None else embed_text([as_text(name) for name in names])
        probe = fit_probe(embeddings, targets, prompts=prompts, is_multi_label=is_multi_label)
        groups = find_copies(embeddings, contents)
        held_out = _hold_out(embeddings, targets, groups, prompts, is_multi_label=is_multi_label)
        cutoff = 0.0
        if held_out is not None:
            temperature = held_out.find_temperature()
            probe = Probe(probe.weights / temperature, probe.biases / temperature)
            held_out = held_out.scaled(temperature)
            cutoff = held_out.find_cutoff(len(names), share_right)
        quality = _measure(names, targets, groups, held_out, cutoff)
        return cls(
            names,
            probe,
            identity=identity,
            is_multi_label=is_multi_label,
            cutoff=cutoff,
            quality=quality,
            model=model,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the classifier into a file, an `.npz`; a file that is there is replaced.

        Raises:
            ClassifierError: it cannot be written.
        """
        from perception_encoder.analysis.classifier_file import save_classifier

        save_classifier(self, path)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], model: EmbeddingModel | None = None
    ) -> FewShotClassifier:
        """Read a classifier from a file.

        Args:
            path: the file.
            model: embeds the images that `predict` is given.

        Raises:
            ClassifierError: the file is missing or damaged, or of another model.
        """
        from perception_encoder.analysis.classifier_file import load_classifier

        return load_classifier(path).with_model(model)

    def with_model(self, model: EmbeddingModel | None) -> FewShotClassifier:
        """Return the same classifier with a model that embeds what it is given.

        Raises:
            ClassifierError: it learned from another model's embeddings.
        """
        if model is not None:
            self.check(model.identity)
        return self._copied(self.cutoff, model)

    def with_cutoff(self, cutoff: float) -> FewShotClassifier:
        """Return the same classifier with another lowest probability, from 0 to 1."""
        return self._copied(cutoff, self._model)

    def _copied(self, cutoff: float, model: EmbeddingModel | None) -> FewShotClassifier:
        return FewShotClassifier(
            self.labels,
            self.probe,
            identity=self.identity,
            is_multi_label=self.is_multi_label,
            cutoff=cutoff,
            quality=self.quality,
            model=model,
        )

    def classify(self, vectors: Embeddings) -> LabelScores:
        """Score the labels of embeddings, and decide which of them apply."""
        if np.ndim(vectors) != 2 or np.shape(vectors)[1] != self.probe.weights.shape[1]:
            raise ValueError(
                f"this classifier takes (N, {self.probe.weights.shape[1]}) embeddings, got an "
                f"array of shape {np.shape(vectors)}"
            )
        logits = self.probe.logits(vectors)
        shares = _probabilities(logits, is_multi_label=self.is_multi_label)
        count = len(self.labels)
        applies = decide(shares, self.cutoff, is_multi_label=self.is_multi_label)
        return LabelScores(self.labels, logits[:, :count], shares[:, :count], applies[:, :count])

    def check(self, identity: ModelIdentity) -> None:
        """Refuse the embeddings of another model.

        Raises:
            ClassifierError: they are.
        """
        if identity != self.identity:
            raise ClassifierError(
                f"the classifier of {', '.join(self.labels[:3])} learned from embeddings of "
                f"{describe_identity(self.identity)}, not of {describe_identity(identity)}; use "
                "that model, or teach it again with this one (pe teach)"
            )


def describe_identity(identity: ModelIdentity) -> str:
    """Return a model in words."""
    return (
        f"{identity.model_id} (weights {identity.fingerprint}, preprocessing "
        f"{identity.preprocess}, {identity.embed_dim} dimensions)"
    )


def text_embedder(model: EmbeddingModel) -> EmbedText | None:
    """Return the function that embeds labels; None for a model without a text tower."""
    if not model.reads_text:
        return None
    return lambda texts: model.embed_text(texts, show_progress=False)


def decide(
    shares: NDArray[np.float32], cutoff: float, *, is_multi_label: bool
) -> NDArray[np.bool_]:
    """Return (N, L) bool, the labels that apply, given (N, L) probabilities."""
    if is_multi_label:
        return shares >= (cutoff or _EVEN)
    best = shares.argmax(axis=1)
    is_best = best[:, None] == np.arange(shares.shape[1])
    return np.asarray(is_best & (shares >= cutoff), np.bool_)


def as_text(label: str) -> str:
    """Return a label as the model reads it: names of folders have underscores for spaces."""
    return label.replace("_", " ").strip() or label


def _read_targets(
    names: Sequence[str], labels: Sequence[Collection[str]], count: int, *, is_multi_label: bool
) -> Targets:
    """Return (N, L), or (N, L + 1) with a column for none of the labels."""
    if len(labels) != count:
        raise ValueError(f"labels of {len(labels)} examples for {count} embeddings")
    number_of = {name: number for number, name in enumerate(names)}
    targets = np.zeros((count, len(names)), np.bool_)
    for number, some in enumerate(labels):
        targets[number, [number_of[name] for name in some]] = True
        if len(some) > 1 and not is_multi_label:
            raise ValueError(
                f"example {number + 1} has {len(some)} labels ({', '.join(list(some)[:3])}); say "
                "that images may have several (--multi-label), or leave one"
            )
    has_none = not targets.any(axis=1).all()
    if not names or (len(names) == 1 and not has_none):
        raise ValueError(
            f"there is nothing to tell {names[0] if names else 'a label'!r} from: give examples of "
            "a second label, or of images that have none (--none)"
        )
    if is_multi_label or not has_none:
        return targets
    return np.concatenate([targets, ~targets.any(axis=1, keepdims=True)], axis=1)


def _probabilities(logits: NDArray[np.float32], *, is_multi_label: bool) -> NDArray[np.float32]:
    if not is_multi_label:
        return softmax(logits)
    cut = np.clip(logits, -_LARGEST_LOGIT, _LARGEST_LOGIT)
    return np.asarray(1 / (1 + np.exp(-cut)), np.float32)


@dataclass(frozen=True)
class _HeldOut:
    """Logits of different examples, by probes that did not learn from them.

    Attributes:
        logits: (D, C) float32; C has the column for none of the labels, if there is one.
        targets: (D, C).
        num_folds: how many probes there were.
        is_multi_label: as in `FewShotClassifier`.
    """

    logits: NDArray[np.float32]
    targets: Targets
    num_folds: int
    is_multi_label: bool

    def scaled(self, temperature: float) -> _HeldOut:
        return _HeldOut(
            self.logits / np.float32(temperature),
            self.targets,
            self.num_folds,
            self.is_multi_label,
        )

    @property
    def shares(self) -> NDArray[np.float32]:
        return _probabilities(self.logits, is_multi_label=self.is_multi_label)

    def find_temperature(self) -> float:
        """Return the temperature with the least cross-entropy."""
        return float(min(_TEMPERATURES, key=lambda one: self.scaled(float(one))._entropy()))

    def _entropy(self) -> float:
        known = np.isfinite(self.logits)  # other labels had no examples in the other folds
        shares = np.clip(self.shares, 1e-7, 1)
        costs = -np.log(shares[self.targets & known]).sum()
        if self.is_multi_label:
            costs -= np.log(np.clip(1 - shares[~self.targets & known], 1e-7, 1)).sum()
        return float(costs)

    def find_cutoff(self, num_labels: int, share_right: float) -> float:
        """Return the lowest probability from which on answers are right often enough.

        An even chance, where no cutoff reaches that or there are too few examples to say.
        """
        shares = self.shares
        given = decide(shares, 0.0, is_multi_label=self.is_multi_label)[:, :num_labels]
        rows, columns = np.nonzero(given)
        order = np.argsort(-shares[rows, columns], kind="stable")
        is_right = self.targets[rows, columns][order]
        counts = np.arange(1, len(order) + 1)
        is_enough = (np.cumsum(is_right) >= share_right * counts) & (counts >= _FEWEST_FOR_CUTOFF)
        if not is_enough.any():
            return _EVEN
        last = int(np.flatnonzero(is_enough)[-1])
        return float(shares[rows, columns][order][last])


def _hold_out(
    embeddings: Embeddings,
    targets: Targets,
    groups: Groups,
    prompts: Embeddings | None,
    *,
    is_multi_label: bool,
) -> _HeldOut | None:
    """Cross-validate; None if no label has two different examples."""
    first = np.unique(groups, return_index=True)[1]
    if len(first) < 2 or (targets[first].sum(axis=0) < 2).all():
        return None
    folds = assign_folds(targets, groups)
    logits = predict_held_out(
        embeddings, targets, folds, prompts=prompts, is_multi_label=is_multi_label
    )
    return _HeldOut(logits[first], targets[first], int(folds.max()) + 1, is_multi_label)


def _measure(
    names: Sequence[str],
    targets: Targets,
    groups: Groups,
    held_out: _HeldOut | None,
    cutoff: float,
) -> Quality:
    first = np.unique(groups, return_index=True)[1]
    counts, different = targets.sum(axis=0), targets[first].sum(axis=0)
    right = answered = right_if_answered = None
    per_label: list[tuple[Share | None, Share | None]] = [(None, None)] * len(names)
    if held_out is not None:
        truth, is_multi_label = held_out.targets, held_out.is_multi_label
        given = decide(held_out.shares, 0.0, is_multi_label=is_multi_label)
        # An example of a label that has no other is no test of anything.
        is_test = ~(truth & (different < 2)).any(axis=1)
        if is_test.sum() >= _FEWEST_IN_ALL:
            right = _share(np.all(given == truth, axis=1)[is_test])
            sure = decide(held_out.shares, cutoff, is_multi_label=is_multi_label)
            sure, true = sure[is_test, : len(names)], truth[is_test, : len(names)]
            answered = _share(np.asarray(sure.any(axis=1)))
            right_if_answered = _share(true[sure])
        per_label = [
            (_share(given[truth[:, n], n]), _share(truth[given[:, n], n]))
            if different[n] >= FEWEST_TO_SAY
            else (None, None)
            for n in range(len(names))
        ]
    return Quality(
        num_examples=len(targets),
        num_different=len(first),
        num_folds=0 if held_out is None else held_out.num_folds,
        right=right,
        answered=answered,
        right_if_answered=right_if_answered,
        labels=tuple(
            LabelQuality(name, int(counts[n]), int(different[n]), *per_label[n])
            for n, name in enumerate(names)
        ),
    )


def _share(is_right: NDArray[np.bool_]) -> Share | None:
    return estimate_share(int(is_right.sum()), len(is_right)) if len(is_right) else None
