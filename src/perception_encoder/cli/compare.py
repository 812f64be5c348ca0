"""`pe compare`: how alike pictures and texts are."""

import os
from typing import Annotated

import typer

from perception_encoder.cli.options import (
    DEFAULT_MODEL,
    DeviceOption,
    JsonOption,
    ModelOption,
    open_model,
)
from perception_encoder.cli.output import write_json, write_table


def compare(
    first: Annotated[str, typer.Argument(help="A picture file, or a text.")],
    others: Annotated[list[str], typer.Argument(help="Picture files or texts to compare with.")],
    model: ModelOption = DEFAULT_MODEL,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Print the cosine of the first item with each of the others, best first.

    An argument that is the name of a picture is a picture, anything else is a text.

    Examples:
        pe compare dog.jpg "a dog" "a cat" "a truck"
        pe compare dog.jpg other.jpg
    """
    from perception_encoder.preprocess.image_strings import refuse_image

    items = [first, *others]
    for number, item in enumerate(items, 1):
        refuse_image(item, item=f"argument {number}")
    loaded = open_model(model, device=device)
    vectors = []
    for item in items:
        embed = loaded.embed_image if _is_picture(item) else loaded.embed_text
        vectors.append(embed(item))
    scores = [float(loaded.similarity(vectors[0], vector)[0, 0]) for vector in vectors[1:]]
    ranked = sorted(zip(scores, others, strict=True), key=lambda pair: -pair[0])
    if as_json:
        for score, item in ranked:
            write_json({"item": item, "score": round(score, 6)})
    else:
        write_table(["score", "item"], [[f"{score:.4f}", item] for score, item in ranked])


def _is_picture(item: str) -> bool:
    """A file, or a name that ends as pictures do: a missing one is then reported as such."""
    from perception_encoder.index import IMAGE_SUFFIXES

    return os.path.isfile(item) or os.path.splitext(item)[1].lower() in IMAGE_SUFFIXES
