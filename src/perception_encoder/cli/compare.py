"""`pe compare`: how alike images and texts are."""

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
from perception_encoder.cli.text_files import find_problem
from perception_encoder.errors import ImageError, TextError

if TYPE_CHECKING:
    from perception_encoder.embedder import EmbeddingModel
    from perception_encoder.types import Embeddings


def compare(
    first: Annotated[str, typer.Argument(help="An image file, or a text.")],
    others: Annotated[list[str], typer.Argument(help="Image files or texts to compare with.")],
    model: ModelOption = DEFAULT_MODEL,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Print how similar images and texts are to a first one.

    An argument that is the name of an image is an image, anything else is a text. One of the
    others that cannot be used is reported, and the exit code is 1.

    Examples:
        pe compare dog.jpg "a dog" "a cat" "a truck"
        pe compare dog.jpg other.jpg
    """
    _check(first, 1)
    loaded = open_model(model, device=device)
    vector = _embedded(loaded, first)
    scores: list[tuple[float, str]] = []
    for number, item in enumerate(others, 2):
        try:
            _check(item, number)
            scores.append((float(loaded.similarity(vector, _embedded(loaded, item))[0, 0]), item))
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


def _check(item: str, number: int) -> None:
    """Refuse a text that is none.

    Raises:
        TextError: it is not valid, or an encoded image.
    """
    if not _is_image(item) and (problem := find_problem(item, f"argument {number}")):
        raise TextError(problem)


def _embedded(model: "EmbeddingModel", item: str) -> "Embeddings":
    return model.embed_image(item) if _is_image(item) else model.embed_text(item)


def _is_image(item: str) -> bool:
    """A file, or a name that ends as images do: a missing one is then reported as such."""
    from perception_encoder.preprocess.files import IMAGE_SUFFIXES

    return os.path.isfile(item) or os.path.splitext(item)[1].lower() in IMAGE_SUFFIXES
