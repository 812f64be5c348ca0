"""What fits an image, as the kind `classification_prediction` that Roboflow's blocks read."""

import uuid
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from perception_encoder.analysis.classifiers import Prompts, ZeroShotClassifier
from perception_encoder.integrations.workflows.block import (
    CLASSIFICATION_KIND,
    FLOAT_ZERO_TO_ONE_KIND,
    IMAGE_KIND,
    LIST_OF_VALUES_KIND,
    STRING_KIND,
    TENSOR_MODE,
    Manifest,
    ModelBlock,
    OutputDefinition,
    Selector,
    image_of,
    image_vectors,
)
from perception_encoder.integrations.workflows.models import DEFAULT_MODEL


def classification(
    image: Any, classes: Sequence[str], probabilities: NDArray[np.float32], *, inference_id: str
) -> Any:
    """Return an image's classes with their probabilities.

    Args:
        image: the image.
        classes: their names.
        probabilities: (N,) of them, in that order.
        inference_id: names this result.

    Returns:
        A dict, best class first; in tensor mode a `ClassificationPrediction`.
    """
    height, width = _size(image_of(image))
    ancestors = {
        "prediction_type": "classification",
        "inference_id": inference_id,
        "parent_id": image.parent_metadata.parent_id,
        "root_parent_id": image.workflow_root_ancestor_metadata.parent_id,
    }
    if TENSOR_MODE:
        import torch
        from inference_models import ClassificationPrediction

        names = dict(enumerate(classes))
        about = {**ancestors, "class_names": names, "image_dimensions": [height, width]}
        return ClassificationPrediction(
            class_id=torch.tensor([int(probabilities.argmax())]),
            confidence=torch.from_numpy(probabilities[None]),
            images_metadata=[about],
        )
    order = np.argsort(-probabilities, kind="stable").tolist()
    return {
        "image": {"width": width, "height": height},
        "predictions": [
            {"class": classes[n], "class_id": n, "confidence": float(probabilities[n])}
            for n in order
        ],
        "top": classes[order[0]],
        "confidence": float(probabilities[order[0]]),
        **ancestors,
    }


def _size(image: Any) -> tuple[int, int]:
    """Return the height and width of a tensor or an array."""
    shape = image.shape if isinstance(image, np.ndarray) else image.shape[-2:]
    return int(shape[0]), int(shape[1])


class ZeroShotManifest(Manifest):
    """What a workflow writes for this block."""

    model_config = ConfigDict(
        json_schema_extra={
            "name": "Perception Encoder: zero-shot classification",
            "version": "v1",
            "short_description": "Which of some labels fits an image best, without training.",
            "long_description": "Compares images with labels. The confidence is the softmax of "
            "the cosines times the model's scale: how one label stands against the others, not "
            "whether any of them fits.",
            "license": "Apache-2.0",
            "block_type": "model",
        }
    )
    type: Literal["perception_encoder/pe_zero_shot@v1", "pe_zero_shot@v1"]
    images: Selector(kind=[IMAGE_KIND]) = Field(
        description="The images.", examples=["$inputs.image", "$steps.cropping.crops"]
    )
    classes: Selector(kind=[LIST_OF_VALUES_KIND]) | list[str] = Field(
        description="The labels.", examples=[["cat", "dog"], "$inputs.classes"]
    )
    template: Selector(kind=[STRING_KIND]) | str = Field(
        default="{}",
        description="A sentence with {} where the label goes.",
        examples=["a photo of a {}"],
    )
    model: Selector(kind=[STRING_KIND]) | str = Field(
        default=DEFAULT_MODEL,
        description="A model's id, or the path of one.",
        examples=["PE-Core-B16-224", "$inputs.model"],
    )

    @classmethod
    def get_parameters_accepting_batches(cls) -> list[str]:
        """Name the fields that come as batches."""
        return ["images"]

    @classmethod
    def describe_outputs(cls) -> list[OutputDefinition]:
        """Say what the block gives."""
        return [
            OutputDefinition(name="class", kind=[STRING_KIND]),
            OutputDefinition(name="confidence", kind=[FLOAT_ZERO_TO_ONE_KIND]),
            OutputDefinition(name="similarities", kind=[LIST_OF_VALUES_KIND]),
            OutputDefinition(name="predictions", kind=[CLASSIFICATION_KIND]),
        ]


class ZeroShotBlock(ModelBlock):
    """Compares a batch of images with labels, whose vectors are remembered."""

    manifest = ZeroShotManifest

    def run(self, images: Any, classes: list[str], template: str, model: str) -> Any:
        """Return for each image its `class`, `confidence`, `similarities` and `predictions`.

        Raises:
            ValueError: no labels, or a template without {}.
        """
        if not classes or "{}" not in template:
            raise ValueError(
                f"needs at least one label and a template with {{}} where it goes, got {classes!r} "
                f"and {template!r}"
            )
        self._indexes.check_model(model)
        opened = self._models.get(model)
        prompts = Prompts.of(classes, [template])
        vectors = self._models.text_vectors(opened, prompts.texts)
        classifier = ZeroShotClassifier(prompts, vectors, opened.logit_scale)
        found = classifier.classify(image_vectors(opened, list(images)))
        return [
            {
                "class": classes[int(row.argmax())],
                "confidence": float(row.max()),
                "similarities": similarities.tolist(),
                "predictions": classification(image, classes, row, inference_id=str(uuid.uuid4())),
            }
            for image, similarities, row in zip(
                images, found.scores, found.probabilities, strict=True
            )
        ]
