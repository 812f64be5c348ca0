"""The blocks `pe_embedding@v1`, `pe_zero_shot@v1` and `pe_search@v1`."""

import uuid
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from perception_encoder.analysis.classifiers import Prompts, ZeroShotClassifier
from perception_encoder.integrations.workflows.engine import (
    CLASSIFICATION_KIND,
    EMBEDDING_KIND,
    FLOAT_KIND,
    FLOAT_ZERO_TO_ONE_KIND,
    IMAGE_KIND,
    INTEGER_KIND,
    LIST_OF_VALUES_KIND,
    STRING_KIND,
    TENSOR_MODE,
    Manifest,
    ModelBlock,
    OutputDefinition,
    Selector,
    convert_embeddings,
    embed_items,
    embed_workflow_images,
    image_of,
    list_items,
    match_input,
)
from perception_encoder.integrations.workflows.models import DEFAULT_MODEL
from perception_encoder.search.calibration import can_be_calibrated, read_calibration
from perception_encoder.search.grammar import QueryTerm
from perception_encoder.search.queries import Query
from perception_encoder.search.ranking import SearchOptions, SearchResult, search_index


class EmbeddingManifest(Manifest):
    """The fields of the block in a workflow."""

    model_config = ConfigDict(
        json_schema_extra={
            "name": "Perception Encoder: embedding",
            "version": "v1",
            "short_description": "The embedding of an image or a text.",
            "long_description": "Embeds images or texts with any model of perception-encoder, a "
            "batch of images at once. Embeddings have unit length and can be compared with each "
            "other, and with those of the stock block and the same model.",
            "license": "Apache-2.0",
            "block_type": "model",
        }
    )
    type: Literal["perception_encoder/pe_embedding@v1", "pe_embedding@v1"]
    data: Selector(kind=[IMAGE_KIND, STRING_KIND]) | str = Field(
        description="The image or the text.", examples=["$inputs.image", "a red car"]
    )
    model: Selector(kind=[STRING_KIND]) | str = Field(
        default=DEFAULT_MODEL,
        description="A model's id, or the path of one.",
        examples=["PE-Core-B16-224", "$inputs.model"],
    )

    @classmethod
    def get_parameters_accepting_batches_and_scalars(cls) -> list[str]:
        """Return the fields that come as batches or as single values."""
        return ["data"]

    @classmethod
    def describe_outputs(cls) -> list[OutputDefinition]:
        """Return the outputs."""
        return [OutputDefinition(name="embedding", kind=[EMBEDDING_KIND])]


class EmbeddingBlock(ModelBlock):
    """Embeds a batch with one call of the model."""

    manifest = EmbeddingManifest

    def run(self, data: Any, model: str) -> Any:
        """Return the `embedding` of each item: (E,) of unit length."""
        self._indexes.check_model(model)
        opened = self._models.get(model)
        vectors = embed_items(self._models, opened, list_items(data))
        return match_input([{"embedding": vector} for vector in convert_embeddings(vectors)], data)


