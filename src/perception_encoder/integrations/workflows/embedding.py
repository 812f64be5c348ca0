"""The block `pe_embedding@v1`: an image or a text to its vector."""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from perception_encoder.integrations.workflows.block import (
    EMBEDDING_KIND,
    IMAGE_KIND,
    STRING_KIND,
    Manifest,
    ModelBlock,
    OutputDefinition,
    Selector,
    as_embeddings,
    as_given,
    listed,
    vectors_of,
)
from perception_encoder.integrations.workflows.models import DEFAULT_MODEL


class EmbeddingManifest(Manifest):
    """What a workflow writes for this block."""

    model_config = ConfigDict(
        json_schema_extra={
            "name": "Perception Encoder: embedding",
            "version": "v1",
            "short_description": "An image or a text to its vector.",
            "long_description": "Embeds images or texts with any model of perception-encoder, a "
            "batch of images at once. Vectors have unit length and can be compared with each "
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
        """Name the fields that come as batches, or as single values."""
        return ["data"]

    @classmethod
    def describe_outputs(cls) -> list[OutputDefinition]:
        """Say what the block gives."""
        return [OutputDefinition(name="embedding", kind=[EMBEDDING_KIND])]


class EmbeddingBlock(ModelBlock):
    """Embeds a batch with one call of the model."""

    manifest = EmbeddingManifest

    def run(self, data: Any, model: str) -> Any:
        """Return the `embedding` of each item: (E,) of unit length."""
        self._indexes.check_model(model)
        opened = self._models.get(model)
        vectors = vectors_of(self._models, opened, listed(data))
        return as_given([{"embedding": vector} for vector in as_embeddings(vectors)], data)
