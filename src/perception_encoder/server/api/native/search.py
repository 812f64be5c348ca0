"""POST /v1/search: images of an index for texts, images, items, or weighted sums of them."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from fastapi import Request, Response
from pydantic import ConfigDict, Field, model_validator
from typing_extensions import TypeAliasType

from perception_encoder.errors import ImageValueError, QueryError
from perception_encoder.index import Row
from perception_encoder.index.condition import MAX_CONDITION_VALUES
from perception_encoder.index.full_text import MAX_TEXT_QUERY, TextQuery
from perception_encoder.preprocess.crops import CropBox, CroppedImage
from perception_encoder.search.calibration import Calibration, Cutoffs
from perception_encoder.search.feedback import MAX_MARKS, refine_query
from perception_encoder.search.fusion import DEFAULT_TEXT_WEIGHT
from perception_encoder.search.grammar import parse_query
from perception_encoder.search.photo_filters import PhotoFilter
from perception_encoder.search.queries import Query, find_item_part
from perception_encoder.search.ranking import MAX_BURST_SECONDS, SearchOptions, SearchResult
from perception_encoder.search.reranking import DEFAULT_CANDIDATES, RerankReport
from perception_encoder.server.api.base import ApiRoutes, Services
from perception_encoder.server.api.common import MOST_HITS, check_texts, describe_row, encode_base64
from perception_encoder.server.api.native.replies import SearchReply
from perception_encoder.server.core.filters import Filter, FilterValue, Operator
from perception_encoder.server.core.images import LoadedImage
from perception_encoder.server.core.indexes import ServedIndex
from perception_encoder.server.core.model_worker import ModelWorker
from perception_encoder.server.core.queries import Term
from perception_encoder.server.core.reranking import RerankedSearch
from perception_encoder.server.http.replies import json_reply
from perception_encoder.server.http.requests import ListOf, RequestBody, json_body, read_body
from perception_encoder.types import Embeddings

HitOrder = TypeAliasType("HitOrder", Literal["score", "taken_at"])
LowestLabel = TypeAliasType("LowestLabel", Literal["strong", "weak"])

MOST_DEEP: Final = 10_000
MOST_CANDIDATES: Final = 500
"""Of one request: their images are read and embedded."""

_SHOWN_FAILURES: Final = 10
_MAX_TERMS: Final = 32
_MAX_WEIGHT: Final = 100.0


def describe_hit(found: SearchResult) -> dict[str, Any]:
    """Return a hit as JSON, with what was folded under it."""
    return {
        **describe_row(found.hit),
        "score": found.hit.score,
        "label": found.label,
        "cosine": found.cosine,
        "text_score": found.text_score,
        "box": None if found.box is None else found.box._asdict(),
        "also": [{**describe_row(hit), "score": hit.score} for hit in found.also],
    }


class FilterBody(RequestBody):
    """A condition on a column of the index; all of a request's must be met."""

    model_config = ConfigDict(extra="forbid")

    column: str = Field(description="Name of a column of the index.")
    op: Operator = Field(
        default="=",
        description=(
            "`in` takes a list; `contains` ignores case, `starts_with` does not; `is_null` and "
            "`has` (a value) take no value."
        ),
    )
    value: (
        FilterValue | Annotated[ListOf[FilterValue], Field(max_length=MAX_CONDITION_VALUES)] | None
    ) = Field(
        default=None, union_mode="left_to_right", description="To compare with; times as ISO 8601."
    )

    def filter(self) -> Filter:
        """Return the condition as the index's side knows it."""
        return Filter(self.column, self.op, self.value)


MAX_PHOTO_TEXT: Final = 200
MAX_CROP_TEXT: Final = 200