def build_prediction(image: Any, classes: Sequence[str], probabilities: NDArray[np.float32]) -> Any:
    """Return an image's classes as the kind `classification_prediction`.

    Args:
        image: the image.
        classes: their names.
        probabilities: (N,) of them, in that order.

    Returns:
        A dict, best class first; in tensor mode a `ClassificationPrediction`.
    """
    height, width = _size(image_of(image))
    ancestors = {
        "prediction_type": "classification",
        "inference_id": str(uuid.uuid4()),
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
    """The fields of the block in a workflow."""

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
        """Return the fields that come as batches."""
        return ["images"]

    @classmethod
    def describe_outputs(cls) -> list[OutputDefinition]:
        """Return the outputs."""
        return [
            OutputDefinition(name="class", kind=[STRING_KIND]),
            OutputDefinition(name="confidence", kind=[FLOAT_ZERO_TO_ONE_KIND]),
            OutputDefinition(name="similarities", kind=[LIST_OF_VALUES_KIND]),
            OutputDefinition(name="predictions", kind=[CLASSIFICATION_KIND]),
        ]


class ZeroShotBlock(ModelBlock):
    """Compares a batch of images with labels; embeddings of labels are cached."""

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
        vectors = self._models.embed_texts(opened, prompts.texts)
        classifier = ZeroShotClassifier(prompts, vectors, opened.logit_scale)
        found = classifier.classify(embed_workflow_images(opened, list(images)))
        return [
            {
                "class": classes[int(row.argmax())],
                "confidence": float(row.max()),
                "similarities": similarities.tolist(),
                "predictions": build_prediction(image, classes, row),
            }
            for image, similarities, row in zip(
                images, found.scores, found.probabilities, strict=True
            )
        ]


class SearchManifest(Manifest):
    """The fields of the block in a workflow."""

    model_config = ConfigDict(
        json_schema_extra={
            "name": "Perception Encoder: search",
            "version": "v1",
            "short_description": "Images of an index that are like an image or a text.",
            "long_description": "Searches an index that `pe index` or the block `pe_index_add` "
            "filled. The index's own model embeds the query. Each hit has its uri, its score (a "
            "cosine), its metadata, and its label where the index is calibrated.",
            "license": "Apache-2.0",
            "block_type": "model",
        }
    )
    type: Literal["perception_encoder/pe_search@v1", "pe_search@v1"]
    data: Selector(kind=[IMAGE_KIND, STRING_KIND]) | str = Field(
        description="The image or the text to search with.",
        examples=["$inputs.image", "a red car"],
    )
    index: Selector(kind=[STRING_KIND]) | str = Field(
        description="The index: a folder, or a URI.", examples=["images.lance"]
    )
    k: Selector(kind=[INTEGER_KIND]) | int = Field(
        default=10, description="How many hits, at most.", examples=[10, "$inputs.k"]
    )
    threshold: Selector(kind=[FLOAT_KIND]) | float | None = Field(
        default=None, description="The lowest cosine of a hit.", examples=[0.3]
    )
    where: Selector(kind=[STRING_KIND]) | str | None = Field(
        default=None,
        description="An SQL condition on the index's columns.",
        examples=["width > 800"],
    )
    model: Selector(kind=[STRING_KIND]) | str | None = Field(
        default=None,
        description="The path of the index's model, where it was opened from a path.",
        examples=["$inputs.model"],
    )

    @classmethod
    def get_parameters_accepting_batches_and_scalars(cls) -> list[str]:
        """Return the fields that come as batches or as single values."""
        return ["data"]

    @classmethod
    def describe_outputs(cls) -> list[OutputDefinition]:
        """Return the outputs."""
        return [
            OutputDefinition(name="hits", kind=[LIST_OF_VALUES_KIND]),
            OutputDefinition(name="best_uri", kind=[STRING_KIND]),
            OutputDefinition(name="best_score", kind=[FLOAT_KIND]),
        ]


class SearchBlock(ModelBlock):
    """Searches once for a whole batch of queries."""

    manifest = SearchManifest

    def run(
        self,
        data: Any,
        index: str,
        k: int,
        threshold: float | None,
        where: str | None,
        model: str | None,
    ) -> Any:
        """Return the `hits` of each query, best first; without hits the best is None."""
        opened_index = self._indexes.open(index)
        opened = self._models.of_index(opened_index, model)
        items = list_items(data)
        vectors = embed_items(self._models, opened, items)
        queries = [
            Query(terms=(_term(item),), vector=vector)
            for item, vector in zip(items, vectors, strict=True)
        ]
        known = read_calibration(opened_index, queries) if can_be_calibrated(opened_index) else None
        options = SearchOptions(k=k, threshold=threshold, where=where)
        found = search_index(opened_index, queries, options, calibration=known)
        return match_input([_result(hits) for hits in found], data)


def _term(item: Any) -> QueryTerm:
    if isinstance(item, str):
        return QueryTerm(1.0, "text", item)
    return QueryTerm(1.0, "image", "")


def _result(found: list[SearchResult]) -> dict[str, Any]:
    best = found[0].hit if found else None
    return {
        "hits": [_hit(one) for one in found],
        "best_uri": None if best is None else best.uri,
        "best_score": None if best is None else best.score,
    }


def _hit(found: SearchResult) -> dict[str, Any]:
    """Return the known fields of a hit."""
    hit = found.hit
    fields = {
        "id": hit.id,
        "uri": hit.uri,
        "member": hit.member,
        "score": hit.score,
        "label": found.label,
        "width": hit.width,
        "height": hit.height,
        "metadata": dict(hit.metadata),
    }
    return {name: value for name, value in fields.items() if value is not None}
