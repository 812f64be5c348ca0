"""GET /v1/indexes/{name}/searches, and POST to run one: what `pe search --save` keeps."""

import shlex
from dataclasses import replace
from typing import Final

from fastapi import Request, Response
from pydantic import ConfigDict, Field

from perception_encoder.errors import QueryError
from perception_encoder.index.full_text import TextQuery
from perception_encoder.index.storage import is_remote
from perception_encoder.search.ranking import SearchOptions
from perception_encoder.search.saved import SavedSearch, SavedSearches
from perception_encoder.server.api.base import ApiRoutes, Services
from perception_encoder.server.api.common import MOST_HITS
from perception_encoder.server.api.native.replies import SavedSearchesReply, SearchReply
from perception_encoder.server.api.native.search import MOST_DEEP, build_reply
from perception_encoder.server.core.indexes import ServedIndex
from perception_encoder.server.http.replies import json_reply
from perception_encoder.server.http.requests import RequestBody, json_body, read_body

_MOST_NAME: Final = 64  # characters


class RunSearchBody(RequestBody):
    """Which of the hits of a saved search are wanted."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=_MOST_NAME, description="Of the saved search.")
    k: int | None = Field(default=None, ge=1, le=MOST_HITS, description="Default: as saved.")
    offset: int = Field(
        default=0, ge=0, le=MOST_DEEP, description="`next_offset` of the page before."
    )


def add_routes(routes: ApiRoutes, services: Services) -> None:
    """Add the routes."""

    @routes.get(
        "/v1/indexes/{name}/searches",
        summary="The saved searches of an index",
        description="Those that `pe search --save` keeps beside the index, by name.",
        responses={200: {"model": SavedSearchesReply}},
    )
    async def searches(name: str) -> Response:
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
    async def run(name: str, request: Request) -> Response:
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
        return build_reply(served, query, calibration, found, options, text=saved.text)


def _load(served: ServedIndex) -> list[SavedSearch]:
    """Return the saved searches; an index on object storage has none."""
    return [] if is_remote(served.path) else SavedSearches(served.path).load()


def _get(served: ServedIndex, name: str) -> SavedSearch:
    return SavedSearches(served.path).get(name)


def _resolve(served: ServedIndex, saved: SavedSearch, body: RunSearchBody) -> SearchOptions:
    options = saved.options.resolve(served.fresh())
    return replace(
        options, k=min(body.k or options.k, MOST_HITS), offset=options.offset + body.offset
    )
