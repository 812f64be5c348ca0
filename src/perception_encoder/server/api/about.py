"""What the server is and whether it works: GET /, /info, /healthz, /readiness, /ping and /metrics.

/info answers clients of two APIs: `inference-sdk` reads `name`, `version` and `uuid`, clients of
text-embeddings-inference read the rest. /ping is the health check of Immich, which reads "pong" or
the status, and of text-embeddings-inference. Only /metrics needs a key.
"""

import asyncio
import uuid
from typing import Any, Final

from fastapi import Response
from pydantic import BaseModel, ConfigDict

from perception_encoder._version import __version__
from perception_encoder.errors import PerceptionEncoderError
from perception_encoder.server.api.base import Api, ApiRoutes, Services
from perception_encoder.server.core.served_models import ModelState
from perception_encoder.server.http.replies import json_reply

_ANSWER_SECONDS: Final = 10.0


class ServerState(BaseModel):
    """Whether the server can be used, and why not."""

    status: str
    reason: str | None = None


_STATES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"model": ServerState},
    503: {"model": ServerState, "description": "It cannot be used now."},
}
_TEXT: Final[dict[str, Any]] = {"text/plain": {"schema": {"type": "string"}}}


class RootReply(BaseModel):
    """What this server is."""

    name: str
    version: str
    models: list[str]
    openapi: str


class InfoReply(BaseModel):
    """The server and its default model, for clients of two kinds."""

    model_config = ConfigDict(protected_namespaces=())

    name: str
    version: str
    uuid: str
    model_id: str
    model_sha: str | None
    model_dtype: str | None
    max_input_length: int | None
    model_type: dict[str, Any]
    auto_truncate: bool
    max_concurrent_requests: int
    max_client_batch_size: int
    max_batch_requests: int
    tokenization_workers: int


def _build(services: Services) -> ApiRoutes:
    routes = API.routes(services)
    this_server = str(uuid.uuid4())

    @routes.get("/", summary="What this is", responses={200: {"model": RootReply}})
    async def get_root() -> Response:
        return json_reply(
            {
                "name": "perception-encoder",
                "version": __version__,
                "models": services.served_models.names,
                "openapi": "/openapi.json",
            }
        )

    @routes.get(
        "/info",
        summary="The server and its default model",
        responses={200: {"model": InfoReply}},
    )
    async def get_info() -> Response:
        default = services.served_models.states()[0]
        return json_reply(
            {
                "name": "perception-encoder",
                "version": __version__,
                "uuid": this_server,
                **_describe_model(default),
                "model_type": {"embedding": {"pooling": "last_token"}},
                "auto_truncate": True,
                "max_concurrent_requests": services.settings.queue.capacity,
                "max_client_batch_size": services.settings.access.max_items,
                "max_batch_requests": services.settings.queue.max_batch,
                "tokenization_workers": services.settings.queue.decode_threads,
            }
        )

    @routes.get("/healthz", summary="Whether the loaded models answer", responses=_STATES)
    async def check_health() -> Response:
        reason = await _find_fault(services)
        if reason is not None:
            return json_reply({"status": "unhealthy", "reason": reason}, status=503)
        return json_reply({"status": "healthy"})

    @routes.get("/readiness", summary="Whether the models are loaded", responses=_STATES)
    async def check_readiness() -> Response:
        if not services.served_models.is_ready:
            return json_reply({"status": "not ready"}, status=503)
        return json_reply({"status": "ready"})

    @routes.get(
        "/ping",
        summary="Whether the models are loaded, for Immich and text-embeddings-inference",
        response_class=Response,
        responses={200: {"content": _TEXT}, 503: _STATES[503]},
    )
    async def ping() -> Response:
        if not services.served_models.is_ready:
            return json_reply({"status": "not ready"}, status=503)
        return Response("pong", media_type="text/plain")

    @routes.get(
        "/metrics",
        summary="For Prometheus",
        needs_key=True,
        response_class=Response,
        responses={200: {"content": _TEXT}},
    )
    async def get_metrics() -> Response:
        return Response(
            services.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    return routes


async def _find_fault(services: Services) -> str | None:
    """Return why a model cannot be used; None where every loaded model answers."""
    for state in services.served_models.states():
        if state.error is not None:
            return f"{state.name} cannot be opened: {state.error}"
        if state.worker is None:
            continue
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await state.worker.check()
        except (PerceptionEncoderError, TimeoutError) as err:
            return str(err) or f"{state.name} gave no answer in {_ANSWER_SECONDS:g} s"
    return None


def _describe_model(state: ModelState) -> dict[str, Any]:
    """Return what is known of a model: more once it is loaded."""
    worker = state.worker
    config = worker.model.config if worker else state.entry.config if state.entry else None
    text = config.text if config else None
    return {
        "model_id": state.name,
        "model_sha": worker.identity.fingerprint if worker else None,
        "model_dtype": worker.model.backend.precision if worker else None,
        "max_input_length": text.context_length if text else None,
    }


API: Final = Api(
    "about", _build, description="The server and its state.", needs_key=False, operation_prefix=""
)
