"""GET / and /info: what this server is. One reply for the clients of two APIs.

`inference-sdk` wants `name`, `version` and `uuid` of /info; clients of text-embeddings-inference
want what it says of the model. None of it is secret; no key is asked for.
"""

import uuid
from typing import Any, Final

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict

from perception_encoder._version import __version__
from perception_encoder.server.api.base import Api
from perception_encoder.server.core.served_models import ModelState
from perception_encoder.server.http.requests import json_reply
from perception_encoder.server.services import Services


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


def _build(services: Services) -> APIRouter:
    router = API.router()
    this_server = str(uuid.uuid4())

    @router.get("/", summary="What this is", responses={200: {"model": RootReply}})
    async def root() -> Response:
        return json_reply(
            {
                "name": "perception-encoder",
                "version": __version__,
                "models": services.served_models.names,
                "openapi": "/openapi.json",
            }
        )

    @router.get(
        "/info",
        summary="The server and its default model",
        responses={200: {"model": InfoReply}},
    )
    async def info() -> Response:
        default = services.served_models.states()[0]
        return json_reply(
            {
                "name": "perception-encoder",
                "version": __version__,
                "uuid": this_server,
                **_model(default),
                "model_type": {"embedding": {"pooling": "last_token"}},
                "auto_truncate": True,
                "max_concurrent_requests": services.settings.queue.capacity,
                "max_client_batch_size": services.settings.access.max_items,
                "max_batch_requests": services.settings.queue.max_batch,
                "tokenization_workers": services.settings.queue.decode_threads,
            }
        )

    return router


def _model(state: ModelState) -> dict[str, Any]:
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


API: Final = Api("about", _build, description="What the server is.", needs_key=False)
