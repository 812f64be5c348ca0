"""POST /v2/embed as Cohere's clients send it: texts, images, or inputs of either.

Source: docs.cohere.com/v2/reference/embed and the package `cohere` 7.
"""

import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from fastapi import Request, Response
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from perception_encoder.server.api.base import Api, ApiRoutes, Services
from perception_encoder.server.api.common import (
    IMAGE,
    Input,
    VectorForm,
    embed_inputs,
    encode_base64,
    names_of,
    shape_embeddings,
)
from perception_encoder.server.http.errors import ApiError
from perception_encoder.server.http.replies import json_reply
from perception_encoder.server.http.requests import (
    Dimensions,
    ListOf,
    OrAbsent,
    RequestBody,
    json_body,
    read_body,
)
from perception_encoder.types import Embeddings

EmbeddingType: TypeAlias = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]

_INT8_ZERO: Final = 128
"""What Cohere adds to signed bytes to make unsigned ones."""


class CohereImageUrl(RequestBody):
    """Where the image of a part is."""

    url: str = Field(description="A data URI, or a URL where enabled.")


class CoherePart(RequestBody):
    """A text or an image."""

    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: CohereImageUrl | None = None


class CohereInput(RequestBody):
    """One input: the content has one image or one text."""

    content: ListOf[CoherePart] = Field(min_length=1)


class CohereEmbedBody(RequestBody):
    """What is to be embedded: texts, images or inputs. Fields that are not listed are ignored."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "model": "pe-nano",
                "input_type": "search_query",
                "texts": ["a cat"],
                "embedding_types": ["float"],
            }
        }
    )

    model: OrAbsent[str] = Field(
        default=None, description="One of GET /v1/models, or an alias; default: the first."
    )
    input_type: OrAbsent[str] = Field(
        default=None, description="Makes no difference: queries and documents are embedded alike."
    )
    texts: ListOf[str] = Field(default=[], description="Texts.")
    images: ListOf[str] = Field(default=[], description="Data URIs of images, such as " + IMAGE)
    inputs: ListOf[CohereInput] = Field(default=[], description="Images and texts, mixed.")
    embedding_types: list[EmbeddingType] = Field(
        default=[], max_length=16, description="float, the default, or several types."
    )
    output_dimension: Dimensions = Field(
        default=None, description="Cut, then brought to unit length; 0 or null keeps all."
    )
    truncate: OrAbsent[Literal["NONE", "START", "END"]] = Field(
        default=None, description="END, the default; NONE refuses texts that are too long."
    )


class CohereEmbeddings(BaseModel):
    """The embeddings of all inputs in each type that was asked for."""

    model_config = ConfigDict(extra="forbid")

    float: list[list[float]] | None = None
    int8: list[list[int]] | None = None
    uint8: list[list[int]] | None = None
    binary: list[list[int]] | None = None
    ubinary: list[list[int]] | None = None
    base64: list[str] | None = None


class CohereReply(BaseModel):
    """An embedding of each input, in order."""

    id: str
    response_type: Literal["embeddings_by_type"]
    embeddings: CohereEmbeddings
    texts: list[str]
    meta: dict[str, Any]


class CohereError(BaseModel):
    """The reply to a request that cannot be answered."""

    message: str


def _build(services: Services) -> ApiRoutes:
    routes = API.routes(services)

    @routes.post(
        "/v2/embed",
        summary="Texts and images to embeddings of several types",
        responses={200: {"model": CohereReply}},
        openapi_extra=json_body(CohereEmbedBody),
    )
    async def embed(request: Request) -> Response:
        body = await read_body(request, CohereEmbedBody)
        inputs, names = _read_inputs(body)
        services.check_count(len(inputs), "inputs")
        async with services.served_models.use(body.model) as worker:
            embedded = await embed_inputs(services, worker, inputs, names)
        if body.truncate == "NONE" and (place := embedded.find_cut(worker)) is not None:
            most = worker.model.tokenizer.context_length
            message = f"{names[place]}: more than the {most} tokens that the model reads"
            raise ApiError(400, "text_too_long", f"{message}; send truncate END to have it cut")
        vectors = shape_embeddings(embedded.vectors, VectorForm(body.output_dimension))
        num_images = sum(one.image is not None for one in inputs)
        units = {"input_tokens": embedded.num_tokens(worker), "images": num_images}
        return json_reply(
            {
                "id": str(uuid.uuid4()),
                "response_type": "embeddings_by_type",
                "embeddings": {
                    kind: _CONVERSIONS[kind](vectors) for kind in body.embedding_types or ["float"]
                },
                "texts": body.texts,
                "meta": {"api_version": {"version": "2"}, "billed_units": units},
            }
        )

    return routes


def _read_inputs(body: CohereEmbedBody) -> tuple[list[Input], list[str]]:
    """Return the images and texts of a request, in order, and what errors call each.

    Raises:
        ApiError: 400, there are none, of several kinds, or an option cannot be had.
    """
    if body.truncate == "START":
        message = "truncate: texts are cut at their end only; send END, or NONE to refuse them"
        raise ApiError(400, "invalid_request", message)
    if sum(bool(one) for one in (body.texts, body.images, body.inputs)) != 1:
        raise ApiError(400, "invalid_request", "give one of texts, images and inputs")
    if body.texts:
        return [Input(text=text) for text in body.texts], names_of("texts", len(body.texts))
    if body.images:
        return [Input(image=one) for one in body.images], names_of("images", len(body.images))
    names = names_of("inputs", len(body.inputs))
    pairs = zip(body.inputs, names, strict=True)
    return [_read_content(one.content, name) for one, name in pairs], names


def _read_content(content: Sequence[CoherePart], name: str) -> Input:
    """Return the one image of an input, or its text; blank texts beside an image are ignored."""
    images = [part.image_url.url for part in content if part.image_url is not None]
    texts = [part.text for part in content if part.text is not None]
    given = [text for text in texts if text.strip()] or ([] if images else texts[-1:])
    if len(images) + len(given) != 1:
        raise ApiError(
            400,
            "invalid_request",
            f"{name}: the content holds {len(images) + len(given)} images and texts; the model "
            "embeds one image or one text at a time: send each as an input of its own",
        )
    return Input(image=images[0]) if images else Input(text=given[0])


def _pack_signs(vectors: Embeddings) -> NDArray[np.uint8]:
    """Return (N, ceil(E / 8)) bytes: a bit of 1 for each number above zero, the first highest."""
    return np.packbits(vectors > 0, axis=1)


def _scale_to_int8(vectors: Embeddings) -> NDArray[np.int8]:
    return shape_embeddings(vectors, VectorForm(dtype="int8"))


_CONVERSIONS: Final[dict[EmbeddingType, Callable[[Embeddings], object]]] = {
    "float": lambda vectors: vectors,
    "int8": _scale_to_int8,
    "uint8": lambda vectors: _scale_to_int8(vectors).astype(np.int16) + _INT8_ZERO,
    "binary": lambda vectors: _pack_signs(vectors).astype(np.int16) - _INT8_ZERO,
    "ubinary": _pack_signs,
    "base64": lambda vectors: [encode_base64(vector) for vector in vectors],
}


def _error_body(answer: ApiError, _: Exception) -> Any:
    return {"message": answer.message}


API: Final = Api(
    "cohere",
    _build,
    error_body=_error_body,
    error_model=CohereError,
    description="Cohere's clients, version 2 of their API.",
)
