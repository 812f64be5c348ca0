"""`pe models` and `pe download`: the registered models, and downloading them."""

from __future__ import annotations

from typing import Annotated

import typer

from perception_encoder.cli.options import JsonOption, complete_model
from perception_encoder.cli.output import say, write_json, write_line, write_table


def list_models(
    cached: Annotated[bool, typer.Option("--cached", help="Only models on this machine.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the models: size, accuracy, license, and whether each is on this machine.

    Example:
        pe models --cached
    """
    from perception_encoder.checkpoints import is_cached
    from perception_encoder.registry import MODELS

    cache = {entry.id: is_cached(entry) for entry in MODELS}
    entries = [entry for entry in MODELS if not cached or cache[entry.id] is not None]
    if as_json:
        for entry in entries:
            write_json(
                {
                    "id": entry.id,
                    "family": entry.family,
                    "parameters": entry.num_parameters,
                    "image_size": entry.config.vision.image_size,
                    "embed_dim": entry.config.embed_dim,
                    "reads_text": entry.config.text is not None,
                    "text_twin": entry.text_twin,
                    "imagenet_accuracy": entry.imagenet_accuracy,
                    "license": entry.license.spdx,
                    "license_url": entry.license.url,
                    "license_notice": entry.license.notice,
                    "cached": str(cache[entry.id]) if cache[entry.id] else None,
                }
            )
        return
    rows = [
        [
            entry.id,
            f"{entry.num_parameters / 1e6:.0f}M",
            str(entry.config.vision.image_size),
            str(entry.config.embed_dim or "features"),
            "yes" if entry.config.text is not None else "no",
            str(entry.imagenet_accuracy or "-"),
            entry.license.spdx,
            "yes" if cache[entry.id] else "no",
        ]
        for entry in entries
    ]
    write_table(["id", "size", "px", "dims", "text", "IN-1k %", "license", "here"], rows)
    for notice in dict.fromkeys(e.license.notice for e in entries if e.license.notice):
        say("", *notice.splitlines())


def download(
    names: Annotated[
        list[str],
        typer.Argument(
            autocompletion=complete_model, help="Model ids or Hugging Face repositories."
        ),
    ],
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the repository.")
    ] = None,
) -> None:
    """Download models into the Hugging Face cache, for use without network.

    Example:
        pe download PE-Core-S16-384
    """
    from perception_encoder.checkpoints import locate

    for name in names:
        checkpoint = locate(name, revision=revision)
        write_line(str(checkpoint.path))
        if checkpoint.config.text is not None and checkpoint.tokenizer is None:
            say(f"{name}: no tokenizer was found; it can embed images, but no texts")
