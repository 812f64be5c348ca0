"""`pe search` and `pe similar`: find pictures by words, by pictures, or by sums of both."""

import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from perception_encoder.cli.hits import Answer, show
from perception_encoder.cli.options import table_path
from perception_encoder.cli.output import say
from perception_encoder.cli.search_options import SearchFlags, with_search_options
from perception_encoder.errors import QueryError

if TYPE_CHECKING:
    from perception_encoder.embedder import EmbeddingModel
    from perception_encoder.index import Index, QueryTerm
    from perception_encoder.pipeline.calibration import Calibration
    from perception_encoder.pipeline.queries import Query
    from perception_encoder.pipeline.search import SearchOptions

_STDIN: Final = "-"
_LABELS: Final = ("strong", "weak")


@with_search_options
def search(
    query: Annotated[
        list[str] | None,
        typer.Argument(help="Words, a picture, @ITEM of the table, or a sum of them."),
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(help="Read queries from a file, one a line; - is stdin.")
    ] = None,
    *,
    flags: SearchFlags,
) -> None:
    """Find the pictures of a table that fit a query, best first.

    A picture may be a file, a web address, @ and the end of an indexed name (or its id), or - for
    the picture on stdin.

    Examples:
        pe search "red heart"
        pe search cat.png -k 5 --sheet hits.png
        pe search @cat.webp + "red" --unique
        pe search "2:golden retriever" + pool.jpg - fruit
        pe search --queries queries.txt --json
    """
    from perception_encoder.index import parse_query

    if (query is None) == (queries is None):
        raise typer.BadParameter("give a query, or a file of queries with --queries")
    if queries is not None:
        _answer(_lines(queries), flags)
    elif query is not None:
        _answer([(None, parse_query(query))], flags)


@with_search_options
def similar(
    picture: Annotated[
        str, typer.Argument(help="A picture file, @ITEM of the table, a web address, or -.")
    ],
    *,
    flags: SearchFlags,
) -> None:
    """Find the pictures of a table that look like one, which is itself left out.

    Of a picture that is in the table and has not changed, the vector is taken from there: no model
    is loaded.
    """
    from perception_encoder.index.query import picture_term

    try:
        term = picture_term(picture)
    except QueryError as err:
        raise typer.BadParameter(str(err)) from err
    _answer([(None, (term,))], flags, leave_out_own=True)


def _answer(
    queries: "Sequence[tuple[str | None, Sequence[QueryTerm]]]",
    flags: SearchFlags,
    *,
    leave_out_own: bool = False,
) -> None:
    from perception_encoder.index import Index
    from perception_encoder.pipeline.queries import read_queries
    from perception_encoder.pipeline.search import search as find

    options = _options(flags)
    index = Index.open(table_path(flags.db))

    @cache
    def open_the_model() -> "EmbeddingModel":
        from perception_encoder.pipeline.query_model import open_query_model

        # The table knows its model; only one that was opened from a path has to be named again.
        return open_query_model(index, flags.model, device=flags.device)

    read = read_queries(
        index, [terms for _, terms in queries], open_the_model, read_stdin=sys.stdin.buffer.read
    )
    calibration = _calibration(index, read, open_the_model) if _shows_labels(flags) else None
    found = find(index, read, options, calibration=calibration, leave_out_own=leave_out_own)
    written = [line for line, _ in queries]
    show([Answer(*answer) for answer in zip(read, found, written, strict=True)], flags)


def _shows_labels(flags: SearchFlags) -> bool:
    return not (flags.paths or flags.null) or flags.threshold in _LABELS


def _calibration(
    index: "Index", queries: "Sequence[Query]", open_the_model: "Callable[[], EmbeddingModel]"
) -> "Calibration | None":
    from perception_encoder.pipeline.calibration import (
        calibrate,
        can_be_calibrated,
        stored_calibration,
    )

    if not can_be_calibrated(index):
        return None
    calibration = stored_calibration(index, queries)
    if calibration is None:
        say("learning what scores mean in this table (kept for the next searches)")
        calibration = calibrate(index, open_the_model, queries)
    return calibration


def _options(flags: SearchFlags) -> "SearchOptions":
    from perception_encoder.pipeline.search import SearchOptions

    try:
        return SearchOptions(
            k=flags.k,
            offset=flags.offset,
            threshold=_threshold(flags.threshold),
            where=flags.where,
            exact=flags.exact,
            unique=flags.unique,
        )
    except ValueError as err:
        raise typer.BadParameter(str(err)) from err


def _threshold(written: str | None) -> 'float | Literal["strong", "weak"] | None':
    if written is None:
        return None
    if written in _LABELS:
        return "strong" if written == "strong" else "weak"
    try:
        return float(written)
    except ValueError:
        raise ValueError(
            f"--threshold must be a cosine such as 0.3, or strong or weak, got {written!r}"
        ) from None


def _lines(path: Path) -> "list[tuple[str, Sequence[QueryTerm]]]":
    """Read one query from each line that is not empty.

    Raises:
        QueryError: a line cannot be understood; the message says which.
    """
    from perception_encoder.index import parse_query

    text = sys.stdin.read() if str(path) == _STDIN else path.read_text(encoding="utf-8")
    queries: list[tuple[str, Sequence[QueryTerm]]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            if line.strip() == _STDIN:
                raise QueryError("- stands for a picture on stdin only alone, without --queries")
            queries.append((line.strip(), parse_query(line.strip())))
        except QueryError as err:
            raise QueryError(f"{path}, line {number}: {err}") from err
    return queries
