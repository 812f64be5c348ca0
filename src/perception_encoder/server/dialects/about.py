"""GET / and /info: what this server is. One reply for the clients of two dialects.

`inference-sdk` wants `name`, `version` and `uuid` of /info; clients of text-embeddings-inference
want what it says of the model. None of it is secret; no key is asked for.
"""

import uuid
from typing import Any, Final

from fastapi import APIRouter, Response

from perception_encoder._version import __version__
from perception_encoder.server.core.engines import ModelState
from perception_encoder.server.dialect import Dialect
from perception_encoder.server.replies import json_reply
from perception_encoder.server.services import Services


def _build(services: Services) -> APIRouter:
    router = DIALECT.router()
    this_server = str(uuid.uuid4())

    @router.get("/", summary="What this is")
    async def root() -> Response:
        return json_reply(
            {
                "name": "perception-encoder",
                "version": __version__,
                "models": services.engines.names,
                "openapi": "/openapi.json",
            }
        )

    @router.get("/info", summary="The server and its default model")
    async def info() -> Response:
        default = services.engines.states()[0]
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
    engine = state.engine
    config = engine.model.config if engine else state.entry.config if state.entry else None
    text = config.text if config else None
    return {
        "model_id": state.name,
        "model_sha": engine.identity.fingerprint if engine else None,
        "model_dtype": engine.model.backend.precision if engine else None,
        "max_input_length": text.context_length if text else None,
    }


DIALECT: Final = Dialect("about", _build, needs_key=False)
