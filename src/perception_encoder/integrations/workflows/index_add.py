"""The block `pe_index_add@v1`: adds images of a workflow to an index, one commit for a batch."""

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
from PIL import Image
from pydantic import ConfigDict, Field, model_validator

from perception_encoder.atomic import atomic_write
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.errors import IndexBusyError, IndexNotFoundError
from perception_encoder.index import Index, MetadataValue, Row
from perception_encoder.index.rows import clamp_time
from perception_encoder.integrations.workflows.engine import (
    BOOLEAN_KIND,
    IMAGE_KIND,
    STRING_KIND,
    Manifest,
    ModelBlock,
    OutputDefinition,
    Selector,
    embed_workflow_images,
    image_of,
    repeat_for_images,
)
from perception_encoder.integrations.workflows.models import DEFAULT_MODEL, Indexes, Models
from perception_encoder.preprocess.arrays import array_to_image, tensor_to_image

logger = logging.getLogger(__name__)

_VERSIONS_KEPT: Final = timedelta(days=1)  # as `pe index` does


@dataclass(frozen=True, slots=True)
class NewImage:
    """An image to add to an index.

    Attributes:
        image: of the workflow.
        uri: its name in the index; None for the file or URL that it was read from, or else a
            digest of its pixels.
        metadata: becomes columns.
    """

    image: Any
    uri: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


def open_for_adding(
    indexes: Indexes, models: Models, path: str, model: str | None
) -> tuple[Index, EmbeddingModel]:
    """Open an index and its model; a new index gets the given model, or the default.

    Raises:
        IndexMismatchError: the index holds another model's vectors.
        IndexStorageError: it cannot be written, or blocks may not write there.
        UnknownModelError, CheckpointError, DownloadError, BackendUnavailableError: as
            `AutoModel.from_pretrained`.
    """
    indexes.check_write(path)
    try:
        index = indexes.open(path)
    except IndexNotFoundError:
        opened = models.get(model or DEFAULT_MODEL)
        index = indexes.open_or_create(path, opened.identity)
        return index, opened
    return index, models.of_index(index, model)


def add_images(
    indexes: Indexes,
    index: Index,
    model: EmbeddingModel,
    images: Sequence[NewImage],
    folder: str | None,
) -> list[tuple[Row, bool]]:
    """Embed images and add them in one commit, once no other process is writing.

    An image whose uri the index has replaces that row; of two with one uri the later counts.

    Args:
        indexes: the indexes of the process.
        index: the index.
        model: its model.
        images: what to add.
        folder: where to save the images as PNG; their paths become their uris.

    Returns:
        The row of each, and whether the index had none of that uri.

    Raises:
        ImageError: an image cannot be used; nothing was added.
        ValueError: metadata that is no text, number or truth value.
        IndexStorageError: writing failed; the rows are as before.
    """
    vectors = embed_workflow_images(model, [image.image for image in images])
    rows = [_row(image, folder) for image in images]
    with indexes.writing(index):
        index.refresh()
        known = index.by_ids(row.id for row in rows)
        fitted, left_out = index.fit(rows)
        index.add(fitted, vectors)
    for name, count in left_out.items():
        logger.warning(
            "%s: %d values of %r are of another kind than its column, and were left out",
            index.path, count, name,
        )  # fmt: skip
    if index.needs_optimize():
        with suppress(IndexBusyError):  # the next writer optimizes
            index.optimize(older_than=_VERSIONS_KEPT)
    return [(row, row.id not in known) for row in rows]


def _row(new: NewImage, folder: str | None) -> Row:
    image = _as_pillow(new.image)
    metadata = {name: _plain(name, value) for name, value in new.metadata.items()}
    width, height = image.size
    if folder is not None:
        path = Path(folder).absolute() / f"{_digest(image)}.png"
        data_sha256 = _save(image, path)
        status = path.stat()
        return Row(
            str(path),
            width=width,
            height=height,
            bytes=status.st_size,
            mtime=clamp_time(status.st_mtime_ns),
            sha256=data_sha256,
            metadata=metadata,
        )
    uri = new.uri or _origin(new.image) or f"workflow:{_digest(image)}"
    return Row(uri, width=width, height=height, metadata=metadata)


def _as_pillow(image: Any) -> Image.Image:
    array = image_of(image)
    if isinstance(array, np.ndarray):
        return array_to_image(array, input_color_format="bgr", item="the image")
    return tensor_to_image(array, item="the image")


