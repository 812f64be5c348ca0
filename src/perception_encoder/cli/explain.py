"""`pe explain`: which parts of an image make it similar to a text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli.options import (
    DEFAULT_MODEL,
    BackendOption,
    DeviceOption,
    JsonOption,
    ModelOption,
    open_model,
)
from perception_encoder.cli.output import check_file, say, write_json, write_table
from perception_encoder.cli.text_files import find_error


def explain(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    texts: Annotated[list[str], typer.Argument(help="Texts, each explained by a map of its own.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Image to write: the maps over the image (.png, .jpg)."),
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    device: DeviceOption = "auto",
    backend: BackendOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Show which parts of an image make it similar to a text.

    Divides the cosine of the image with each text among the patches of the image. Prints the
    cosine, what all patches add to it, and the rest, which no patch adds. With --json also the map:
    rows of patches, from the top.

    Examples:
        pe explain dog.jpg "a dog" "a ball" -o why.png
        pe explain dog.jpg "a dog" --json
    """
    from perception_encoder.analysis.relevance_maps import MAX_TEXTS

    if len(texts) > MAX_TEXTS:
        raise typer.BadParameter(f"{len(texts)} texts; at most {MAX_TEXTS} have room in one image")
    for number, text in enumerate(texts, 2):
        if error := find_error(text, f"argument {number}"):
            raise typer.BadParameter(error)
    check_file(out)
    found = open_model(model, device=device, backend=backend).explain(image, texts)
    if out is not None:
        from perception_encoder.analysis.drawing import save_image
        from perception_encoder.analysis.relevance_maps import draw_relevance

        save_image(draw_relevance(image, found, texts), out)
    table = []
    for text, score, rest, values in zip(
        texts, found.scores.tolist(), found.rest.tolist(), found.maps, strict=True
    ):
        table.append([f"{score:.4f}", f"{score - rest:.4f}", f"{rest:.4f}", text])
        if as_json:
            record = {"text": text, "score": round(score, 6), "rest": round(rest, 6)}
            region = [round(edge, 6) for edge in found.region]
            write_json(record | {"region": region, "map": values.astype(float).round(6).tolist()})
    if not as_json:
        write_table(["score", "patches", "rest", "text"], table)
    if out is not None:
        say(f"{out}: the maps of {len(texts)} text{'s' * (len(texts) > 1)}")
