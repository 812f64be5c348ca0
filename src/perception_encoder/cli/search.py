"""`pe search` and `pe similar`: find images by text, by images, or by sums of both."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, NamedTuple

import typer

from perception_encoder.cli.hits import Answer, SearchFlags, TextFlags, write_answers
from perception_encoder.cli.options import (
    RowFlags,
    find_index,
    warn_of_photo_index,
    with_flags,
)
from perception_encoder.cli.output import check_sheet, say
from perception_encoder.cli.reranking import Reranker, RerankFlags
from perception_encoder.cli.text_files import find_error, read_list
from perception_encoder.errors import ImageError, QueryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from perception_encoder.embedder import EmbeddingModel
    from perception_encoder.index import Index
    from perception_encoder.search.calibration import Calibration
    from perception_encoder.search.grammar import QueryTerm
    from perception_encoder.search.queries import Query
    from perception_encoder.search.ranking import SearchOptions

_STDIN: Final = "-"
_LABELS: Final = ("strong", "weak")
_MAX_FAILURES: Final = 20  # of those reported one by one
_MAX_TERM: Final = 40  # characters of a term in a message


class ParsedQuery(NamedTuple):
    """A query's terms; for a query from a file also its text, and where it stands."""

    terms: Sequence[QueryTerm]
    text: str | None = None
    place: str = ""


@dataclass(frozen=True, slots=True)
class MarkFlags:
    """The images that hits should be like, and not be like."""

    like: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IMAGE…",
            help="Images that hits should be like, files or @ITEMs; several may follow.",
        ),
    ] = None
    unlike: Annotated[
        list[str] | None,
        typer.Option(metavar="IMAGE…", help="Images that hits should not be like, likewise."),
    ] = None

    def __bool__(self) -> bool:
        return bool(self.like or self.unlike)


@with_flags
def search(
    query: Annotated[
        list[str] | None,
        typer.Argument(help="A text, an image, @ITEM of the index, or a sum of them."),
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(help="Read queries from a file, one a line; - is stdin.")
    ] = None,
    save: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Keep the query and its options beside the index; see pe searches."
        ),
    ] = None,
    *,
    marks: MarkFlags,
    reranking: RerankFlags,
    texts: TextFlags,
    rows: RowFlags,
    flags: SearchFlags,
) -> None:
    """Find the images that match a text, an image, or a sum of both.

    An image may be a file, a video, clip.mp4#t=12 for one of its frames, a URL, @ with the end of
    an indexed name or with its id, or - for an image on stdin. #xywh=LEFT,TOP,WIDTH,HEIGHT after it
    takes a part, in pixels of the image as shown, or #xywh=percent:25,25,50,50.

    With --queries, a line that cannot be answered is reported and the others are answered; the exit
    code is then 1. A --text beside --queries is fused with each of them.

    A score is a cosine. With --text alone it is BM25's. With both it is the fusion of the ranks,
    where 1 is the first of both; labels come from the cosines.

    With --rerank a second model reads the images of the best hits, orders them by its own cosine,
    and gives no labels. Its embeddings are kept beside the index, so that they are computed once.

    Examples:
        pe search "red heart"
        pe search cat.png -k 5 --sheet hits.png
        pe search @cat.webp + "red" --unique
        pe search "street.jpg#xywh=10,20,200,150"
        pe search "2:golden retriever" + pool.jpg - fruit
        pe search "a cake" --since 2023-05 --until 2023-07 --near 48.137,11.575,20km
        pe search --text invoice
        pe search "a dog" --text rex
        pe search "a cat" --threshold strong -k 100 --save cats
        pe search "a dog on a sofa" --rerank PE-Core-L14-336 --candidates 50
        pe search "red heart" --like @heart.webp @ruby.webp --unlike @tomato.webp
        pe search --queries queries.txt --json
    """
    from perception_encoder.search.grammar import parse_query

    reranking.check(texts, flags)
    if queries is None and query is None and texts.text is None and not marks:
        raise typer.BadParameter(
            "give a query, a --text, or a file of queries with --queries; or images to be --like"
        )
    if queries is not None and query is not None:
        raise typer.BadParameter("--queries goes with no other query; a --text may be beside it")
    if save is not None:
        if queries is not None:
            raise typer.BadParameter("--save keeps one query, not a file of --queries")
        if marks:
            raise typer.BadParameter("--save keeps no marks: leave out --like and --unlike")
        if reranking:
            raise typer.BadParameter("--save keeps no second model: leave out --rerank")
        _save(save, query, texts, rows, flags)
    elif queries is None:
        parsed = [] if query is None else [ParsedQuery(_check_terms(parse_query(query)))]
        _answer(parsed, texts, rows, flags, marks=marks, reranking=reranking)
    else:
        parsed, num_failed = _parse_lines(read_list(queries), str(queries))
        if parsed:
            num_failed += _answer(parsed, texts, rows, flags, marks=marks, reranking=reranking)
        if num_failed:
            say(f"pe: {'1 query' if num_failed == 1 else f'{num_failed} queries'} not answered")
            raise typer.Exit(1)


