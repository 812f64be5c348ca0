"""GET /v1/models: what may be asked for."""

from typing import Any

from fastapi import APIRouter, Response

from perception_encoder.server.core.engines import ModelState
from perception_encoder.server.dialects.native.replies import ModelReply, ModelsReply
from perception_encoder.server.replies import json_reply
from perception_encoder.server.services import Services


def add_routes(router: APIRouter, services: Services) -> None:
    """Add the routes."""

    @router.get(
        "/v1/models",
        summary="The models of this server, the default first, then their aliases",
        responses={200: {"model": ModelsReply}},
    )
    async def models() -> Response:
        states = services.engines.states()
        data = [described(state) for state in states]
        # Clients look for the name that they will ask by; as in vLLM's list, `root` is the model.
        data += [{**described(state), "id": alias} for state in states for alias in state.aliases]
        return json_reply({"object": "list", "data": data})

    @router.get(
        "/v1/models/{name:path}", summary="One model", responses={200: {"model": ModelReply}}
    )
    async def model(name: str) -> Response:
        found = services.engines.resolve(name)
        states = [state for state in services.engines.states() if state.name == found]
        return json_reply(described(states[0]))


def described(state: ModelState) -> dict[str, Any]:
    """Return a model as JSON; `id`, `object` and `owned_by` as OpenAI's clients expect them."""
    facts: dict[str, Any] = {
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
        facts |= {
            "dimensions": config.embed_dim,
            "image_size": config.vision.image_size,
            "context_length": config.text.context_length if config.text else None,
            "licence": state.entry.licence.spdx,
        }
    if state.engine is not None:
        backend = state.engine.model.backend
        facts |= {
            "dimensions": state.engine.embed_dim,
            "backend": backend.name,
            "device": backend.device,
            "precision": backend.precision,
            "waiting": state.engine.num_waiting,
        }
    return facts