class PhotoFields(RequestBody):
    """When, where and with what photos were taken; joined to the filters."""

    since: str | None = Field(
        default=None,
        max_length=MAX_PHOTO_TEXT,
        description="From then on: 2023, 2023-05, 2023-05-04, yesterday, 2 weeks ago.",
    )
    until: str | None = Field(
        default=None,
        max_length=MAX_PHOTO_TEXT,
        description="Up to then, the whole year, month or day included.",
    )
    near: str | None = Field(
        default=None,
        max_length=MAX_PHOTO_TEXT,
        description="LATITUDE,LONGITUDE,RADIUS, such as 48.137,11.575,5km; or a town.",
    )
    camera: str | None = Field(
        default=None, max_length=MAX_PHOTO_TEXT, description="A part of its name, in any case."
    )

    def filter(self) -> PhotoFilter:
        """Return the filter as the index's side knows it.

        Raises:
            QueryError: a value cannot be understood.
        """
        return PhotoFilter.parse(
            since=self.since, until=self.until, near=self.near, camera=self.camera
        )


class TermBody(RequestBody):
    """One part of a query: exactly one of query, text, image, item and vector."""

    model_config = ConfigDict(extra="forbid")

    weight: float = Field(
        default=1.0,
        ge=-_MAX_WEIGHT,
        le=_MAX_WEIGHT,
        allow_inf_nan=False,
        description="Negative: wanted far away.",
    )
    query: str | None = Field(
        default=None,
        description=(
            "Terms as on the command line, such as `2:golden retriever + @pool.jpg - fruit`; "
            "`weight` multiplies theirs."
        ),
    )
    text: str | None = Field(default=None, description="A text in which signs mean nothing.")
    image: str | None = Field(
        default=None, description="Base64, a data URI, or a URL where enabled."
    )
    item: str | None = Field(default=None, description="The id of an item: more like this.")
    crop: str | None = Field(
        default=None,
        max_length=MAX_CROP_TEXT,
        description=(
            "The part of the image or item that counts: x,y,width,height in pixels of the image as "
            "shown, or percent:x,y,width,height. In `query` it is written after the name: "
            "`@pool.jpg#xywh=10,20,200,150`."
        ),
    )
    vector: str | None = Field(default=None, description="`query.vector` of an earlier reply.")

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        kinds = (self.query, self.text, self.image, self.item, self.vector)
        if sum(one is not None for one in kinds) != 1:
            raise ValueError("give one of query, text, image, item and vector")
        if self.crop is not None and self.image is None and self.item is None:
            raise ValueError("crop goes with an image or an item")
        return self


class MarkBody(RequestBody):
    """An image that is marked: exactly one of item and image."""

    model_config = ConfigDict(extra="forbid")

    item: str | None = Field(default=None, description="The id of an item.")
    image: str | None = Field(
        default=None, description="Base64, a data URI, or a URL where enabled."
    )

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if (self.item is None) == (self.image is None):
            raise ValueError("give one of item and image")
        return self


