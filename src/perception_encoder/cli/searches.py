"""`pe searches`: list, run and remove the searches that `pe search --save` keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from perception_encoder.cli.command import Command, CommandGroup, keep_examples, report_error
from perception_encoder.cli.hits import Answer, SearchFlags, write_answers
from perception_encoder.cli.options import (
    DeviceOption,
    IndexModelOption,
    IndexOption,
    JsonOption,
    NullOption,
    PathsOption,
    PreviewChoice,
    find_index,
)
from perception_encoder.cli.output import check_sheet, say, write_json, write_table
from perception_encoder.errors import PerceptionEncoderError

if TYPE_CHECKING:
    from collections.abc import Callable

    from perception_encoder.index import Index
    from perception_encoder.search.saved import FoundAgain, SavedSearch

_NOTHING_NEW: Final = 1
_ERROR: Final = 2
_NEVER: Final = "never"


class _ListByDefault(CommandGroup):
    """A group that lists if no command is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments."""
        if not args or (args[0].startswith("-") and args[0] not in ("-h", "--help")):
            args = ["list", *args]
        rest: list[str] = super().parse_args(ctx, args)
        return rest


app = typer.Typer(
    name="searches",
    cls=_ListByDefault,
    help="List, run and remove saved searches.",
    rich_markup_mode=None,
)


@app.command("list", cls=Command)
@keep_examples
def list_(index_path: IndexOption = None, as_json: JsonOption = False) -> None:
    """List the saved searches of an index; `pe searches` alone does so, too.

    Example:
        pe searches --index images.lance
    """
    from perception_encoder.index import Index
    from perception_encoder.search.saved_store import SavedSearches

    index = Index.open(find_index(index_path))
    searches = SavedSearches(index.path).load()
    if as_json:
        for one in searches:
            write_json(one.describe())
    elif searches:
        write_table(
            ["name", "last run", "query"],
            [[one.name, one.last_run_at or _NEVER, one.description] for one in searches],
        )
    else:
        say(f"{index.path}: no saved searches; save one with: pe search … --save NAME")


@app.command(cls=Command)
@keep_examples
def run(  # noqa: PLR0913  one parameter for each option
    name: Annotated[str, typer.Argument(help="Name of a saved search.")],
    index_path: IndexOption = None,
    since_last: Annotated[
        bool,
        typer.Option("--since-last", help="Show only hits that are new since the last run."),
    ] = False,
    k: Annotated[
        int | None, typer.Option("-k", min=1, help="Number of hits, at most; default: as saved.")
    ] = None,
    as_json: JsonOption = False,
    paths: PathsOption = False,
    null: NullOption = False,
    sheet: Annotated[
        Path | None, typer.Option(help="Draw the query and its hits: .png, .jpg, .webp or .html.")
    ] = None,
    preview: Annotated[
        PreviewChoice | None,
        typer.Option(help="Show the hits in the terminal: kitty, iterm2, sixel or blocks."),
    ] = None,
    open_hits: Annotated[
        bool, typer.Option("--open", help="Open the hits in this machine's viewer.")
    ] = False,
    model: IndexModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Run a saved search.

    A hit is new if no earlier run has shown it, and it was no hit when the search was saved. An
    image that is indexed again is not new. With --since-last the exit code is grep's: 0 if there
    are new hits, 1 if there are none, 2 after an error. New hits beyond -k are counted, and stay
    new; so do all hits of a failed run.

    Examples:
        pe searches run cats
        pe searches run cats --since-last --paths && notify-send "new cats"
    """
    from perception_encoder.index import Index
    from perception_encoder.search.saved_store import SavedSearches

    flags = SearchFlags(
        index_path=index_path,
        as_json=as_json,
        paths=paths,
        null=null,
        sheet=sheet,
        preview=preview,
        open_hits=open_hits,
        model=model,
        device=device,
    )
    try:
        index = Index.open(find_index(index_path))
        search = SavedSearches(index.path).get(name)
        if k is not None:
            search = replace(search, options=replace(search.options, k=k))
        num_shown = run_search(index, search, flags, since_last=since_last)
    except (PerceptionEncoderError, OSError) as err:
        if not since_last:
            raise
        report_error(err)
        raise typer.Exit(_ERROR) from err
    if since_last and not num_shown:
        raise typer.Exit(_NOTHING_NEW)


@app.command(cls=Command)
@keep_examples
def remove(
    name: Annotated[str, typer.Argument(help="Name of a saved search.")],
    index_path: IndexOption = None,
) -> None:
    """Remove a saved search; no image and no row is touched.

    Example:
        pe searches remove cats
    """
    from perception_encoder.index import Index
    from perception_encoder.search.saved_store import SavedSearches

    SavedSearches(Index.open(find_index(index_path)).path).remove(name)
    say(f"removed the saved search {name}")


def run_search(
    index: Index,
    search: SavedSearch,
    flags: SearchFlags,
    *,
    since_last: bool = False,
    keep: Callable[[], object] | None = None,
) -> int:
    """Run a search, write its hits and note them; return how many were written.

    Args:
        index: the index.
        search: the search.
        flags: where the hits go; what they are is the search's.
        since_last: write only hits that are new.
        keep: stores the search after it has worked; all hits of that moment count as seen.
    """
    from perception_encoder.cli.search import find_calibration, model_opener
    from perception_encoder.search.saved_store import SavedSearches

    check_sheet(flags.sheet)
    open_model = model_opener(index, flags)
    query = search.read_query(index, open_model)
    calibration = None
    if query is not None:
        threshold = search.options.threshold
        calibration = find_calibration(index, [query], open_model, flags, threshold)
    found = search.find(index, query, calibration)
    hits = found.new if since_last else found.hits
    if hits or not since_last:
        write_answers([Answer(query, hits, text=search.text)], flags)
    if keep is not None:
        keep()
    shown = hits if keep is None else found.all
    SavedSearches(index.path).note_run(search, query, index.identity, shown)
    _report_others(search, found, since_last=since_last, is_saved=keep is not None)
    return len(hits)


def _report_others(
    search: SavedSearch, found: FoundAgain, *, since_last: bool, is_saved: bool
) -> None:
    """Report hits that are not shown."""
    num_shown, num_hits = len(found.hits), len(found.all) - search.options.offset
    if found.is_cut:
        say(f"only the best {len(found.all):,} hits are looked at; a higher --threshold has fewer")
    if since_last and found.num_new > len(found.new):
        say(
            f"{len(found.new):,} of {found.num_new:,} new hits shown; the others stay new "
            f"(-k {found.num_new} shows all at once)"
        )
    elif is_saved and search.has_an_end and num_hits > num_shown:
        say(f"{num_shown:,} of {num_hits:,} hits shown; all of them count as seen from now on")
