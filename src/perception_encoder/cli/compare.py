"""`pe compare`: how similar images, videos and texts are."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from perception_encoder.cli.options import (
    DEFAULT_MODEL,
    DeviceOption,
    JsonOption,
    ModelOption,
    open_model,
)
from perception_encoder.cli.output import say, write_json, write_table
from perception_encoder.cli.text_files import find_error
from perception_encoder.errors import ImageError, TextError
from perception_encoder.video.names import is_clip

if TYPE_CHECKING:
    from perception_encoder.embedder import EmbeddingModel
    from perception_encoder.types import Embeddings


def compare(
    first: Annotated[str, typer.Argument(help="An image or video file, or a text.")],
    others: Annotated[
        list[str], typer.Argument(help="Image or video files, or texts, to compare with.")
    ],
    model: ModelOption = DEFAULT_MODEL,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Print how similar images, videos and texts are to a first one.

    Prints cosines, best first. An argument that names an image or a video is one, also
    clip.mp4#t=1:23 for a frame of a video and dog.jpg#xywh=10,20,200,150 for a part of an image;
    anything else is a text. An item that cannot be embedded is reported, and the exit code is 1.

    Examples:
        pe compare dog.jpg "a dog" "a cat" "a truck"
        pe compare dog.jpg other.jpg
    """
    _check_text(first, 1)
    loaded = open_model(model, device=device)
    embedding = _embed(loaded, first)
    scores: list[tuple[float, str]] = []
    for number, item in enumerate(others, 2):
        try:
            _check_text(item, number)
            cosine = loaded.similarity(embedding, _embed(loaded, item))[0, 0]
            scores.append((float(cosine), item))
        except (ImageError, TextError) as err:
            say(f"pe: {err}")
    ranked = sorted(scores, key=lambda pair: -pair[0])
    if as_json:
        for score, item in ranked:
            write_json({"item": item, "score": round(score, 6)})
    elif ranked:
        write_table(["score", "item"], [[f"{score:.4f}", item] for score, item in ranked])
    num_failed = len(others) - len(ranked)
    if num_failed:
        if len(others) > 1:
            say(f"pe: {num_failed} of {len(others)} items not compared")
        raise typer.Exit(1)


def _check_text(item: str, number: int) -> None:
    """Refuse a text that cannot be embedded.

    Raises:
        TextError: it is not valid text, or an encoded image.
    """
    if not (_is_image(item) or is_clip(item)) and (error := find_error(item, f"argument {number}")):
        raise TextError(error)


def _embed(model: EmbeddingModel, item: str) -> Embeddings:
    if is_clip(item):
        return model.embed_video(item)
    if not _is_image(item):
        return model.embed_text(item)
    from perception_encoder.sources import open_named_image

    return model.embed_image(open_named_image(item))


def _is_image(item: str) -> bool:
    """Whether the item is a file, or has the suffix of an image: a missing one is reported."""
    from perception_encoder.preprocess.crops import name_without_crop
    from perception_encoder.preprocess.files import IMAGE_SUFFIXES

    name = name_without_crop(item)
    is_part = name != item and is_clip(name)
    is_file = os.path.isfile(item) or os.path.isfile(name)
    return is_part or is_file or os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