class SearchFields(PhotoFields):
    """What is searched for, and which of the hits are wanted."""

    model_config = ConfigDict(extra="forbid")

    terms: ListOf[TermBody] = Field(
        default=[], max_length=_MAX_TERMS, description="What the images should look like."
    )
    text: str | None = Field(
        default=None,
        max_length=MAX_TEXT_QUERY,
        description=(
            "Words, and phrases in double quotes, to find in names and metadata. Without `terms` "
            "no model is used. With `terms` the ranks of both are fused."
        ),
    )
    text_weight: float = Field(
        default=DEFAULT_TEXT_WEIGHT,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Share of `text` in the fused score.",
    )
    k: int = Field(default=50, ge=1, le=MOST_HITS)
    offset: int = Field(
        default=0, ge=0, le=MOST_DEEP, description="`next_offset` of the page before."
    )
    filters: ListOf[FilterBody] = Field(default=[], max_length=32)
    threshold: Annotated[float, Field(ge=-1, le=1)] | LowestLabel | None = Field(
        default=None, description="The lowest cosine of a hit, or its lowest label."
    )
    unique: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Fold hits of that cosine under the best of them (0.95).",
    )
    bursts: float | None = Field(
        default=None,
        ge=0,
        le=MAX_BURST_SECONDS,
        allow_inf_nan=False,
        description="Fold photos of one camera that look alike, within so many seconds (2).",
    )
    pairs: bool = Field(
        default=True, description="Fold a photo's RAW file and its Live Photo clip under it."
    )
    sort: HitOrder = Field(
        default="score",
        description="Order of the hits of a page: best first, or the newest photo first.",
    )
    exact: bool = Field(default=False, description="Look at every vector, also of a large index.")
    include_own: bool = Field(default=False, description="Items of the query may be hits of it.")

    @model_validator(mode="after")
    def _has_a_query(self) -> Self:
        if not self.terms and self.text is None:
            raise ValueError("give terms, or a text, or both")
        return self

    def options(self, where: str | None) -> SearchOptions:
        """Return the options of the search, with the condition of all filters."""
        return SearchOptions(
            k=self.k,
            offset=self.offset,
            threshold=self.threshold,
            where=where,
            exact=self.exact,
            unique=self.unique,
            bursts=self.bursts,
            pairs=self.pairs,
            sort=self.sort,
        )


