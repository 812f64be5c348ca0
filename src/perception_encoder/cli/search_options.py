"""The options that `pe search` and `pe similar` share, written once.

A command takes them as one value: `@with_search_options` gives its command line an option for each
field of `SearchFlags` and hands over the filled-in value.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from perception_encoder.cli.command import Command
from perception_encoder.cli.options import (
    DeviceOption,
    JsonOption,
    NullOption,
    PathsOption,
    TableModelOption,
    TableOption,
    WhereOption,
)

PreviewChoice = Literal["auto", "kitty", "iterm2", "sixel", "blocks"]

_WHEN_BARE: Final = {"--unique": "--unique=0.95", "--preview": "--preview=auto"}


class BareOptions(Command):
    """A command where `--unique` and `--preview` need no value, and take one after `=` only.

    So a query that comes next is never taken for the value.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Write the values out that were left out."""
        end = args.index("--") if "--" in args else len(args)
        args = [_WHEN_BARE.get(word, word) for word in args[:end]] + args[end:]
        rest: list[str] = super().parse_args(ctx, args)
        return rest


@dataclass(frozen=True, slots=True)
class SearchFlags:
    """The shared options as they were given."""

    db: TableOption = None
    k: Annotated[int, typer.Option("-k", min=1, help="How many hits, at most.")] = 10
    offset: Annotated[
        int, typer.Option(min=0, help="Leave out so many of the best: the next page.")
    ] = 0
    threshold: Annotated[
        str | None,
        typer.Option(help="The lowest cosine of a hit, such as 0.3; or its label: strong, weak."),
    ] = None
    where: WhereOption = None
    exact: Annotated[
        bool, typer.Option("--exact", help="Look at every vector, also of a large table.")
    ] = False
    unique: Annotated[
        float | None,
        typer.Option(
            metavar="[=COSINE]", help="Fold near-duplicates under the best hit of them [0.95]."
        ),
    ] = None
    as_json: JsonOption = False
    paths: PathsOption = False
    null: NullOption = False
    sheet: Annotated[
        Path | None, typer.Option(help="Draw the query and its hits as one picture.")
    ] = None
    preview: Annotated[
        PreviewChoice | None,
        typer.Option(
            metavar="[=PROTOCOL]", help="Show the hits here: kitty, iterm2, sixel, blocks."
        ),
    ] = None
    open_hits: Annotated[
        bool, typer.Option("--open", help="Open the hits in this machine's viewer.")
    ] = False
    model: TableModelOption = None
    device: DeviceOption = "auto"


def with_search_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command whose last parameter is `flags: SearchFlags` an option for each field."""
    shared = inspect.signature(SearchFlags).parameters

    @functools.wraps(command)
    def run(**values: Any) -> None:
        flags = SearchFlags(**{name: values.pop(name) for name in shared})
        command(**values, flags=flags)

    own = [p for name, p in inspect.signature(command).parameters.items() if name != "flags"]
    parameters = [*own, *(p.replace(kind=own[-1].kind) for p in shared.values())]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run
