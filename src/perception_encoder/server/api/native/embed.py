"""POST /v1/embed: images and texts to vectors; as JSON, multipart or one image's bytes."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, Self, TypeVar

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.datastructures import FormData, UploadFile

from perception_encoder.errors import ImageError, PerceptionEncoderError, TextTooLargeError
from perception_encoder.preprocess.image_strings import image_in_text
from perception_encoder.preprocess.tokenizer import check_text_size
from perception_encoder.server.api.native.replies import EmbedReply
from perception_encoder.server.core.embeddings import (
    Dtype,
    Encoding,
    VectorForm,
    as_npy,
    for_json,
    shaped,
)
from perception_encoder.server.core.model_worker import ModelWorker
from perception_encoder.server.http.errors import ApiError, ItemProblem, item_problem, items_error
from perception_encoder.server.http.forms import read_form
from perception_encoder.server.http.requests import (
    BINARY,
    Dimensions,
    ListOf,
    RequestBody,
    json_body,
    json_reply,
    parse_body,
    validate,
)
from perception_encoder.server.services import Services
from perception_encoder.types import Embeddings

ItemT = TypeVar("ItemT")

IMAGE: Final = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
"""In examples: an image of one pixel."""
_MULTIPART: Final = {
    "type": "object",
    "properties": {
        "images": {"type": "array", "items": {"type": "string", "format": "binary"}},
        "texts": {"type": "array", "items": {"type": "string"}},
        "model": {"type": "string"},
        "dimensions": {"type": "integer", "minimum": 1},
        "dtype": {"enum": ["float32", "float16", "int8"]},
        "encoding": {"enum": ["float", "base64", "npy"]},
        "on_error": {"enum": ["fail", "report"]},
    },
}
# Also so that openapi-python-client's function for two kinds of bodies can be imported: it lacks an
# import where an operation has no optional parameter.
_REQUEST_ID: Final = {
    "name": "X-Request-ID",
    "in": "header",
    "required": False,
    "description": "Comes back in the reply and stands in the server's log.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
}


class Input(RequestBody):
    """An image or a text."""

    model_config = ConfigDict(extra="forbid")

    text: str | None = Field(default=None, description="Words.")
    image: str | None = Field(
        default=None, description="Base64, a data URI, or a URL where enabled."
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.text is None) == (self.image is None):
            raise ValueError("give either text or image")
        return self


async def embed_inputs(
    services: Services, worker: ModelWorker, inputs: Sequence[Input], names: Sequence[str]
) -> Embeddings:
    """Return (N, E) float32 of unit length, in the order of the inputs.

    Args:
        services: of the server.
        worker: the model.
        inputs: images and texts.
        names: what errors call each of them.

    Raises:
        ApiError: 400, some cannot be used; `items` names each by its place among the inputs.
    """
    texts = [n for n, one in enumerate(inputs) if one.text is not None]
    images = [n for n, one in enumerate(inputs) if one.image is not None]
    check_texts((n, inputs[n].text or "", names[n]) for n in texts)
    vectors = np.zeros((len(inputs), worker.embed_dim), np.float32)
    if images:
        image_names = [names[n] for n in images]
        loaded = await services.load_images([inputs[n].image or "" for n in images], image_names)
        embedded = await worker.embed_images(loaded, image_names)
        if embedded.errors:
            failed: dict[int, PerceptionEncoderError] = {
                images[place]: err for place, err in embedded.errors.items()
            }
            raise items_error(failed, len(inputs))
        vectors[images] = embedded.vectors
    if texts:
        vectors[texts] = await worker.embed_texts([inputs[n].text or "" for n in texts])
    return vectors


def check_texts(texts: Iterable[tuple[int, str, str]]) -> None:
    """Refuse texts that are too large, and encoded images, whose characters mean nothing.

    Args:
        texts: each with its position among the request's items, and what errors call it.

    Raises:
        ApiError: 400 that names the first.
    """
    for position, text, name in texts:
        try:
            check_text_size(text, name, position)
        except TextTooLargeError as err:
            problem = ItemProblem(position, "text_too_large", str(err), name)
            raise ApiError(400, problem.code, problem.message, items=(problem,)) from err
        if (kind := image_in_text(text)) is not None:
            message = f"{name}: this is the {kind} of an image, not a text; send it as an image"
            problem = ItemProblem(position, "image_as_text", message, name)
            raise ApiError(400, problem.code, message, items=(problem,))


def items_of(field: str, value: ItemT | list[ItemT]) -> tuple[list[ItemT], list[str]]:
    """Return the items of a field that holds one or a list, and what errors call each."""
    if isinstance(value, list):
        return value, names_of(field, len(value))
    return [value], [field]


def names_of(field: str, count: int) -> list[str]:
    """Return what errors call the items of a list: "input[0]", "input[1]", …."""
    return [f"{field}[{position}]" for position in range(count)]


def check_field(field: str, texts: Sequence[str]) -> None:
    """Refuse a list of texts; raises as `check_texts`."""
    check_texts((n, text, f"{field}[{n}]") for n, text in enumerate(texts))


class NativeEmbedBody(RequestBody):
    """What is to be embedded, and how the vectors are wanted."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {"texts": ["a red heart"], "images": [IMAGE], "encoding": "base64"}
        },
    )

    model: str | None = Field(
        default=None, description="One of GET /v1/models; default: the first."
    )
    texts: ListOf[str] = Field(default=[], description="Words; what is past the context is cut.")
    images: ListOf[str] = Field(default=[], description="Base64, data URIs, or URLs where enabled.")
    dimensions: Dimensions = Field(
        default=None, description="Cut, then brought to unit length; 0 or null keeps all."
    )
    dtype: Dtype = Field(default="float32", description="int8: scaled so that the largest is 127.")
    encoding: Encoding = Field(
        default="float", description="npy: the reply is a file, images first."
    )
    on_error: Literal["fail", "report"] = Field(
        default="fail",
        description="report: 200 although some images are bad; those have an error.",
    )