class SearchBody(SearchFields):
    """What is searched for, where, and which of the hits are wanted."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "terms": [{"text": "red heart"}, {"text": "drawing", "weight": -0.5}],
                "k": 20,
                "filters": [{"column": "width", "op": ">=", "value": 100}],
            }
        },
    )

    index: str | None = Field(
        default=None, description="One of GET /v1/indexes; default: the first."
    )
    like: ListOf[MarkBody] = Field(
        default=[],
        max_length=MAX_MARKS,
        description="Images that hits should be like; they are no hits themselves.",
    )
    unlike: ListOf[MarkBody] = Field(
        default=[], max_length=MAX_MARKS, description="Images that hits should not be like."
    )

    rerank: str | None = Field(
        default=None,
        description=(
            "Another of GET /v1/models, which orders the best hits anew: it embeds their images, "
            "unless they are stored from an earlier request."
        ),
    )
    candidates: int = Field(
        default=DEFAULT_CANDIDATES,
        ge=1,
        le=MOST_CANDIDATES,
        description="How many hits `rerank` orders.",
    )

    @model_validator(mode="after")
    def _has_a_query(self) -> Self:
        if not (self.terms or self.like or self.unlike) and self.text is None:
            raise ValueError("give terms, a text, or images that hits should be like")
        if self.rerank is not None and self.text is not None:
            raise ValueError("rerank orders hits by their images alone; leave out text")
        return self


def add_routes(routes: ApiRoutes, services: Services) -> None:
    """Add the route."""

    @routes.post(
        "/v1/search",
        summary="Search an index",
        description=(
            "For the next page send `query.vector` back as the only term and `next_offset` as "
            "`offset`: nothing is embedded again. `query.cutoffs` are the cosines from which on "
            "hits are strong and weak. `query.score` says what the scores are: cosines; BM25 for "
            "`text` alone; or the fusion of the ranks by `terms` and `text`, where 1 is the first "
            "of both. Labels come from the cosines in any case. `like` and `unlike` move the query "
            "towards marked images and away from others; `query.vector` has that in it. With "
            "`rerank` another model orders the best hits by its own cosine, which is then the "
            "score; it is null for images that cannot be read, which come last, and there are no "
            "labels. For the next page the terms are sent again, since `query.vector` belongs to "
            "the index's model."
        ),
        responses={200: {"model": SearchReply}},
        openapi_extra=json_body(SearchBody),
    )
    async def search(request: Request) -> Response:
        return json_reply(await search_index(services, await read_body(request, SearchBody)))


async def search_index(services: Services, body: SearchBody) -> dict[str, Any]:
    """Return a page of hits as `SearchReply` describes it.

    Raises:
        ApiError, PerceptionEncoderError: a part of the request cannot be used.
    """
    served = services.indexes.get(body.index)
    text = None if body.text is None else TextQuery.parse(body.text)
    terms = await read_terms(services, served, body.terms) if body.terms else []
    query = calibration = None
    if terms or body.like or body.unlike:
        query = await _read_query(services, served, terms, body)
        calibration = await services.queries.calibration(served, query)
    where = await services.pools.searches.run(
        served.where, [one.filter() for one in body.filters], body.filter
    )
    options = body.options(where)
    leave_out_own = not body.include_own or bool(body.like or body.unlike)
    if body.rerank is not None and query is not None:
        async with services.served_models.use(body.rerank) as worker:
            again = await _read_query(services, served, terms, body, worker)
            asked = RerankedSearch(
                query, again, options, body.candidates, calibration, leave_out_own
            )
            found, report = await services.reranker.search(served, worker, asked)
        return describe_page(served, query, None, found, options, text=None, reranked=report)
    found = await services.pools.searches.run(
        served.search,
        query,
        options,
        calibration,
        text=text,
        text_weight=body.text_weight,
        leave_out_own=leave_out_own,
    )
    return describe_page(served, query, calibration, found, options, text=body.text)


def describe_page(
    served: ServedIndex,
    query: Query | None,
    calibration: Calibration | None,
    found: Sequence[SearchResult],
    options: SearchOptions,
    *,
    text: str | None,
    reranked: RerankReport | None = None,
) -> dict[str, Any]:
    """Return a page of hits as `SearchReply` describes it."""
    cutoffs = calibration.cutoffs(query) if calibration and query else None
    end = options.offset + options.k
    is_last = len(found) < options.k or end > MOST_DEEP
    score = "cosine" if text is None else "bm25" if query is None else "fusion"
    hits = [describe_hit(one) for one in found]
    if reranked is not None:
        is_last, score = is_last or end >= reranked.num_candidates, "rerank"
        for hit, one in zip(hits, found, strict=True):
            hit["score"] = one.score if one.kind == "rerank" else None
    return {
        "index": served.name,
        "query": {
            "vector": None if query is None else encode_base64(query.vector),
            "score": score,
            "cutoffs": _describe_cutoffs(cutoffs),
        },
        "reranked": None if reranked is None else _describe_reranking(reranked),
        "hits": hits,
        "offset": options.offset,
        "next_offset": None if is_last else end,
    }


async def read_terms(services: Services, served: ServedIndex, bodies: list[TermBody]) -> list[Term]:
    """Read the terms of a request; images are loaded."""
    check_texts(
        (n, one.text or one.query or "", f"terms[{n}].{'query' if one.text is None else 'text'}")
        for n, one in enumerate(bodies)
    )
    terms = []
    for number, body in enumerate(bodies):
        image: LoadedImage | None = None
        vector = None
        if body.query is not None:
            terms += await _parse_written_query(services, served, body.query, body.weight, number)
            continue
        name = f"terms[{number}]"
        if body.image is not None:
            image = await services.images.load(body.image, item=f"{name}.image")
        if body.crop is not None:
            box = _parse_crop(body.crop, f"{name}.crop")
            if body.item is not None:
                row = await services.pools.searches.run(served.row, body.item)
                image = await _read_part(services, row, box)
            elif isinstance(image, bytes):
                image = CroppedImage(image, box)
            else:
                raise QueryError(f"{name}: the image has a box already; leave out its #xywh=")
        if body.vector is not None:
            vector = _decode_vector(body.vector)
        terms.append(Term(body.weight, body.text, image, body.item, vector))
    return terms


async def _read_query(
    services: Services,
    served: ServedIndex,
    terms: Sequence[Term],
    body: SearchBody,
    worker: ModelWorker | None = None,
) -> Query:
    """Embed a query, and move it towards the liked images and away from the unliked ones.

    Args:
        services: of the server.
        served: the index.
        terms: of the request.
        body: has the marks.
        worker: another model than the index's; None is that one.
    """

    async def read(some: Sequence[Term]) -> Query:
        if worker is None:
            return await services.queries.read(served, some)
        return await services.queries.read_by(
            worker, [await _with_image(services, served, one) for one in some]
        )

    query = await read(terms) if terms else None
    marks: list[list[Query]] = []
    for name, some in (("like", body.like), ("unlike", body.unlike)):
        marks.append([])
        for number, one in enumerate(some):
            image = None
            if one.image is not None:
                image = await services.images.load(one.image, item=f"{name}[{number}].image")
            marks[-1].append(await read([Term(1.0, image=image, item=one.item)]))
    return refine_query(query, *marks) if query is None or any(marks) else query


async def _with_image(services: Services, served: ServedIndex, term: Term) -> Term:
    """Return a term that is an item with the image of it.

    Raises:
        ImageError: it cannot be read, or lies behind a network and may not be brought.
    """
    if term.item is None or term.image is not None:
        return term
    row = await services.pools.searches.run(served.row, term.item)
    return replace(term, image=await services.pools.files.run(services.thumbnails.original, row))


async def _parse_written_query(
    services: Services, served: ServedIndex, query: str, factor: float, number: int
) -> list[Term]:
    """Return the terms of a query that a person wrote; no file of this machine is read."""
    parsed = parse_query(query, allow_files=False)
    if len(parsed) > _MAX_TERMS:
        raise QueryError(f"the query has {len(parsed)} terms; {_MAX_TERMS} is the limit")
    terms = []
    for term in parsed:
        weight = term.weight * factor
        if abs(weight) > _MAX_WEIGHT:
            raise QueryError(f"a term's weight is {weight:g}; {_MAX_WEIGHT:g} is the limit")
        if term.kind == "text":
            terms.append(Term(weight, text=term.value))
        elif term.kind == "item":
            row, box = await services.pools.searches.run(find_named_item, served, term.value)
            image = None if box is None else await _read_part(services, row, box)
            terms.append(Term(weight, item=row.id, image=image))
        else:
            name = f"terms[{number}].query: {term.value}"
            terms.append(Term(weight, image=await services.images.load(term.value, item=name)))
    return terms


def _describe_reranking(report: RerankReport) -> dict[str, Any]:
    return {
        "model": report.model_id,
        "candidates": report.num_candidates,
        "cached": report.num_cached,
        "embedded": report.num_embedded,
        "failed": len(report.failures),
        "failures": list(report.failures[:_SHOWN_FAILURES]),
    }


def find_named_item(served: ServedIndex, name: str) -> tuple[Row, CropBox | None]:
    """Find an item by its id or the end of its name, after which a box may stand.

    Raises:
        QueryError: there is no such item, or several.
    """
    return find_item_part(served.fresh(), name)[:2]


def _parse_crop(written: str, name: str) -> CropBox:
    try:
        return CropBox.parse(written)
    except ImageValueError as err:
        raise QueryError(f"{name}: {err}") from err


async def _read_part(services: Services, row: Row, box: CropBox) -> CroppedImage:
    """Read the image of an item.

    Raises:
        ImageError: it cannot be read, or lies behind a network and may not be brought.
    """
    data = await services.pools.files.run(services.thumbnails.original, row)
    return CroppedImage(data, box)


def _decode_vector(written: str) -> Embeddings:
    try:
        return np.frombuffer(base64.b64decode(written, validate=True), "<f4").astype(np.float32)
    except (binascii.Error, ValueError) as err:
        raise QueryError("a term's vector must be base64 of float32 numbers") from err


def _describe_cutoffs(cutoffs: Cutoffs | None) -> dict[str, float] | None:
    return None if cutoffs is None else {"strong": cutoffs.strong, "weak": cutoffs.weak}