def _digest(image: Image.Image) -> str:
    """Return a digest of the pixels: 32 hex digits."""
    digest = hashlib.blake2b(f"{image.mode} {image.size}".encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.hexdigest()


def _origin(image: Any) -> str | None:
    """Return the path or URL that a whole image was read from."""
    source = image.to_inference_format()
    if source["type"] == "file":
        return os.path.abspath(str(source["value"]))
    return str(source["value"]) if source["type"] == "url" else None


def _save(image: Image.Image, path: Path) -> str:
    """Write a PNG, unless it is there, and return the SHA-256 of the file."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            image.save(temporary, "PNG", compress_level=1)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _plain(name: str, value: Any) -> MetadataValue:
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise ValueError(
        f"metadata {name!r} must be a text, a number or a truth value, got {type(value).__name__}"
    )


class IndexAddManifest(Manifest):
    """The fields of the block in a workflow."""

    model_config = ConfigDict(
        json_schema_extra={
            "name": "Perception Encoder: add to index",
            "version": "v1",
            "short_description": "Adds images to an index, to be searched later.",
            "long_description": "Embeds a batch of images and adds it to an index in one commit; "
            "it creates the index if there is none. `pe search`, `pe serve` and the block "
            "`pe_search` read it. With `folder` the images are saved too, to be looked at.",
            "license": "Apache-2.0",
            "block_type": "sink",
        }
    )
    type: Literal["perception_encoder/pe_index_add@v1", "pe_index_add@v1"]
    images: Selector(kind=[IMAGE_KIND]) = Field(
        description="The images.", examples=["$inputs.image", "$steps.cropping.crops"]
    )
    index: Selector(kind=[STRING_KIND]) | str = Field(
        description="The index: a folder, or a URI.", examples=["images.lance"]
    )
    uri: Selector(kind=[STRING_KIND]) | str | None = Field(
        default=None,
        description="The image's name in the index. Defaults to the file or URL that it was "
        "read from; for a crop, to a digest of its pixels.",
        examples=["$inputs.path"],
    )
    folder: Selector(kind=[STRING_KIND]) | str | None = Field(
        default=None,
        description="A folder to save the images to, as PNG; their paths become their uris.",
        examples=["crops"],
    )
    metadata: dict[str, Selector() | str | int | float | bool] = Field(
        default_factory=dict,
        description="Columns to fill, for `where`.",
        examples=[{"camera": "north", "class": "$steps.zero_shot.class"}],
    )
    model: Selector(kind=[STRING_KIND]) | str | None = Field(
        default=None,
        description="The model of a new index; an existing one stores its own.",
        examples=["PE-Core-B16-224", "$inputs.model"],
    )
    disable_sink: Selector(kind=[BOOLEAN_KIND]) | bool = Field(
        default=False, description="Add nothing.", examples=[True, "$inputs.disable_sinks"]
    )

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if self.uri is not None and self.folder is not None:
            raise ValueError("give uri or folder: an image that is saved is called by its path")
        return self

    @classmethod
    def get_parameters_accepting_batches(cls) -> list[str]:
        """Return the fields that come as batches."""
        return ["images"]

    @classmethod
    def get_parameters_accepting_batches_and_scalars(cls) -> list[str]:
        """Return the fields that come as batches or as single values."""
        return ["uri", "metadata"]

    @classmethod
    def describe_outputs(cls) -> list[OutputDefinition]:
        """Return the outputs."""
        return [
            OutputDefinition(name="uri", kind=[STRING_KIND]),
            OutputDefinition(name="id", kind=[STRING_KIND]),
            OutputDefinition(name="is_new", kind=[BOOLEAN_KIND]),
        ]


class IndexAddBlock(ModelBlock):
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
        """Return the `uri` and `id` of each image's row, and whether it `is_new`."""
        if disable_sink:
            return [{"uri": None, "id": None, "is_new": False} for _ in images]
        if model is not None:
            self._indexes.check_model(model)
        if folder is not None:
            self._indexes.check_write(folder)
        opened_index, opened = open_for_adding(self._indexes, self._models, index, model)
        count = len(images)
        columns = {name: repeat_for_images(value, count) for name, value in metadata.items()}
        new = [
            NewImage(image, name, {key: values[n] for key, values in columns.items()})
            for n, (image, name) in enumerate(
                zip(images, repeat_for_images(uri, count), strict=True)
            )
        ]
        added = add_images(self._indexes, opened_index, opened, new, folder)
        return [{"uri": row.uri, "id": row.id, "is_new": is_new} for row, is_new in added]