@with_flags
def similar(
    image: Annotated[str, typer.Argument(help="An image file, @ITEM of the index, a URL, or -.")],
    *,
    texts: TextFlags,
    rows: RowFlags,
    flags: SearchFlags,
) -> None:
    """Find the images that look like a given image.

    The image itself is not among the hits. If it is in the index and unchanged, its embedding is
    taken from there and no model is loaded. With --text, the ranks of both are fused. #xywh=… takes
    a part of the image, as in pe search.

    Examples:
        pe similar cat.png
        pe similar cat.png --text rex
        pe similar @cat.webp --unique --sheet hits.png
    """
    from perception_encoder.search.grammar import parse_image

    try:
        term = parse_image(image)
    except QueryError as err:
        raise typer.BadParameter(str(err)) from err
    _answer([ParsedQuery(_check_terms((term,)))], texts, rows, flags, leave_out_own=True)


def _answer(
    queries: Sequence[ParsedQuery],
    texts: TextFlags,
    rows: RowFlags,
    flags: SearchFlags,
    *,
    marks: MarkFlags = MarkFlags(),
    reranking: RerankFlags | None = None,
    leave_out_own: bool = False,
) -> int:
    """Answer queries, each fused with the text if there is one; none is the text alone.

    Marks refine each query; without queries they are one.

    Returns:
        How many could not be answered.
    """
    from perception_encoder.index import Index
    from perception_encoder.index.full_text import TextQuery
    from perception_encoder.search import fusion
    from perception_encoder.search.feedback import refine_query
    from perception_encoder.search.ranking import search_index

    check_sheet(flags.sheet)
    options = _search_options(flags)
    text = None if texts.text is None else TextQuery.parse(texts.text)
    index = Index.open(find_index(flags.index_path))
    options = _fit_to_index(options, rows, index)
    like, unlike = _parse_marks("--like", marks.like), _parse_marks("--unlike", marks.unlike)
    if not queries and not marks:
        hits = fusion.search(index, None, options, text=text)
        write_answers([Answer(None, hits, text=texts.text)], flags)
        return 0
    warn_of_photo_index(index)

    open_model = model_opener(index, flags)
    reranker = Reranker.open(index, reranking, options, flags.device) if reranking else None
    read_stdin = cache(sys.stdin.buffer.read)  # once, for both models
    answered, embedded = _embed(index, queries, open_model, read_stdin) if queries else ([], [])
    if queries and not embedded:
        return len(queries)
    if marks:
        read = _read_marks(index, like, unlike, open_model, read_stdin)
        given: Sequence[Query | None] = embedded or [None]
        embedded = [refine_query(query, *read) for query in given]
        answered = answered or [ParsedQuery(())]
        leave_out_own = True
    calibration = find_calibration(
        index, embedded, open_model, flags, flags.threshold, has_labels=reranker is None
    )
    if reranker is not None:
        answered, embedded, again = _embed_again(reranker, answered, embedded, read_stdin)
        if marks:
            read = _read_marks(
                index, like, unlike, reranker.open_model, read_stdin, by_index_model=False
            )
            again = [refine_query(query, *read) for query in again]
        found = reranker.search(
            embedded,
            [query for query in again if query is not None],
            calibration=calibration,
            leave_out_own=leave_out_own,
        )
    elif text is None:  # all queries are searched for together
        found = search_index(
            index, embedded, options, calibration=calibration, leave_out_own=leave_out_own
        )
    else:
        found = [
            fusion.search(
                index,
                query,
                options,
                text=text,
                text_weight=texts.text_weight,
                calibration=calibration,
                leave_out_own=leave_out_own,
            )
            for query in embedded
        ]
    write_answers(
        [
            Answer(query, hits, parsed.text, texts.text)
            for query, hits, parsed in zip(embedded, found, answered, strict=True)
        ],
        flags,
    )
    return max(0, len(queries) - len(answered))


