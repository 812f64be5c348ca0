"""Few-shot classification: labels by a few images of each.

A label is the mean of its examples' unit embeddings. In the bundled gallery (10 kinds of drawings,
1 to 6 examples of each) this is as accurate as logistic regression with its best penalty, and more
accurate than ridge regression and the nearest example.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np

from perception_encoder.analysis.zero_shot import LabelClassifier
from perception_encoder.types import Embeddings
from perception_encoder.vectors import normalize_rows

if TYPE_CHECKING:
    from perception_encoder.embedder import EmbeddingModel
    from perception_encoder.preprocess import ImageInput


class FewShotClassifier(LabelClassifier):
    """Gives images the labels whose examples they resemble most.

        examples = {"cat": ["tom.jpg", "felix.jpg"], "dog": ["rex.jpg"]}
        classifier = FewShotClassifier.from_model(model, examples)
        classifier.predict(["unknown.jpg"])  # ["cat"]

    Args:
        labels: N labels, one for each example.
        embeddings: (N, E) float, the examples' embeddings, of any length.
        logit_scale: as for `LabelClassifier`.
        model: as for `LabelClassifier`.

    Raises:
        ValueError: no examples, or not as many labels as embeddings.
    """

    def __init__(
        self,
        labels: Sequence[str],
        embeddings: Embeddings,
        logit_scale: float,
        model: "EmbeddingModel | None" = None,
    ) -> None:
        if not len(labels) or len(labels) != len(embeddings):
            raise ValueError(
                f"{len(labels)} labels and {len(embeddings)} embeddings: give at least one "
                "example, and a label for each"
            )
        names = list(dict.fromkeys(labels))
        numbers = np.array([names.index(label) for label in labels])
        rows = normalize_rows(np.asarray(embeddings, np.float32))
        means = np.stack([rows[numbers == number].mean(axis=0) for number in range(len(names))])
        super().__init__(names, means, logit_scale, model)

    @classmethod
    def from_model(
        cls, model: "EmbeddingModel", examples: Mapping[str, Sequence["ImageInput"]]
    ) -> Self:
        """Embed the examples.

        Args:
            model: embeds the examples and the images that are classified.
            examples: the images of each label, as `EmbeddingModel.embed_images` takes them.

        Raises:
            ImageError: an example cannot be used.
            ValueError: a label has no examples.
        """
        for label, images in examples.items():
            if not len(images):
                raise ValueError(f"the label {label!r} has no examples")
        labels = [label for label, images in examples.items() for _ in images]
        images = [image for images in examples.values() for image in images]
        return cls(labels, model.embed_images(images), model.logit_scale, model)
