"""Routes for whoever watches the server: is it alive, is it ready, what does it do."""

import asyncio
from typing import Any, Final

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel

from perception_encoder.errors import PerceptionEncoderError
from perception_encoder.server.api.base import Api, admitted
from perception_encoder.server.http.requests import json_reply
from perception_encoder.server.services import Services

_ANSWER_SECONDS: Final = 10.0


class ServerState(BaseModel):
    """Whether the server can be used, and why not."""

    status: str
    reason: str | None = None


_STATES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"model": ServerState},
    503: {"model": ServerState, "description": "It cannot be used now."},
}


def _build(services: Services) -> APIRouter:
    router = API.router()

    @router.get("/healthz", summary="Whether the loaded models answer", responses=_STATES)
    async def healthz() -> Response:
        for state in services.served_models.states():
            if state.error is not None:
                reason = f"{state.name} cannot be opened: {state.error}"
                return json_reply({"status": "unhealthy", "reason": reason}, status=503)
            if state.worker is None:
                continue
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await state.worker.check()
            except (PerceptionEncoderError, TimeoutError) as err:
                reason = str(err) or f"{state.name} gave no answer in {_ANSWER_SECONDS:g} s"
                return json_reply({"status": "unhealthy", "reason": reason}, status=503)
        return json_reply({"status": "healthy"})

    @router.get("/readiness", summary="Whether the models are loaded", responses=_STATES)
    async def readiness() -> Response:
        if not services.served_models.is_ready:
            return json_reply({"status": "not ready"}, status=503)
        return json_reply({"status": "ready"})

    @router.get(
        "/metrics",
        summary="For Prometheus",
        dependencies=[Depends(admitted)],
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        return Response(
            services.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    return router


API: Final = Api("watch", _build, description="Whoever watches the server.", needs_key=False)
