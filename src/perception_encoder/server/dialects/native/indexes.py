"""Tables: which there are, what columns and values they have, and what a run is doing to them."""

from typing import Any

from fastapi import APIRouter, Response

from perception_encoder.errors import IndexError_
from perception_encoder.index.describe import describe_table
from perception_encoder.server.core.indexes import ServedIndex
from perception_encoder.server.core.status import status_of
from perception_encoder.server.dialects.native.replies import (
    FacetsReply,
    IndexesReply,
    IndexReply,
    IndexStatusReply,
)
from perception_encoder.server.replies import json_reply
from perception_encoder.server.services import Services


def add_routes(router: APIRouter, services: Services) -> None:
    """Add the routes."""

    @router.get(
        "/v1/indexes",
        summary="The tables of this server, the default first",
        responses={200: {"model": IndexesReply}},
    )
    async def indexes() -> Response:
        data = [await services.pools.searches.run(_summary, served) for served in services.indexes]
        return json_reply({"data": data})

    @router.get(
        "/v1/indexes/{name}",
        summary="A table's model, size, versions and columns",
        responses={200: {"model": IndexReply}},
    )
    async def index(name: str) -> Response:
        served = services.indexes.get(name)
        return json_reply(await services.pools.searches.run(_described, served))

    @router.get(
        "/v1/indexes/{name}/status",
        summary="What is being done to a table; cheap to ask again and again",
        description=(
            "`rows` grows while a run writes; `outcomes` counts what became of every item that "
            "runs looked at, and `failures` shows some of those that failed."
        ),
        responses={200: {"model": IndexStatusReply}},
    )
    async def status(name: str) -> Response:
        served = services.indexes.get(name)
        return json_reply(await services.pools.searches.run(status_of, served))

    @router.get(
        "/v1/indexes/{name}/facets",
        summary="What a table's columns hold, to choose filters from",
        description=(
            "Of numbers and times the least and the greatest; of texts and flags the most frequent "
            "values with their counts, and whether there are more."
        ),
        responses={200: {"model": FacetsReply}},
    )
    async def facets(name: str) -> Response:
        served = services.indexes.get(name)
        found = await services.facets.get(served)
        return json_reply({"index": served.name, "columns": found})


def _summary(served: ServedIndex) -> dict[str, Any]:
    """Describe an index in a few words; one that is gone or replaced hides none of the others."""
    num_rows, error = None, None
    try:
        num_rows = served.fresh().count()
    except IndexError_ as err:
        error = str(err)
    return {
        "name": served.name,
        "rows": num_rows,
        "model": served.identity.model_id,
        "dimensions": served.identity.embed_dim,
        "error": error,
    }


def _described(served: ServedIndex) -> dict[str, Any]:
    table = describe_table(served.path)
    kinds = served.kinds()
    return {
        "name": served.name,
        "rows": table.num_rows,
        "model": table.identity.model_id,
        "fingerprint": table.identity.fingerprint,
        "preprocess": table.identity.preprocess,
        "dimensions": table.identity.embed_dim,
        "vector_dtype": table.vector_dtype,
        "made_by": table.made_by,
        "bytes": table.num_bytes,
        "searcher_bytes": table.searcher_bytes,
        "version": table.version,
        "versions_kept": table.num_versions,
        "columns": [
            {
                "name": column.name,
                "type": column.type,
                "metadata": column.is_metadata,
                "filter": kinds.get(column.name),
            }
            for column in table.columns
        ],
    }
