"""The block `pe_index_add@v1`: pictures into an index."""

from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from perception_encoder.integrations.workflows.adding import (
    NewPicture,
    add_pictures,
    open_for_adding,
)
from perception_encoder.integrations.workflows.block import Block, Manifest
from perception_encoder.integrations.workflows.engine_names import (
    BOOLEAN_KIND,
    IMAGE_KIND,
    STRING_KIND,
    OutputDefinition,
    Selector,
)
from perception_encoder.integrations.workflows.values import spread


class IndexAddManifest(Manifest):
    """What a workflow writes for this block."""

    model_config = ConfigDict(
        json_schema_extra={
            "name": "Perception Encoder: add to index",
            "version": "v1",
            "short_description": "Pictures into an index, to be searched later.",
            "long_description": "Embeds a batch of pictures and adds it to a table in one commit; "
            "the table is made if there is none. `pe search`, `pe serve` and the block `pe_search` "
            "read it. With `folder` the pictures are saved too, so that hits can be looked at.",
            "license": "Apache-2.0",
            "block_type": "sink",
        }
    )
    type: Literal["perception_encoder/pe_index_add@v1", "pe_index_add@v1"]
    images: Selector(kind=[IMAGE_KIND]) = Field(
        description="The pictures.", examples=["$inputs.image", "$steps.cropping.crops"]
    )
    index: Selector(kind=[STRING_KIND]) | str = Field(
        description="The table: a folder, or a URI.", examples=["pictures.lance"]
    )
    uri: Selector(kind=[STRING_KIND]) | str | None = Field(
        default=None,
        description="What the picture is called in the table. By default the file or URL that it "
        "was read from; of a crop, a name made of its pixels.",
        examples=["$inputs.path"],
    )
    folder: Selector(kind=[STRING_KIND]) | str | None = Field(
        default=None,
        description="Where the pictures are saved as PNG; their paths are their uris then.",
        examples=["crops"],
    )
    metadata: dict[str, Selector() | str | int | float | bool] = Field(
        default_factory=dict,
        description="Columns to fill, for `where`.",
        examples=[{"camera": "north", "class": "$steps.zero_shot.class"}],
    )
    model: Selector(kind=[STRING_KIND]) | str | None = Field(
        default=None,
        description="The model of a new table; an old one knows its own.",
        examples=["PE-Core-B16-224", "$inputs.model"],
    )
    disable_sink: Selector(kind=[BOOLEAN_KIND]) | bool = Field(
        default=False, description="Add nothing.", examples=[True, "$inputs.disable_sinks"]
    )

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if self.uri is not None and self.folder is not None:
            raise ValueError("give uri or folder: a picture that is saved is called by its path")
        return self

    @classmethod
    def get_parameters_accepting_batches(cls) -> list[str]:
        """Name the fields that come as batches."""
        return ["images"]

    @classmethod
    def get_parameters_accepting_batches_and_scalars(cls) -> list[str]:
        """Name the fields that come as batches, or as single values."""
        return ["uri", "metadata"]

    @classmethod
    def describe_outputs(cls) -> list[OutputDefinition]:
        """Say what the block gives."""
        return [
            OutputDefinition(name="uri", kind=[STRING_KIND]),
            OutputDefinition(name="id", kind=[STRING_KIND]),
            OutputDefinition(name="is_new", kind=[BOOLEAN_KIND]),
        ]


class IndexAddBlock(Block):
    """Adds a batch with one call of the model and one commit."""

    manifest = IndexAddManifest

    def run(
        self,
        images: Any,
        index: str,
        uri: Any,
        folder: str | None,
        metadata: dict[str, Any],
        model: str | None,
        disable_sink: bool,
    ) -> Any:
        """Return the `uri` and `id` of each picture's row, and whether it `is_new`."""
        if disable_sink:
            return [{"uri": None, "id": None, "is_new": False} for _ in images]
        if model is not None:
            self._tables.check_model(model)
        if folder is not None:
            self._tables.check_write(folder)
        table, opened = open_for_adding(self._tables, self._models, index, model)
        count = len(images)
        columns = {name: spread(value, count) for name, value in metadata.items()}
        pictures = [
            NewPicture(image, name, {key: values[n] for key, values in columns.items()})
            for n, (image, name) in enumerate(zip(images, spread(uri, count), strict=True))
        ]
        added = add_pictures(self._tables, table, opened, pictures, folder)
        return [{"uri": row.uri, "id": row.id, "is_new": is_new} for row, is_new in added]
