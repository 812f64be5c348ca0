"""`pe compare`: how similar images and texts are."""

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

if TYPE_CHECKING:
    from perception_encoder.embedder import EmbeddingModel
    from perception_encoder.types import Embeddings


def compare(
    first: Annotated[str, typer.Argument(help="An image file or a text.")],
    others: Annotated[list[str], typer.Argument(help="Image files or texts to compare with.")],
    model: ModelOption = DEFAULT_MODEL,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Print how similar images and texts are to a first one.

    Prints cosines, best first. An argument that names an image file is an image, anything else is
    a text. An item that cannot be embedded is reported, and the exit code is 1.

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
    if not _is_image(item) and (error := find_error(item, f"argument {number}")):
        raise TextError(error)


def _embed(model: EmbeddingModel, item: str) -> Embeddings:
    return model.embed_image(item) if _is_image(item) else model.embed_text(item)


def _is_image(item: str) -> bool:
    """Return whether the item is a file, or has an image's suffix: a missing one is reported."""
    from perception_encoder.preprocess.files import IMAGE_SUFFIXES

    return os.path.isfile(item) or os.path.splitext(item)[1].lower() in IMAGE_SUFFIXES
