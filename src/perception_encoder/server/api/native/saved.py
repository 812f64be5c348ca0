"""/v1/indexes/{name}/searches: list, run, save and remove the searches kept beside an index."""

import shlex
from dataclasses import replace
from typing import Final

from fastapi import Request, Response
from pydantic import ConfigDict, Field

from perception_encoder.errors import QueryError
from perception_encoder.index.full_text import TextQuery
from perception_encoder.preprocess.crops import with_crop
from perception_encoder.search.calibration import Calibration
from perception_encoder.search.grammar import QueryTerm, parse_query
from perception_encoder.search.queries import Query
from perception_encoder.search.ranking import SearchOptions
from perception_encoder.search.saved import SavedOptions, SavedSearch, now_iso
from perception_encoder.search.saved_store import SavedSearches
from perception_encoder.server.api.base import ApiRoutes, Services
from perception_encoder.server.api.common import MOST_HITS
from perception_encoder.server.api.native.replies import (
    SavedSearchesReply,
    SavedSearchReply,
    SearchReply,
)
from perception_encoder.server.api.native.search import (
    MOST_DEEP,
    SearchFields,
    TermBody,
    describe_page,
    read_terms,
)
from perception_encoder.server.core.indexes import ServedIndex
from perception_encoder.server.http.replies import json_reply
from perception_encoder.server.http.requests import RequestBody, json_body, read_body

_MOST_NAME: Final = 64  # characters
_MOST_PAGE: Final = 8000  # characters of an address


class RunSearchBody(RequestBody):
    """Which of the hits of a saved search are wanted."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=_MOST_NAME, description="Of the saved search.")
    k: int | None = Field(default=None, ge=1, le=MOST_HITS, description="Default: as saved.")
    offset: int = Field(
        default=0, ge=0, le=MOST_DEEP, description="`next_offset` of the page before."
    )


class SaveSearchBody(SearchFields):
    """A search to keep: its name, and what `POST /v1/search` takes."""

    name: str = Field(max_length=_MOST_NAME, description="Replaces a search of that name.")
    page: str | None = Field(
        default=None,
        max_length=_MOST_PAGE,
        description="What the page shows for it: the query string of its address.",
    )


class RemoveSearchBody(RequestBody):
    """Which saved search to remove."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=_MOST_NAME)


def add_routes(routes: ApiRoutes, services: Services) -> None:
    """Add the routes."""

    @routes.get(
        "/v1/indexes/{name}/searches",
        summary="The saved searches of an index",
        description="Those that `pe search --save` keeps beside the index, by name.",
        responses={200: {"model": SavedSearchesReply}},
    )
    async def list_searches(name: str) -> Response:
        served = services.indexes.get(name)
        found = await services.pools.searches.run(_load, served)
        return json_reply({"index": served.name, "data": [one.describe() for one in found]})

    @routes.post(
        "/v1/indexes/{name}/searches",
        summary="Run a saved search",
        description=(
            "The reply is that of POST /v1/search. What `pe searches run --since-last` shows as "
            "new does not change."
        ),
        responses={200: {"model": SearchReply}},
        openapi_extra=json_body(RunSearchBody),
    )
    async def run_search(name: str, request: Request) -> Response:
        body = await read_body(request, RunSearchBody)
        served = services.indexes.get(name)
        saved = await services.pools.searches.run(_get, served, body.name)
        query = saved.embedded(served.identity)
        if query is None and saved.terms:
            raise QueryError(
                f"the search {saved.name} was saved with another model; embed it anew with: "
                f"pe searches run {shlex.quote(saved.name)}"
            )
        calibration = None
        if query is not None:
            calibration = await services.queries.calibration(served, query)
        options = await services.pools.searches.run(_resolve, served, saved, body)
        found = await services.pools.searches.run(
            served.search,
            query,
            options,
            calibration,
            text=None if saved.text is None else TextQuery.parse(saved.text),
            text_weight=saved.text_weight,
            leave_out_own=False,
        )
        return json_reply(
            describe_page(served, query, calibration, found, options, text=saved.text)
        )

    @routes.post(
        "/v1/indexes/{name}/searches/save",
        summary="Keep a search beside the index",
        description=(
            "As `pe search --save`: `pe searches run NAME --since-last` shows what is new from now "
            "on. Terms are texts and items; an image of a request is not kept."
        ),
        responses={200: {"model": SavedSearchReply}},
        openapi_extra=json_body(SaveSearchBody),
    )
    async def save_search(name: str, request: Request) -> Response:
        body = await read_body(request, SaveSearchBody)
        served = services.indexes.get(name)
        terms = tuple(term for one in body.terms for term in _read_written(one))
        query = calibration = None
        if terms:
            query = await services.queries.read(
                served, await read_terms(services, served, body.terms)
            )
            calibration = await services.queries.calibration(served, query)
        where = await services.pools.searches.run(
            served.where, [one.filter() for one in body.filters]
        )
        saved = _build(body, terms, where)
        kept = await services.pools.searches.run(_save, served, saved, query, calibration)
        return json_reply(kept.describe())

    @routes.post(
        "/v1/indexes/{name}/searches/remove",
        summary="Remove a saved search",
        description="No image and no row is touched.",
        responses={200: {"model": SavedSearchesReply}},
        openapi_extra=json_body(RemoveSearchBody),
    )
    async def remove_search(name: str, request: Request) -> Response:
        body = await read_body(request, RemoveSearchBody)
        served = services.indexes.get(name)
        await services.pools.searches.run(_remove, served, body.name)
        found = await services.pools.searches.run(_load, served)
        return json_reply({"index": served.name, "data": [one.describe() for one in found]})


