"""GET /v1/indexes and /v1/models, and POST /v1/session."""

import os
from typing import Any

from fastapi import Request, Response

from perception_encoder.embedder.text_tower import find_text_twin
from perception_encoder.errors import ImageIndexError
from perception_encoder.index.optimize import describe_index
from perception_encoder.server.api.base import ApiRoutes, Services
from perception_encoder.server.api.native.replies import (
    FacetsReply,
    FoldersReply,
    IndexesReply,
    IndexReply,
    IndexStatusReply,
    ModelReply,
    ModelsReply,
)
from perception_encoder.server.core.facets import list_facets, list_folders, read_status
from perception_encoder.server.core.indexes import ServedIndex
from perception_encoder.server.core.served_models import ModelState
from perception_encoder.server.http.access import COOKIE
from perception_encoder.server.http.replies import json_reply


def add_routes(routes: ApiRoutes, services: Services) -> None:
    """Add the routes."""

    @routes.get(
        "/v1/indexes",
        summary="The indexes of this server, the default first",
        responses={200: {"model": IndexesReply}},
    )
    async def list_indexes() -> Response:
        data = [
            {
                **await services.pools.searches.run(_summarize, served),
                **_describe_text(services, served),
            }
            for served in services.indexes
        ]
        return json_reply({"data": data})

    @routes.get(
        "/v1/indexes/{name}",
        summary="An index's model, size, versions and columns",
        responses={200: {"model": IndexReply}},
    )
    async def get_index(name: str) -> Response:
        served = services.indexes.get(name)
        described = await services.pools.searches.run(describe_served_index, served)
        return json_reply({**described, **_describe_text(services, served)})

    @routes.get(
        "/v1/indexes/{name}/status",
        summary="What is being done to an index; cheap to ask again and again",
        description=(
            "`rows` grows while a run writes; `outcomes` counts what became of every item that "
            "runs looked at, and `failures` shows some of those that failed."
        ),
        responses={200: {"model": IndexStatusReply}},
    )
    async def get_index_status(name: str) -> Response:
        served = services.indexes.get(name)
        return json_reply(await services.pools.searches.run(read_status, served))

    @routes.get(
        "/v1/indexes/{name}/facets",
        summary="What an index's columns hold, to choose filters from",
        description=(
            "Of numbers and times the least and the greatest; of times also the years and months "
            "with their counts; of texts and flags the most frequent values with their counts, and "
            "whether there are more."
        ),
        responses={200: {"model": FacetsReply}},
    )
    async def get_facets(name: str) -> Response:
        served = services.indexes.get(name)
        found = await services.summaries.get(served, list_facets)
        return json_reply({"index": served.name, "columns": found})

    @routes.get(
        "/v1/indexes/{name}/folders",
        summary="The folders of an index's images, by path",
        description=(
            "Folders and archives with the number of images in and below each, and the filter that "
            "chooses them. Folders above the first one that branches are left out."
        ),
        responses={200: {"model": FoldersReply}},
    )
    async def get_folders(name: str) -> Response:
        served = services.indexes.get(name)
        found = await services.summaries.get(served, list_folders)
        return json_reply({"index": served.name, **found})


def _describe_text(services: Services, served: ServedIndex) -> dict[str, str | None]:
    model_id = served.identity.model_id
    twin = find_text_twin(model_id)
    return {
        "text_model": services.served_models.text_model_of(model_id),
        "text_twin": None if twin is None else twin.id,
    }


def _summarize(served: ServedIndex) -> dict[str, Any]:
    """Describe an index in a few words; one that is gone or replaced hides none of the others."""
    num_rows, error = None, None
    try:
        num_rows = served.fresh().count()
    except ImageIndexError as err:
        error = str(err)
    return {
        "name": served.name,
        "path": _absolute(served.path),
        "rows": num_rows,
        "model": served.identity.model_id,
        "dimensions": served.identity.embed_dim,
        "error": error,
    }


