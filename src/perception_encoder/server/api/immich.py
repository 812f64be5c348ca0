"""Immich's machine-learning protocol: POST /predict, as Immich's server sends it for Smart Search.

`entries` says which models of which tasks an image or a text is for. Embeddings are the task
"clip"; faces and text in images are of Immich's own machine-learning server. Its health check, GET
/ping, is `about`'s. Source: github.com/immich-app/immich, version 3,
`server/src/repositories/machine-learning.repository.ts`, `server/src/constants.ts` and
`machine-learning/immich_ml/main.py`.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeAlias

import numpy as np
import orjson
from fastapi import Request, Response
from pydantic import BaseModel, Field, TypeAdapter
from starlette.datastructures import FormData, UploadFile

from perception_encoder.errors import UnknownModelError
from perception_encoder.server.api.base import Api, ApiRoutes, Services
from perception_encoder.server.api.common import check_texts
from perception_encoder.server.core.model_worker import ModelWorker
from perception_encoder.server.http.errors import ApiError
from perception_encoder.server.http.replies import json_reply
from perception_encoder.server.http.requests import RequestBody, form_body, read_form, validate
from perception_encoder.types import Embeddings

_DIMENSIONS: Final[dict[str, int]] = {
    name: dimension
    for dimension, names in {
        512: """
            ViT-B-32__openai ViT-B-16__openai RN101__openai RN101__yfcc15m ViT-B-16__laion400m_e31
            ViT-B-16__laion400m_e32 ViT-B-32__laion2b-s34b-b79k ViT-B-32__laion2b_e16
            ViT-B-32__laion400m_e31 ViT-B-32__laion400m_e32 XLM-Roberta-Large-Vit-B-32
            XLM-Roberta-Base-ViT-B-32__laion5b_s13b_b90k
        """,
        640: """
            RN50x4__openai ViT-B-16-plus-240__laion400m_e31 ViT-B-16-plus-240__laion400m_e32
            XLM-Roberta-Large-Vit-B-16Plus
        """,
        768: """
            ViT-L-14__openai ViT-L-14-336__openai LABSE-Vit-L-14 RN50x16__openai
            ViT-B-16-SigLIP-256__webli ViT-B-16-SigLIP-384__webli ViT-B-16-SigLIP-512__webli
            ViT-B-16-SigLIP-i18n-256__webli ViT-B-16-SigLIP__webli ViT-L-14-quickgelu__dfn2b
            ViT-L-14__laion2b-s32b-b82k ViT-L-14__laion400m_e31 ViT-L-14__laion400m_e32
            XLM-Roberta-Large-Vit-L-14 nllb-clip-base-siglip__mrl nllb-clip-base-siglip__v1
            ViT-B-16-SigLIP2__webli ViT-B-32-SigLIP2-256__webli
        """,
        1024: """
            ViT-H-14__laion2b-s32b-b79k RN50__cc12m RN50__openai RN50__yfcc15m RN50x64__openai
            ViT-H-14-378-quickgelu__dfn5b ViT-H-14-quickgelu__dfn5b ViT-L-16-SigLIP-256__webli
            ViT-L-16-SigLIP-384__webli ViT-g-14__laion2b-s12b-b42k ViT-L-16-SigLIP2-256__webli
            ViT-L-16-SigLIP2-384__webli ViT-L-16-SigLIP2-512__webli
            XLM-Roberta-Large-ViT-H-14__frozen_laion5b_s13b_b90k
        """,
        1152: """
            ViT-SO400M-14-SigLIP-384__webli nllb-clip-large-siglip__mrl nllb-clip-large-siglip__v1
            ViT-SO400M-14-SigLIP2__webli ViT-SO400M-14-SigLIP2-378__webli
            ViT-SO400M-16-SigLIP2-256__webli ViT-SO400M-16-SigLIP2-384__webli
            ViT-SO400M-16-SigLIP2-512__webli
        """,
        1536: "ViT-gopt-16-SigLIP2-384__webli ViT-gopt-16-SigLIP2-256__webli",
    }.items()
    for name in names.split()
}
"""The dimension of Immich's column for each of its model names (`CLIP_MODEL_INFO`); of each
dimension, the name to suggest comes first."""

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
    """A request: the name that Immich has for the model, and the image or the text."""

    model_name: str
    content: bytes | str


class ImmichReply(BaseModel):
    """The embedding as a JSON array in a string, as Immich hands it on to its database."""

    clip: str
    imageHeight: int | None = None
    imageWidth: int | None = None


class ImmichError(BaseModel):
    """The reply to a request that cannot be answered."""

    detail: str


def _build(services: Services) -> ApiRoutes:
    _check_aliases(services)
    routes = API.routes(services)

    @routes.post(
        "/predict",
        summary="An image or a text to an embedding, for Immich's Smart Search",
        responses={
            200: {"model": ImmichReply},
            501: {"model": ImmichError, "description": "Faces or text in images are wanted."},
        },
        openapi_extra=form_body("ImmichForm", _FORM),
    )
    async def predict(request: Request) -> Response:
        wanted = await _read_request(request, services)
        name = wanted.model_name.rpartition("/")[2].replace(":", "_")  # as Immich reads it
        async with services.served_models.use(_find_model(services, name)) as worker:
            fault = _find_fault(name, worker.name, worker.embed_dim)
            if fault is not None:
                raise ApiError(400, "wrong_dimension", fault)
            if isinstance(wanted.content, str):
                vectors = await worker.embed_texts([wanted.content])
                return json_reply({_CLIP: _write_embedding(vectors[0], name)})
            return json_reply(await _embed_image(services, worker, wanted.content, name))

    return routes


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
    missing = max(0, _DIMENSIONS.get(name, 0) - len(vector))
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


def _find_fault(name: str, model: str, embed_dim: int) -> str | None:
    """Return why a model cannot stand for one of Immich's names; None where it can.

    Zeros are added only to embeddings of a dimension for which Immich has no name, such as the 1280
    of PE-Core-G14-448: distances and cosines stay the same.
    """
    expected = _DIMENSIONS.get(name)
    names = [one for one, dimension in _DIMENSIONS.items() if dimension == embed_dim]
    if expected in (None, embed_dim) or (not names and embed_dim < (expected or 0)):
        return None
    larger = [one for one, dimension in _DIMENSIONS.items() if dimension > embed_dim]
    fitting = (names or larger)[:3]
    return (
        f"{model} cannot stand for {name}: its embeddings have {embed_dim} dimensions, and Immich "
        f"expects {expected}; "
        + (f"choose one of these in Immich: {', '.join(fitting)}" if fitting else "take another")
    )


def _check_aliases(services: Services) -> None:
    """Check the aliases that are Immich's names, of models whose dimension is known by now.

    Raises:
        ValueError: a model has another dimension than Immich expects.
    """
    for state in services.served_models.states():
        embed_dim = state.entry.config.embed_dim if state.entry else None
        for alias in state.aliases if embed_dim is not None else ():
            fault = _find_fault(alias, state.name, embed_dim or 0)
            if fault is not None:
                raise ValueError(f"--alias {alias}: {fault}")


async def _read_request(request: Request, services: Services) -> _Wanted:
    """Return what a request asks for.

    Raises:
        ApiError: 400, parts are missing or do not go together; 501, a task is not done here.
        RequestValidationError: `entries` has another form.
    """
    form = await read_form(request, services.settings.access)
    try:
        fields = _read_fields(form)
        image, text = fields.files.get("image"), fields.texts.get("text")
        content = text if image is None else await image.read()
    finally:
        await form.close()
    entries = fields.texts.get("entries", "")
    if not entries or len(entries) > _MAX_ENTRIES:
        message = f"entries: send JSON of at most {_MAX_ENTRIES:,} characters"
        raise ApiError(400, "invalid_request", message)
    tasks = validate(_TASKS.validate_json, entries, ("entries",))
    if others := sorted(tasks.keys() - {_CLIP}):
        raise ApiError(
            501,
            "unsupported_task",
            f"{', '.join(others)[:200]}: this server embeds images and texts (clip) and does not "
            "find faces or text in images; see its guide to Immich",
        )
    needed = "textual" if isinstance(content, str) else "visual"
    if content is None or list(tasks[_CLIP]) != [needed]:
        message = "entries: clip takes one model, visual with an image or textual with a text"
        raise ApiError(400, "invalid_request", message)
    if isinstance(content, str):
        check_texts([(0, content, "text")])
    return _Wanted(tasks[_CLIP][needed].model_name, content)


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
