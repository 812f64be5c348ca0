"""Embeddings as Ollama's clients ask for them: POST /api/embed and /api/embeddings, GET /api/tags.

GET /api/version is asked by programs that check a connection. An input that is a data URI is
embedded as the image that it holds. Source: docs/api.md of github.com/ollama/ollama and the package
`ollama` 0.6.
"""

import time
from typing import Any, Final

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field

from perception_encoder._version import __version__
from perception_encoder.preprocess.image_strings import image_in_text
from perception_encoder.server.api.base import Api, ApiRoutes, Services
from perception_encoder.server.api.common import (
    IMAGE,
    Input,
    VectorForm,
    embed_inputs,
    items_of,
    shape_embeddings,
)
from perception_encoder.server.core.served_models import ModelState
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

_TAG: Final = ":latest"
"""What Ollama adds to a model's name that has no tag."""
_MODEL: Final = Field(
    default=None, description="One of GET /api/tags, or an alias; default: the first."
)


class OllamaEmbedBody(RequestBody):
    """What is to be embedded. Fields that are not listed are ignored."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"model": "pe-nano", "input": ["a cat", IMAGE]}}
    )

    model: OrAbsent[str] = _MODEL
    input: str | ListOf[str] = Field(default=[], description="Texts, or data URIs of images.")
    truncate: bool | None = Field(
        default=None, description="false: refuse a text that is longer than the model reads."
    )
    dimensions: Dimensions = Field(
        default=None, description="Cut, then brought to unit length; 0 or null keeps all."
    )


class OllamaEmbeddingsBody(RequestBody):
    """What is to be embedded. Fields that are not listed are ignored."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"model": "pe-nano", "prompt": "a cat"}}
    )

    model: OrAbsent[str] = _MODEL
    prompt: str = Field(default="", description="A text, or the data URI of an image.")


class OllamaEmbedReply(BaseModel):
    """An embedding of each input, in order; durations are in nanoseconds."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class OllamaEmbeddingsReply(BaseModel):
    """The embedding of the prompt."""

    embedding: list[float]


class OllamaModelDetails(BaseModel):
    """What is known of a model."""

    family: str | None
    quantization_level: str | None


class OllamaModel(BaseModel):
    """A model; what it has in memory is known once it was opened."""

    name: str
    model: str
    size: int
    digest: str
    details: OllamaModelDetails


class OllamaTagsReply(BaseModel):
    """The models, the default first."""

    models: list[OllamaModel]


class OllamaVersionReply(BaseModel):
    """The version of perception-encoder."""

    version: str


class OllamaError(BaseModel):
    """The reply to a request that cannot be answered."""

    error: str


def _build(services: Services) -> ApiRoutes:
    routes = API.routes(services)

    @routes.post(
        "/api/embed",
        summary="Texts and images to embeddings, as Ollama's clients ask for them",
        responses={200: {"model": OllamaEmbedReply}},
        openapi_extra=json_body(OllamaEmbedBody),
    )
    async def embed(request: Request) -> Response:
        started = time.perf_counter_ns()
        body = await read_body(request, OllamaEmbedBody)
        given = [] if body.input == "" else body.input  # it only opens the model
        inputs, names = items_of("input", given)
        services.check_count(len(inputs), "inputs")
        async with services.served_models.use(_strip_tag(body.model)) as worker:
            opened = time.perf_counter_ns()
            read = [_parse_input(one) for one in inputs]
            embedded = await embed_inputs(services, worker, read, names)
        if body.truncate is False and (place := embedded.find_cut(worker)) is not None:
            most = worker.model.tokenizer.context_length
            message = f"{names[place]}: the input length exceeds the context length of {most}"
            raise ApiError(400, "text_too_long", message)
        vectors = shape_embeddings(embedded.vectors, VectorForm(body.dimensions))
        return json_reply(
            {
                "model": body.model or worker.name,
                "embeddings": vectors,
                "total_duration": time.perf_counter_ns() - started,
                "load_duration": opened - started,
                "prompt_eval_count": embedded.num_tokens(worker),
            }
        )

    @routes.post(
        "/api/embeddings",
        summary="A text or an image to its embedding, as Ollama's older clients ask for it",
        responses={200: {"model": OllamaEmbeddingsReply}},
        openapi_extra=json_body(OllamaEmbeddingsBody),
    )
    async def embeddings(request: Request) -> Response:
        body = await read_body(request, OllamaEmbeddingsBody)
        async with services.served_models.use(_strip_tag(body.model)) as worker:
            embedded = await embed_inputs(services, worker, [_parse_input(body.prompt)], ["prompt"])
        return json_reply({"embedding": embedded.vectors[0]})

    @routes.get(
        "/api/tags",
        summary="The models, for Ollama's clients",
        responses={200: {"model": OllamaTagsReply}},
    )
    async def tags() -> Response:
        states = services.served_models.states()
        models = [_describe(name, one) for one in states for name in (one.name, *one.aliases)]
        return json_reply({"models": models})

    @routes.get(
        "/api/version",
        summary="The version, for Ollama's clients",
        needs_key=False,
        responses={200: {"model": OllamaVersionReply}},
    )
    async def version() -> Response:
        return json_reply({"version": __version__})

    return routes


def _strip_tag(name: str | None) -> str | None:
    return name.removesuffix(_TAG) if name is not None else None


def _parse_input(text: str) -> Input:
    return Input(image=text) if image_in_text(text) == "data URI" else Input(text=text)


def _describe(name: str, state: ModelState) -> dict[str, Any]:
    worker = state.worker
    return {
        "name": name + _TAG,
        "model": name + _TAG,
        "size": state.num_bytes or 0,
        "digest": worker.identity.fingerprint if worker else "",
        "details": {
            "family": state.entry.family if state.entry else None,
            "quantization_level": worker.model.backend.precision if worker else None,
        },
    }


def _error_body(answer: ApiError, _: Exception) -> Any:
    return {"error": answer.message}


API: Final = Api(
    "ollama",
    _build,
    error_body=_error_body,
    error_model=OllamaError,
    description="Ollama's clients, for embeddings.",
)
