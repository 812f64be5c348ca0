"""Names of models in this API, and the routes that list, load and unload models."""

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError

from perception_encoder.errors import UnknownModelError
from perception_encoder.server.api.base import ApiRoutes, Services
from perception_encoder.server.api.roboflow.schemas import Body, ModelBody, ModelRegistry
from perception_encoder.server.core.model_worker import ModelWorker
from perception_encoder.server.core.served_models import ModelState
from perception_encoder.server.http.errors import ApiError
from perception_encoder.server.http.replies import json_reply
from perception_encoder.server.http.requests import json_body, read_body

_NOT_FOUND = (
    "Requested Roboflow resource not found. Make sure that workspace, project or model you "
    "referred in request exists."
)
_REPLY: Final[dict[int | str, dict[str, Any]]] = {200: {"model": ModelRegistry}}


@dataclass(frozen=True)
class Kind:
    """One of the two kinds of model that have routes of their own.

    Attributes:
        prefix: of its routes and model ids.
        other_prefixes: that also begin its model ids.
        version_of: the version that a body names, if any.
        default_version: taken where a request names none; None for the server's first model.
    """

    prefix: str
    other_prefixes: tuple[str, ...]
    version_of: Callable[[Body], str | None]
    default_version: str | None

    def version(self, name: str) -> str:
        """Return a model's name without the prefix."""
        for prefix in (self.prefix, *self.other_prefixes):
            if name.lower().startswith(f"{prefix}/"):
                return name[len(prefix) + 1 :]
        return name


PERCEPTION_ENCODER: Final = Kind(
    "perception_encoder",
    ("perception-encoder",),
    lambda body: body.perception_encoder_version_id,
    None,
)
CLIP: Final = Kind("clip", (), lambda body: body.clip_version_id, "ViT-B-16")


@dataclass(frozen=True)
class RequestedModel:
    """A model for the time of one request.

    Attributes:
        worker: the model.
        model_id: what this API calls it.
        load_seconds: that opening it took for this very request; None where it was open.
        started: when the request asked for it, by `time.perf_counter`.
    """

    worker: ModelWorker
    model_id: str
    load_seconds: float | None
    started: float


@asynccontextmanager
async def lend(services: Services, kind: Kind, body: Body) -> AsyncIterator[RequestedModel]:
    """Lend the model that a request means; raises as `ServedModels.use`."""
    started = time.perf_counter()
    name = _find_meant(services, kind, body)
    was_loaded = state_of(services, name).is_loaded
    async with services.served_models.use(name) as worker:
        state = state_of(services, name)
        yield RequestedModel(
            worker, model_id(state), None if was_loaded else state.load_seconds or 0.0, started
        )


def resolve(services: Services, name: str, kind: Kind | None = None) -> str:
    """Return the server's name of a model that a client calls `prefix/version` or `version`.

    Raises:
        UnknownModelError: the server has none of that name.
    """
    kind = kind or (CLIP if name.lower().startswith("clip/") else PERCEPTION_ENCODER)
    version = kind.version(name.strip())
    for spelling in (version, f"{kind.prefix}/{version}"):
        try:
            return services.served_models.resolve(spelling)
        except UnknownModelError:
            continue
    raise UnknownModelError(
        f"this server has no model {kind.prefix}/{version[:100]}; it has: "
        + ", ".join(model_id(state) for state in services.served_models.states())
        + " (pe serve --model adds one, --alias lets one answer to another name)"
    )


def model_id(state: ModelState) -> str:
    """Return what this API calls a model."""
    kind = CLIP if is_clip(state) else PERCEPTION_ENCODER
    return f"{kind.prefix}/{kind.version(state.name)}"


def is_clip(state: ModelState) -> bool:
    """Say whether a model is one of OpenAI's, whose vectors are no Perception Encoder's."""
    return state.entry is not None and state.entry.family == "CLIP"


def state_of(services: Services, name: str) -> ModelState:
    """Return the state of a model by the server's name of it."""
    return next(state for state in services.served_models.states() if state.name == name)


def describe_resolved(lent: RequestedModel) -> dict[str, Any]:
    """Return what replies say of the model that answered, whatever name it was asked by."""
    backend = lent.worker.model.backend
    return {
        "model_id": lent.model_id,
        "model_package_id": lent.worker.identity.fingerprint,
        "backend": backend.name,
        "quantization": backend.precision,
    }


