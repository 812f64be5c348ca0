"""`pe search` and `pe similar`: find images by words, by images, or by sums of both."""

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, NamedTuple

import typer

from perception_encoder.cli.hits import Answer, show
from perception_encoder.cli.model_choice import warn_of_photo_index
from perception_encoder.cli.options import SearchFlags, find_index, with_search_options
from perception_encoder.cli.output import check_sheet, say
from perception_encoder.cli.text_files import problem_of, read_list
from perception_encoder.errors import ImageError, QueryError

if TYPE_CHECKING:
    from perception_encoder.embedder import EmbeddingModel
    from perception_encoder.index import Index
    from perception_encoder.search.grammar import QueryTerm
    from perception_encoder.search.queries import Query
    from perception_encoder.search.search import SearchOptions

_STDIN: Final = "-"
_LABELS: Final = ("strong", "weak")
_SHOWN_FAILURES: Final = 20
_SHOWN: Final = 40  # characters of a term


class _Written(NamedTuple):
    """A query as it was written, what it means, and the line where it is; None for a single one."""

    text: str | None
    terms: "Sequence[QueryTerm]"
    place: str = ""


@with_search_options
def search(
    query: Annotated[
        list[str] | None,
        typer.Argument(help="Words, an image, @ITEM of the index, or a sum of them."),
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(help="Read queries from a file, one a line; - is stdin.")
    ] = None,
    *,
    flags: SearchFlags,
) -> None:
    """Find the images that match a text, an image, or a sum of both.

    An image may be a file, a web address, @ and the end of an indexed name (or its id), or - for
    the image on stdin. With --queries, a line that cannot be answered is reported, and the exit
    code is 1; the others are answered.

    Examples:
        pe search "red heart"
        pe search cat.png -k 5 --sheet hits.png
        pe search @cat.webp + "red" --unique
        pe search "2:golden retriever" + pool.jpg - fruit
        pe search --queries queries.txt --json
    """
    from perception_encoder.search.grammar import parse_query

    if (query is None) == (queries is None):
        raise typer.BadParameter("give a query, or a file of queries with --queries")
    if queries is not None:
        read, num_failed = _parsed(read_list(queries), str(queries))
        num_failed += _answer(read, flags) if read else 0
        if num_failed:
            say(f"pe: {'1 query' if num_failed == 1 else f'{num_failed} queries'} not answered")
            raise typer.Exit(1)
    elif query is not None:
        _answer([_Written(None, _checked(parse_query(query)))], flags)


@with_search_options
def similar(
    image: Annotated[
        str, typer.Argument(help="An image file, @ITEM of the index, a web address, or -.")
    ],
    *,
    flags: SearchFlags,
) -> None:
    """Find the images that look like a given image.

    Of an image that is in the index and has not changed, the vector is taken from there: no model
    is loaded.
    """
    from perception_encoder.search.grammar import image_term

    try:
        term = image_term(image)
    except QueryError as err:
        raise typer.BadParameter(str(err)) from err
    _answer([_Written(None, _checked((term,)))], flags, leave_out_own=True)


def _answer(queries: Sequence[_Written], flags: SearchFlags, *, leave_out_own: bool = False) -> int:
    """Answer queries, and return how many of several could not be."""
    from perception_encoder.index import Index
    from perception_encoder.search.calibration import load_calibration
    from perception_encoder.search.search import search as find

    check_sheet(flags.sheet)
    options = _options(flags)
    index = Index.open(find_index(flags.index_path))
    warn_of_photo_index(index)

    @cache
    def open_the_model() -> "EmbeddingModel":
        from perception_encoder.backends import ComputeOptions
        from perception_encoder.search.query_model import open_index_model

        # The index knows its model; only one that was opened from a path has to be named again.
        return open_index_model(index, flags.model, ComputeOptions(device=flags.device))

    answered, read = _read(index, queries, open_the_model)
    if not read:
        return len(queries)
    calibration = None
    if _shows_labels(flags):
        calibration = load_calibration(index, read, open_the_model, on_calibrate=_say_calibrating)
    found = find(index, read, options, calibration=calibration, leave_out_own=leave_out_own)
    written = [query.text for query in answered]
    show([Answer(*answer) for answer in zip(read, found, written, strict=True)], flags)
    return len(queries) - len(answered)


def _read(
    index: "Index", queries: Sequence[_Written], open_the_model: "Callable[[], EmbeddingModel]"
) -> "tuple[Sequence[_Written], list[Query]]":
    """Find the vectors of queries; if one of several has none, report it and go on without."""
    from perception_encoder.search.queries import read_queries

    def read(some: Sequence[_Written]) -> "list[Query]":
        terms = [query.terms for query in some]
        return read_queries(index, terms, open_the_model, read_stdin=_read_stdin)

    try:
        return queries, read(queries)
    except (QueryError, ImageError):
        if len(queries) == 1 and queries[0].text is None:
            raise
    answered, found = list[_Written](), list["Query"]()
    for query in queries:  # one by one, to find those that cannot be answered
        try:
            found += read([query])
            answered.append(query)
        except (QueryError, ImageError) as err:
            say(f"pe: {query.place}: {err}")
    return answered, found


def _read_stdin() -> bytes:
    return sys.stdin.buffer.read()


def _say_calibrating() -> None:
    say("learning what scores mean in this index (kept for the next searches)")


def _shows_labels(flags: SearchFlags) -> bool:
    return not (flags.paths or flags.null) or flags.threshold in _LABELS


def _options(flags: SearchFlags) -> "SearchOptions":
    from perception_encoder.search.search import SearchOptions

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


def _parsed(lines: Iterable[str], name: str) -> "tuple[list[_Written], int]":
    """Read one query from each line that is not empty, and report those that are none.

    Returns:
        The queries, and how many lines could not be understood.
    """
    from perception_encoder.search.grammar import parse_query

    queries: list[_Written] = []
    num_failed = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            if line.strip() == _STDIN:
                raise QueryError("- stands for an image on stdin only alone, without --queries")
            terms = _checked(parse_query(line.strip()))
            queries.append(_Written(line.strip(), terms, f"{name}, line {number}"))
        except QueryError as err:
            num_failed += 1
            if num_failed <= _SHOWN_FAILURES:
                say(f"pe: {name}, line {number}: {err}")
    return queries, num_failed


def _checked(terms: "Sequence[QueryTerm]") -> "Sequence[QueryTerm]":
    """Refuse terms that are no text.

    Raises:
        QueryError: one is not.
    """
    for term in terms:
        if term.kind == "image":
            continue
        if problem := problem_of(term.value, f"the term {term.value[:_SHOWN]!a}"):
            raise QueryError(problem)
    return terms