def _read_marks(
    index: Index,
    like: Sequence[QueryTerm],
    unlike: Sequence[QueryTerm],
    open_model: Callable[[], EmbeddingModel],
    read_stdin: Callable[[], bytes],
    *,
    by_index_model: bool = True,
) -> tuple[list[Query], list[Query]]:
    """Return a query for each liked image, and for each unliked one."""
    from perception_encoder.search.queries import read_queries

    read = read_queries(
        index,
        [[term] for term in (*like, *unlike)],
        open_model,
        read_stdin=read_stdin,
        by_index_model=by_index_model,
    )
    return read[: len(like)], read[len(like) :]


def _parse_marks(option: str, names: Sequence[str] | None) -> Sequence[QueryTerm]:
    from perception_encoder.search.grammar import parse_image

    try:
        return _check_terms([parse_image(name) for name in names or ()])
    except QueryError as err:
        raise typer.BadParameter(
            f"{option}: {err} (a text comes before {option}, or after the next option)"
        ) from err


def _save(
    name: str, query: list[str] | None, texts: TextFlags, rows: RowFlags, flags: SearchFlags
) -> None:
    """Save a search and run it."""
    from perception_encoder.cli.searches import run_search
    from perception_encoder.index import Index
    from perception_encoder.index.full_text import TextQuery
    from perception_encoder.search.grammar import parse_query
    from perception_encoder.search.saved import SavedOptions, SavedSearch, now_iso
    from perception_encoder.search.saved_store import SavedSearches

    options = _search_options(flags)
    terms = () if query is None else _check_terms(parse_query(query))
    if texts.text is not None:
        TextQuery.parse(texts.text)
    search = SavedSearch(
        name,
        tuple(_with_absolute_path(term) for term in terms),
        texts.text,
        texts.text_weight,
        SavedOptions(
            k=options.k,
            offset=options.offset,
            threshold=options.threshold,
            exact=options.exact,
            unique=options.unique,
            bursts=options.bursts,
            pairs=options.pairs,
            sort=options.sort,
            where=rows.where,
            since=rows.since,
            until=rows.until,
            near=rows.near,
            camera=rows.camera,
        ),
        saved_at=now_iso(),
    )
    index = Index.open(find_index(flags.index_path))
    searches = SavedSearches(index.path)
    run_search(index, search, flags, keep=lambda: searches.save(search))
    say(f"saved; run it again with: pe searches run {shlex.quote(name)}")


def _with_absolute_path(term: QueryTerm) -> QueryTerm:
    """Return a term whose image is found from any folder."""
    from perception_encoder.preprocess.crops import name_without_crop
    from perception_encoder.video.names import split_fragment

    name = split_fragment(name_without_crop(term.value))[0]
    is_file = os.path.exists(term.value) or os.path.exists(name)
    if term.kind != "image" or term.value == _STDIN or not is_file:
        return term
    return replace(term, value=os.path.abspath(term.value))


def _fit_to_index(options: SearchOptions, rows: RowFlags, index: Index) -> SearchOptions:
    """Return the options with the condition of the rows.

    Raises:
        QueryError: the index lacks a column that they need.
    """
    from perception_encoder.search.photo_filters import TAKEN_AT, check_column

    if options.sort == TAKEN_AT:
        check_column(index.schema, TAKEN_AT, index.path)
    return replace(options, where=rows.condition(index))


def model_opener(index: Index, flags: SearchFlags) -> Callable[[], EmbeddingModel]:
    """Return a function that opens the model once, when it is needed."""

    @cache
    def open_model() -> EmbeddingModel:
        from perception_encoder.backends import ComputeOptions
        from perception_encoder.search.query_model import open_index_model

        # The index names its model; --model is needed only if that was opened from a path.
        return open_index_model(index, flags.model, ComputeOptions(device=flags.device))

    return open_model


