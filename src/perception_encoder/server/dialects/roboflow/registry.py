"""The models in memory: GET /model/registry, POST /model/add, /model/remove and /model/clear."""

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from perception_encoder.server.bodies import json_body, read_body
from perception_encoder.server.core.engines import ModelState
from perception_encoder.server.dialects.roboflow.bodies import ModelBody
from perception_encoder.server.dialects.roboflow.models import (
    CLIP,
    PERCEPTION_ENCODER,
    is_clip,
    model_id,
    resolve,
)
from perception_encoder.server.dialects.roboflow.schemas import ModelRegistry
from perception_encoder.server.replies import json_reply
from perception_encoder.server.services import Services

_REPLY: Final[dict[int | str, dict[str, Any]]] = {200: {"model": ModelRegistry}}


def add_routes(router: APIRouter, services: Services) -> None:
    """Add the routes."""

    @router.get("/model/registry", summary="The models in memory", responses=_REPLY)
    async def registry() -> Response:
        return _registry(services)

    @router.post(
        "/model/add", summary="Load a model", responses=_REPLY, openapi_extra=json_body(ModelBody)
    )
    async def add(request: Request) -> Response:
        body = await read_body(request, ModelBody)
        await services.engines.load(resolve(services, body.model_id))
        return _registry(services)

    @router.post(
        "/model/remove",
        summary="Unload a model",
        responses=_REPLY,
        openapi_extra=json_body(ModelBody),
    )
    async def remove(request: Request) -> Response:
        body = await read_body(request, ModelBody)
        await services.engines.unload(resolve(services, body.model_id))
        return _registry(services)

    @router.post("/model/clear", summary="Unload every model that nobody uses", responses=_REPLY)
    async def clear() -> Response:
        await services.engines.unload_all()
        return _registry(services)


def _registry(services: Services) -> Response:
    states = [state for state in services.engines.states() if state.is_loaded]
    models = []
    for state in states:
        models += [_described(state, name) for name in _names(state)]
    return json_reply({"models": models})


def _names(state: ModelState) -> list[str]:
    """Return a model's name and its aliases: clients look for the name that they asked for."""
    kind = CLIP if is_clip(state) else PERCEPTION_ENCODER
    aliases = (
        alias if "/" in alias else f"{kind.prefix}/{kind.version(alias)}" for alias in state.aliases
    )
    return list(dict.fromkeys((model_id(state), *aliases)))


def _described(state: ModelState, name: str) -> dict[str, Any]:
    assert state.engine is not None
    side = state.engine.model.processor.image_size
    return {
        "model_id": name,
        "task_type": "embedding",
        "batch_size": None,
        "input_height": side,
        "input_width": side,
        "vram_bytes": None,
    }