class _Parts(BaseModel):
    """A request's body as it came, whatever its content type."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    options: NativeEmbedBody
    files: list[bytes] = []


def add_routes(router: APIRouter, services: Services) -> None:
    """Add the route."""

    @router.post(
        "/v1/embed",
        summary="Images and texts to vectors",
        openapi_extra={
            "parameters": [_REQUEST_ID],
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": json_body(NativeEmbedBody)["requestBody"]["content"][
                        "application/json"
                    ],
                    "multipart/form-data": {"schema": _MULTIPART},
                },
            },
        },
        responses={
            200: {
                "model": EmbedReply,
                "description": "Embeddings of unit length, images first.",
                "content": {
                    "application/json": {
                        "example": {
                            "model": "pe-nano",
                            "dimensions": 192,
                            "dtype": "float32",
                            "data": [{"type": "text", "index": 0, "embedding": [0.02, -0.11]}],
                        }
                    },
                    "application/octet-stream": BINARY,
                },
            },
            400: {"description": "An item cannot be used; `error.items` names each."},
        },
    )
    async def embed(request: Request) -> Response:
        parts = await _read(request, services)
        body = parts.options
        check_field("texts", body.texts)
        services.check_count(len(body.texts) + len(body.images) + len(parts.files), "items")
        async with services.served_models.use(body.model) as worker:
            loaded = await services.load_images([*parts.files, *body.images])
            embedded = await worker.embed_images(loaded)
            if embedded.errors and (body.on_error == "fail" or body.encoding == "npy"):
                raise items_error(embedded.errors, len(loaded))
            form = VectorForm(body.dimensions, body.dtype)
            images = shaped(embedded.vectors, form)
            texts = shaped(await worker.embed_texts(body.texts), form) if body.texts else images[:0]
        if body.encoding == "npy":
            content = as_npy(np.concatenate([images, texts]))
            return Response(content, media_type="application/octet-stream")
        data = [
            _entry("image", index, vector, body.encoding, embedded.errors.get(index))
            for index, vector in enumerate(images)
        ]
        data += [
            _entry("text", index, vector, body.encoding, None) for index, vector in enumerate(texts)
        ]
        dimensions = images.shape[1]
        return json_reply(
            {"model": worker.name, "dimensions": dimensions, "dtype": body.dtype, "data": data}
        )


def _entry(
    kind: str, index: int, vector: Any, encoding: Encoding, err: ImageError | None
) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": kind, "index": index}
    if err is None:
        return {**entry, "embedding": for_json(vector, encoding)}
    problem = item_problem(index, err)
    return {
        **entry,
        "embedding": None,
        "error": {"code": problem.code, "message": problem.message},
    }


async def _read(request: Request, services: Services) -> _Parts:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        parts = await _parts_of(await read_form(request, services.settings.access))
        if not (parts.files or parts.options.texts or parts.options.images):
            raise ApiError(400, "invalid_request", "the form has neither texts nor images")
        return parts
    data = await request.body()
    if not data:
        raise ApiError(400, "invalid_request", "the request has no body; send texts or images")
    if kind.startswith("image/"):
        return _Parts(options=NativeEmbedBody(), files=[data])
    return _Parts(options=parse_body(NativeEmbedBody, data))


async def _parts_of(form: FormData) -> _Parts:
    """Read a form's fields and files, and close it."""
    fields: dict[str, Any] = {}
    files: list[bytes] = []
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name not in ("images", "images[]", "image", "file"):
                    message = f"field {name[:100]!r}: files come as 'images'"
                    raise ApiError(400, "invalid_request", message)
                files.append(await value.read())
            elif name in ("texts", "texts[]", "images", "images[]"):
                fields.setdefault(name.removesuffix("[]"), []).append(value)
            elif value != "" and (name, value) != ("dimensions", "0"):  # else it is not given
                fields[name] = value
    finally:
        await form.close()
    return _Parts(options=validate(NativeEmbedBody.model_validate, fields), files=files)