def _find_meant(services: Services, kind: Kind, body: Body) -> str:
    named = kind.version_of(body) or body.model_id or kind.default_version
    if named is not None:
        return resolve(services, named, kind)
    for state in services.served_models.states():
        if not is_clip(state):
            return state.name
    raise UnknownModelError(
        f"this server has no Perception Encoder; it has: {', '.join(services.served_models.names)}"
    )


def reply(request: Request, body: Body, lent: RequestedModel, **content: Any) -> Response:
    """Return a reply: the fields that all have, then its content."""
    seconds = time.perf_counter() - lent.started
    return json_reply(
        {
            "inference_id": body.id or request.scope.get("pe.request_id"),
            "frame_id": None,
            "time": seconds,
            "resolved_model": describe_resolved(lent),
            **content,
        },
        headers=_headers(lent, seconds),
    )


def error_body(answer: ApiError, err: Exception) -> Any:
    """Return the JSON of an error: always an object, which is what the SDK can read."""
    if isinstance(err, RequestValidationError):
        # Without what was sent: that may be an image.
        detail = [{key: one[key] for key in ("type", "loc", "msg")} for one in err.errors()]
        return {"detail": detail, "message": answer.message}
    if answer.status_code == 401:
        return {"status": 401, "message": f"Unauthorized api_key: {answer.message}"}
    if isinstance(err, UnknownModelError):
        return {"message": f"{_NOT_FOUND} ({answer.message})"}
    return {"message": answer.message}


def _to_ascii(name: str) -> str:
    """Return a name as headers can carry it: a model may be called as its folder is."""
    return name.encode("ascii", "replace").decode()


def _headers(lent: RequestedModel, seconds: float) -> dict[str, str]:
    headers = {
        "X-Inference-Engine": "perception-encoder",
        "X-Model-Id": _to_ascii(lent.model_id),
        "X-Model-Cold-Start": str(lent.load_seconds is not None).lower(),
        "X-Processing-Time": f"{seconds:.6f}",
    }
    if lent.load_seconds is not None:
        headers["X-Model-Cold-Start-Count"] = "1"
        headers["X-Model-Load-Time"] = f"{lent.load_seconds:.6f}"
        headers["X-Model-Load-Details"] = json.dumps(
            [{"m": lent.model_id, "t": round(lent.load_seconds, 6)}]
        )
    return headers


def add_routes(routes: ApiRoutes, services: Services) -> None:
    """Add the routes."""

    @routes.get("/model/registry", summary="The models in memory", responses=_REPLY)
    async def list_models() -> Response:
        return _reply_registry(services)

    @routes.post(
        "/model/add", summary="Load a model", responses=_REPLY, openapi_extra=json_body(ModelBody)
    )
    async def add_model(request: Request) -> Response:
        body = await read_body(request, ModelBody)
        await services.served_models.load(resolve(services, body.model_id))
        return _reply_registry(services)

    @routes.post(
        "/model/remove",
        summary="Unload a model",
        responses=_REPLY,
        openapi_extra=json_body(ModelBody),
    )
    async def remove_model(request: Request) -> Response:
        body = await read_body(request, ModelBody)
        await services.served_models.unload(resolve(services, body.model_id))
        return _reply_registry(services)

    @routes.post("/model/clear", summary="Unload every model that nobody uses", responses=_REPLY)
    async def remove_models() -> Response:
        await services.served_models.unload_all()
        return _reply_registry(services)


def _reply_registry(services: Services) -> Response:
    states = [state for state in services.served_models.states() if state.is_loaded]
    models = []
    for state in states:
        models += [_describe_registered(state, name) for name in _list_names(state)]
    return json_reply({"models": models})


def _list_names(state: ModelState) -> list[str]:
    """Return a model's name and its aliases: clients look for the name that they asked for."""
    kind = CLIP if is_clip(state) else PERCEPTION_ENCODER
    aliases = (
        alias if "/" in alias else f"{kind.prefix}/{kind.version(alias)}" for alias in state.aliases
    )
    return list(dict.fromkeys((model_id(state), *aliases)))


def _describe_registered(state: ModelState, name: str) -> dict[str, Any]:
    assert state.worker is not None
    side = state.worker.model.processor.image_size
    return {
        "model_id": name,
        "task_type": "embedding",
        "batch_size": None,
        "input_height": side,
        "input_width": side,
        "vram_bytes": None,
    }
