"""Immich's machine-learning protocol: POST /predict, as Immich's server sends it for Smart Search.

`entries` says which models of which tasks an image or a text is for. Embeddings are the task
"clip"; other tasks (faces, OCR) are passed on to Immich's own machine-learning server where the
settings name one, and refused otherwise. The health check, GET /ping, is `about`'s.

Source: github.com/immich-app/immich, version 3, `machine-learning/immich_ml/main.py`,
`server/src/repositories/machine-learning.repository.ts` and `server/src/constants.ts`.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeAlias

import numpy as np
import orjson
from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from pydantic_core import from_json
from starlette.datastructures import FormData, UploadFile

from perception_encoder.errors import UnknownModelError
from perception_encoder.server.api.base import Api, ApiRoutes, Services
from perception_encoder.server.api.common import check_texts
from perception_encoder.server.api.immich.names import expected_dimension, find_fault
from perception_encoder.server.api.immich.upstream import Upstream
from perception_encoder.server.core.model_worker import ModelWorker
from perception_encoder.server.http.errors import ApiError
from perception_encoder.server.http.replies import json_reply
from perception_encoder.server.http.requests import RequestBody, form_body, read_form, validate
from perception_encoder.types import Embeddings

_CLIP: Final = "clip"
_MAX_ENTRIES: Final = 16 * 1024
"""Characters of `entries`; Immich sends a few hundred."""

_FORM: Final = {
    "type": "object",
    "required": ["entries"],
    "properties": {
        "entries": {
            "type": "string",
            "description": 'JSON: {"clip": {"visual": {"modelName": NAME}}}, or textual.',
        },
        "image": {"type": "string", "format": "binary", "description": "For visual."},
        "text": {"type": "string", "description": "For textual."},
    },
}


class _Entry(RequestBody):
    model_name: str = Field(alias="modelName", min_length=1)


_Tasks: TypeAlias = dict[str, dict[str, _Entry]]
_TASKS: Final[TypeAdapter[_Tasks]] = TypeAdapter(Annotated[_Tasks, Field(min_length=1)])


@dataclass(frozen=True)
class _Fields:
    files: dict[str, UploadFile]
    texts: dict[str, str]


@dataclass(frozen=True)
class _Wanted:
    """A request.

    Attributes:
        model_name: Immich's name of the model for the embedding; None where none is wanted.
        others: `entries` of the other tasks.
        content: the image or the text.
    """

    model_name: str | None
    others: dict[str, Any]
    content: bytes | str


class ImmichReply(BaseModel):
    """The embedding as a JSON array in a string, as Immich hands it on to its database.

    Beside it what Immich's own server replied for other tasks.
    """

    model_config = ConfigDict(extra="allow")

    clip: str | None = None
    imageHeight: int | None = None
    imageWidth: int | None = None


class ImmichError(BaseModel):
    """The reply to a request that cannot be answered."""

    detail: str


def _build(services: Services) -> ApiRoutes:
    _check_aliases(services)
    url = services.settings.immich_ml
    upstream = None if url is None else Upstream(url)
    routes = API.routes(services)

    @routes.post(
        "/predict",
        summary="An image or a text to an embedding, for Immich's Smart Search",
        responses={
            200: {"model": ImmichReply},
            501: {"model": ImmichError, "description": "Faces or text in images are wanted."},
            502: {"model": ImmichError, "description": "Immich's own server failed."},
            504: {"model": ImmichError, "description": "Immich's own server took too long."},
        },
        openapi_extra=form_body("ImmichForm", _FORM),
    )
    async def predict(request: Request) -> Response:
        wanted = await _read_request(request, services)
        found: dict[str, Any] = {}
        if wanted.model_name is not None:
            found = await _embed(services, wanted.model_name, wanted.content)
        if wanted.others:
            found = await _pass_on(upstream, wanted) | found
        return json_reply(found)

    return routes


async def _pass_on(upstream: Upstream | None, wanted: _Wanted) -> dict[str, Any]:
    if upstream is None:
        raise ApiError(
            501,
            "unsupported_task",
            f"{', '.join(sorted(wanted.others))[:200]}: this server embeds images and texts (clip) "
            "and does not find faces or text in images; start it with --immich-ml URL, the address "
            "of Immich's own machine-learning server",
        )
    return await upstream.predict(wanted.others, wanted.content)


async def _embed(services: Services, model_name: str, content: bytes | str) -> dict[str, Any]:
    name = model_name.rpartition("/")[2].replace(":", "_")  # as Immich reads it
    async with services.served_models.use(_find_model(services, name)) as worker:
        fault = find_fault(name, worker.name, worker.embed_dim)
        if fault is not None:
            raise ApiError(400, "wrong_dimension", fault)
        if isinstance(content, str):
            vectors = await worker.embed_texts([content])
            return {_CLIP: _write_embedding(vectors[0], name)}
        return await _embed_image(services, worker, content, name)


async def _embed_image(
    services: Services, worker: ModelWorker, image: bytes, name: str
) -> dict[str, str | int]:
    names = ["image"]
    embedded = await worker.embed_images(await services.load_images([image], names), names)
    vector = embedded.require()[0]
    width, height = embedded.sizes[0]
    return {_CLIP: _write_embedding(vector, name), "imageHeight": height, "imageWidth": width}


def _write_embedding(vector: Embeddings, name: str) -> str:
    """Return a JSON array of the numbers, with zeros up to the dimension that Immich expects."""
    missing = max(0, (expected_dimension(name) or 0) - len(vector))
    padded = np.ascontiguousarray(np.pad(vector, (0, missing)))
    return orjson.dumps(padded, option=orjson.OPT_SERIALIZE_NUMPY).decode()


def _find_model(services: Services, name: str) -> str:
    try:
        return services.served_models.resolve(name)
    except UnknownModelError as err:
        raise ApiError(
            404,
            "unknown_model",
            f"no model of this server stands for {name[:100]!r}: start it with --alias "
            f"{name[:100]}=MODEL (it has: {', '.join(services.served_models.names)})",
        ) from err


def _check_aliases(services: Services) -> None:
    """Check the aliases that are Immich's names, of models whose dimension is known by now.

    Raises:
        ValueError: a model has another dimension than Immich expects.
    """
    for state in services.served_models.states():
        embed_dim = state.entry.config.embed_dim if state.entry else None
        for alias in state.aliases if embed_dim is not None else ():
            fault = find_fault(alias, state.name, embed_dim or 0)
            if fault is not None:
                raise ValueError(f"--alias {alias}: {fault}")


async def _read_request(request: Request, services: Services) -> _Wanted:
    """Return what a request asks for.

    Raises:
        ApiError: 400, parts are missing or do not go together.
        RequestValidationError: `entries` has another form.
    """
    form = await read_form(request, services.settings.access)
    try:
        fields = _read_fields(form)
        image, text = fields.files.get("image"), fields.texts.get("text")
        content = text if image is None else await image.read()
    finally:
        await form.close()
    written = _parse_entries(fields.texts.get("entries", ""))
    tasks = validate(_TASKS.validate_python, written, ("entries",))
    if content is None:
        raise ApiError(400, "invalid_request", "send an image or a text beside the entries")
    needed = "textual" if isinstance(content, str) else "visual"
    clip = tasks.pop(_CLIP, None)
    if clip is not None and list(clip) != [needed]:
        message = "entries: clip takes one model, visual with an image or textual with a text"
        raise ApiError(400, "invalid_request", message)
    if isinstance(content, str):
        check_texts([(0, content, "text")])
    others = {task: written[task] for task in tasks}  # with all their options
    return _Wanted(None if clip is None else clip[needed].model_name, others, content)


def _parse_entries(entries: str) -> Any:
    if not entries or len(entries) > _MAX_ENTRIES:
        message = f"entries: send JSON of at most {_MAX_ENTRIES:,} characters"
        raise ApiError(400, "invalid_request", message)
    try:
        return from_json(entries, allow_inf_nan=False)
    except ValueError as err:
        raise ApiError(422, "invalid_request", f"entries: no valid JSON: {err}") from err


def _read_fields(form: FormData) -> _Fields:
    """Return the parts of a form by their names.

    Raises:
        ApiError: 400, there are two of a name, or an image is none.
    """
    found = _Fields({}, {})
    for name, part in form.multi_items():
        if name in found.files or name in found.texts:
            message = f"the form has several parts {name[:100]!r}; send one image or one text"
            raise ApiError(400, "invalid_request", message)
        if isinstance(part, UploadFile) is not (name == "image"):
            message = f"part {name[:100]!r}: an image is a file, and everything else is not"
            raise ApiError(400, "invalid_request", message)
        if isinstance(part, UploadFile):
            found.files[name] = part
        else:
            found.texts[name] = part
    return found


def _error_body(answer: ApiError, _: Exception) -> Any:
    return {"detail": answer.message}


API: Final = Api(
    "immich",
    _build,
    error_body=_error_body,
    error_model=ImmichError,
    description="Immich's server, in place of its machine-learning container, for Smart Search.",
)
