"""The commands of `pe`, from its parser."""

from collections.abc import Iterator
from typing import Any

import typer.main

from perception_encoder.cli.main import app

ROOT: Any = typer.main.get_command(app)


def options_of(group: Any = ROOT, name: str = "pe") -> Iterator[tuple[str, set[str]]]:
    """Every command's words, and the spellings of its options that are shown."""
    shown = [one for one in group.params if not getattr(one, "hidden", False)]
    spellings = {spelling for one in shown for spelling in (*one.opts, *one.secondary_opts)}
    yield name, {"--help", *spellings}
    for inner, command in getattr(group, "commands", {}).items():
        yield from options_of(command, f"{name} {inner}")