def _read_written(body: TermBody) -> list[QueryTerm]:
    """Return the terms that people wrote.

    Raises:
        QueryError: it is an image or an embedding.
    """
    if body.query is not None:
        parsed = parse_query(body.query, allow_files=False)
        return [replace(term, weight=term.weight * body.weight) for term in parsed]
    if body.text is not None:
        return [QueryTerm(body.weight, "text", body.text)]
    if body.item is not None:
        return [QueryTerm(body.weight, "item", with_crop(body.item, body.crop))]
    raise QueryError(
        "an image or an embedding of a request is not kept; search with an image of the index (its "
        "item), or save the search with: pe search IMAGE --save NAME"
    )


def _build(body: SaveSearchBody, terms: tuple[QueryTerm, ...], where: str | None) -> SavedSearch:
    options = SavedOptions(
        k=body.k,
        offset=body.offset,
        threshold=body.threshold,
        exact=body.exact,
        unique=body.unique,
        bursts=body.bursts,
        pairs=body.pairs,
        sort=body.sort,
        where=where,
        since=body.since,
        until=body.until,
        near=body.near,
        camera=body.camera,
    )
    if body.text is not None:
        TextQuery.parse(body.text)
    return SavedSearch(
        body.name,
        terms,
        body.text,
        body.text_weight,
        options,
        saved_at=now_iso(),
        page=body.page or "",
    )


def _save(
    served: ServedIndex,
    search: SavedSearch,
    query: Query | None,
    calibration: Calibration | None,
) -> SavedSearch:
    """Keep a search, and what it finds now as seen."""
    index = served.fresh()
    found = search.find(index, query, calibration)
    kept = search.with_embedding(query, index.identity).noted(found.all)
    SavedSearches(served.path).save(kept)
    return kept


def _remove(served: ServedIndex, name: str) -> None:
    SavedSearches(served.path).remove(name)


def _load(served: ServedIndex) -> list[SavedSearch]:
    return SavedSearches(served.path).load()


def _get(served: ServedIndex, name: str) -> SavedSearch:
    return SavedSearches(served.path).get(name)


def _resolve(served: ServedIndex, saved: SavedSearch, body: RunSearchBody) -> SearchOptions:
    options = saved.options.resolve(served.fresh())
    return replace(
        options, k=min(body.k or options.k, MOST_HITS), offset=options.offset + body.offset
    )