def find_calibration(
    index: Index,
    queries: Sequence[Query],
    open_model: Callable[[], EmbeddingModel],
    flags: SearchFlags,
    threshold: object,
    *,
    has_labels: bool = True,
) -> Calibration | None:
    """Return the calibration of the index, if labels are shown or are the threshold."""
    from perception_encoder.search.calibration import ensure_calibration

    if (flags.paths or flags.null or not has_labels) and threshold not in _LABELS:
        return None
    return ensure_calibration(index, queries, open_model, on_calibrate=_say_calibrating)


def _embed(
    index: Index,
    queries: Sequence[ParsedQuery],
    open_model: Callable[[], EmbeddingModel],
    read_stdin: Callable[[], bytes],
) -> tuple[Sequence[ParsedQuery], list[Query]]:
    """Embed queries; report and skip those of a file that cannot be embedded."""
    from perception_encoder.search.queries import read_queries

    def embed(some: Sequence[ParsedQuery]) -> list[Query]:
        terms = [query.terms for query in some]
        return read_queries(index, terms, open_model, read_stdin=read_stdin)

    try:
        return queries, embed(queries)
    except (QueryError, ImageError):
        if len(queries) == 1 and queries[0].text is None:
            raise
    answered: list[ParsedQuery] = []
    embedded: list[Query] = []
    for query in queries:  # one by one, to find those that cannot be embedded
        try:
            embedded += embed([query])
            answered.append(query)
        except (QueryError, ImageError) as err:
            say(f"pe: {query.place}: {err}")
    return answered, embedded


def _embed_again(
    reranker: Reranker,
    queries: Sequence[ParsedQuery],
    embedded: Sequence[Query],
    read_stdin: Callable[[], bytes],
) -> tuple[Sequence[ParsedQuery], list[Query], list[Query | None]]:
    """Embed queries by the second model; report and skip those of a file that cannot be embedded.

    Returns:
        The others, as they are embedded by the index's model and by the second; None is a query of
        marks alone.
    """
    answered: list[ParsedQuery] = []
    first: list[Query] = []
    second: list[Query | None] = []
    for parsed, query in zip(queries, embedded, strict=True):
        try:
            again = reranker.read(parsed.terms, read_stdin) if parsed.terms else None
        except (QueryError, ImageError) as err:
            if parsed.text is None:
                raise
            say(f"pe: {parsed.place}: {err}")
            continue
        answered.append(parsed)
        first.append(query)
        second.append(again)
    return answered, first, second


def _say_calibrating() -> None:
    say("learning what scores mean in this index (kept for the next searches)")


def _search_options(flags: SearchFlags) -> SearchOptions:
    from perception_encoder.search.ranking import SearchOptions

    try:
        return SearchOptions(
            k=flags.k,
            offset=flags.offset,
            threshold=_parse_threshold(flags.threshold),
            sort=flags.sort,
            exact=flags.exact,
            unique=flags.unique,
            bursts=flags.fold_bursts,
            pairs=flags.pairs,
        )
    except ValueError as err:
        raise typer.BadParameter(str(err)) from err


def _parse_threshold(text: str | None) -> float | Literal["strong", "weak"] | None:
    if text is None:
        return None
    if text in _LABELS:
        return "strong" if text == "strong" else "weak"
    try:
        return float(text)
    except ValueError:
        raise ValueError(
            f"--threshold must be a cosine such as 0.3, or strong or weak, got {text!r}"
        ) from None


def _parse_lines(lines: Iterable[str], name: str) -> tuple[list[ParsedQuery], int]:
    """Parse one query from each line that is not empty; report lines that are no query.

    Returns:
        The queries, and how many lines could not be parsed.
    """
    from perception_encoder.search.grammar import parse_query

    queries: list[ParsedQuery] = []
    num_failed = 0
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        place = f"{name}, line {number}"
        try:
            if text == _STDIN:
                raise QueryError("- is the image on stdin, which works without --queries only")
            queries.append(ParsedQuery(_check_terms(parse_query(text)), text, place))
        except QueryError as err:
            num_failed += 1
            if num_failed <= _MAX_FAILURES:
                say(f"pe: {place}: {err}")
    return queries, num_failed


def _check_terms(terms: Sequence[QueryTerm]) -> Sequence[QueryTerm]:
    """Return the terms.

    Raises:
        QueryError: one of them is not valid text.
    """
    for term in terms:
        if term.kind != "image":
            error = find_error(term.value, f"the term {term.value[:_MAX_TERM]!a}")
            if error:
                raise QueryError(error)
    return terms
