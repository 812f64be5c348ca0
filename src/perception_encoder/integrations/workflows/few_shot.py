"""The block `pe_few_shot@v1`: labels from a classifier of `pe teach`."""

import os
from functools import lru_cache
from typing import Any, Literal

from pydantic import ConfigDict, Field

from perception_encoder.analysis.classifier_file import load_classifier
from perception_encoder.analysis.few_shot import FewShotClassifier
from perception_encoder.integrations.workflows.blocks import build_prediction
from perception_encoder.integrations.workflows.engine import (
    CLASSIFICATION_KIND,
    FLOAT_ZERO_TO_ONE_KIND,
    IMAGE_KIND,
    LIST_OF_VALUES_KIND,
    STRING_KIND,
    Manifest,
    ModelBlock,
    OutputDefinition,
    Selector,
    embed_workflow_images,
)


class FewShotManifest(Manifest):
    """The fields of the block in a workflow."""

    model_config = ConfigDict(
        json_schema_extra={
            "name": "Perception Encoder: few-shot classification",
            "version": "v1",
            "short_description": "The labels that a classifier learned from examples.",
            "long_description": "Classifies images by a file of `pe teach`. An image of which the "
            "classifier is not sure enough has no class. The file names its model.",
            "license": "Apache-2.0",
            "block_type": "model",
        }
    )
    type: Literal["perception_encoder/pe_few_shot@v1", "pe_few_shot@v1"]
    images: Selector(kind=[IMAGE_KIND]) = Field(
        description="The images.", examples=["$inputs.image", "$steps.cropping.crops"]
    )
    classifier: Selector(kind=[STRING_KIND]) | str = Field(
        description="The classifier's file.", examples=["pets.npz", "$inputs.classifier"]
    )
    model: Selector(kind=[STRING_KIND]) | str | None = Field(
        default=None,
        description="The path of the classifier's model, where it was opened from a path.",
        examples=["$inputs.model"],
    )

    @classmethod
    def get_parameters_accepting_batches(cls) -> list[str]:
        """Return the fields that come as batches."""
        return ["images"]

    @classmethod
    def describe_outputs(cls) -> list[OutputDefinition]:
        """Return the outputs."""
        return [
            OutputDefinition(name="class", kind=[STRING_KIND]),
            OutputDefinition(name="classes", kind=[LIST_OF_VALUES_KIND]),
            OutputDefinition(name="confidence", kind=[FLOAT_ZERO_TO_ONE_KIND]),
            OutputDefinition(name="predictions", kind=[CLASSIFICATION_KIND]),
        ]


class FewShotBlock(ModelBlock):
    """Classifies a batch with one call of the model."""

    manifest = FewShotManifest

    def run(self, images: Any, classifier: str, model: str | None) -> Any:
        """Return for each image its `class` or None, all `classes`, `confidence`, `predictions`.

        Raises:
            ClassifierError: the file is missing or damaged, or the model is not its own.
        """
        self._indexes.check_read(classifier)
        if model is not None:
            self._indexes.check_model(model)
        taught = _load(classifier)
        opened = self._models.get(model or taught.identity.model_id, taught.identity.preprocess)
        taught.check(opened.identity)
        found = taught.classify(embed_workflow_images(opened, list(images)))
        return [
            {
                "class": given[0] if given else None,
                "classes": list(given),
                "confidence": float(row.max()),
                "predictions": build_prediction(image, taught.labels, row),
            }
            for image, row, given in zip(images, found.probabilities, found.given(), strict=True)
        ]


def _load(path: str) -> FewShotClassifier:
    """Read a classifier once, and again if its file has changed."""
    try:
        time = os.stat(path).st_mtime_ns
    except OSError:
        return load_classifier(path)  # reports it
    return _load_once(os.path.abspath(path), time)


@lru_cache(maxsize=16)
def _load_once(path: str, time: int) -> FewShotClassifier:  # noqa: ARG001  part of the key
    return load_classifier(path)