def describe_served_index(served: ServedIndex) -> dict[str, Any]:
    """Return an index as `IndexReply` describes it.

    Raises:
        ImageIndexError: it cannot be read.
    """
    index = describe_index(served.path)
    kinds, shown = served.kinds(), frozenset(served.fresh().schema.names)
    return {
        "name": served.name,
        "path": _absolute(served.path),
        "rows": index.num_rows,
        "model": index.identity.model_id,
        "fingerprint": index.identity.fingerprint,
        "preprocess": index.identity.preprocess,
        "dimensions": index.identity.embed_dim,
        "vector_dtype": index.vector_dtype,
        "made_by": index.made_by,
        "bytes": index.num_bytes,
        "search": index.search,
        "searcher_bytes": index.searcher_bytes,
        "recall": index.recall,
        "version": index.version,
        "versions_kept": index.num_versions,
        "reads_metadata": index.reads_metadata,
        "tiles": index.tiles,
        "columns": [
            {
                "name": column.name,
                "type": column.type,
                "metadata": column.is_metadata,
                "filter": kinds.get(column.name),
            }
            for column in index.columns
            if column.name in shown
        ],
    }


def _absolute(path: str) -> str:
    """Return what commands in any folder can be given; a URI stays as it is."""
    return path if "://" in path else os.path.abspath(path)


def add_model_routes(routes: ApiRoutes, services: Services) -> None:
    """Add the routes."""

    @routes.get(
        "/v1/models",
        summary="The models of this server, the default first, then their aliases",
        responses={200: {"model": ModelsReply}},
    )
    async def list_models() -> Response:
        states = services.served_models.states()
        data = [describe_model(state) for state in states]
        # Clients look for the name that they will ask by; as in vLLM's list, `root` is the model.
        data += [
            {**describe_model(state), "id": alias} for state in states for alias in state.aliases
        ]
        return json_reply({"object": "list", "data": data})

    @routes.get(
        "/v1/models/{name:path}", summary="One model", responses={200: {"model": ModelReply}}
    )
    async def get_model(name: str) -> Response:
        found = services.served_models.resolve(name)
        states = [state for state in services.served_models.states() if state.name == found]
        return json_reply(describe_model(states[0]))


def describe_model(state: ModelState) -> dict[str, Any]:
    """Return a model as JSON; `id`, `object` and `owned_by` as OpenAI's clients expect them."""
    info: dict[str, Any] = {
        "id": state.name,
        "object": "model",
        "created": 0,
        "owned_by": "perception-encoder",
        "root": state.name,
        "aliases": list(state.aliases),
        "loaded": state.is_loaded,
        "load_seconds": state.load_seconds,
        "bytes": state.num_bytes,
        "error": state.error,
    }
    if state.entry is not None:
        config = state.entry.config
        info |= {
            "dimensions": config.embed_dim,
            "image_size": config.vision.image_size,
            "context_length": config.text.context_length if config.text else None,
            "reads_text": config.text is not None,
            "text_twin": state.entry.text_twin,
            "license": state.entry.license.spdx,
        }
    if state.worker is not None:
        info["reads_text"] = state.worker.model.reads_text
        backend = state.worker.model.backend
        info |= {
            "dimensions": state.worker.embed_dim,
            "backend": backend.name,
            "device": backend.device,
            "precision": backend.precision,
            "waiting": state.worker.num_waiting,
        }
    return info


def add_session_route(routes: ApiRoutes, services: Services) -> None:
    """Add the route."""

    @routes.post(
        "/v1/session",
        status_code=204,
        summary="Begin a session for a browser",
        description="With a key in the header; the cookie then stands for it, on this site only.",
    )
    async def open_session(request: Request) -> Response:
        token, seconds = services.access.open_session()
        reply = Response(status_code=204)
        reply.set_cookie(
            COOKIE,
            token,
            max_age=seconds,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return reply
