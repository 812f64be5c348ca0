"""POST /embed and /similarity of text-embeddings-inference: bare lists of vectors, and of cosines.

/embed is also at POST /, where `huggingface_hub.InferenceClient` sends it when it is given this
server's URL. An input that is a data URI is embedded as the image that it holds.
"""

from collections.abc import Sequence
from typing import Any, Final

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field

from perception_encoder.errors import QueueFullError
from perception_encoder.preprocess.image_strings import image_in_text
from perception_encoder.server.api.base import Api, ApiRoutes, Services
from perception_encoder.server.api.common import (
    EmbeddedInputs,
    Input,
    VectorForm,
    embed_inputs,
    items_of,
    names_of,
    shape_embeddings,
)
from perception_encoder.server.core.model_worker import ModelWorker
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
from perception_encoder.vectors import cosine_similarity


class TeiEmbedBody(RequestBody):
    """What is to be embedded."""

    model_config = ConfigDict(json_schema_extra={"example": {"inputs": ["a cat", "a dog"]}})

    inputs: str | ListOf[str] = Field(description="Texts, or data URIs of images.")
    truncate: bool | None = Field(
        default=None, description="false: refuse a text that is longer than the model reads."
    )
    truncation_direction: OrAbsent[str] = Field(default=None, description="Only right.")
    prompt_name: OrAbsent[str] = Field(default=None, description="These models have no prompts.")
    normalize: bool = Field(default=True, description="Vectors have unit length in any case.")
    dimensions: Dimensions = Field(
        default=None, description="Cut, then brought to unit length; 0 or null keeps all."
    )


class TeiSimilarityInputs(RequestBody):
    """A text, and others that it is compared with."""

    source_sentence: str = Field(description="A text, or the data URI of an image.")
    sentences: ListOf[str] = Field(description="Texts, or data URIs of images.")


class TeiSimilarityParameters(RequestBody):
    """What to do with long texts."""

    truncate: bool | None = Field(
        default=None, description="false: refuse a text that is longer than the model reads."
    )
    truncation_direction: OrAbsent[str] = Field(default=None, description="Only right.")
    prompt_name: OrAbsent[str] = Field(default=None, description="These models have no prompts.")


class TeiSimilarityBody(RequestBody):
    """What is to be compared."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"inputs": {"source_sentence": "a cat", "sentences": ["a kitten", "a car"]}}
        }
    )

    inputs: TeiSimilarityInputs
    parameters: TeiSimilarityParameters = Field(default_factory=TeiSimilarityParameters)


def _build(services: Services) -> ApiRoutes:
    routes = API.routes(services)

    @routes.post(
        "/embed",
        summary="Texts and images to a list of embeddings",
        responses={200: {"model": list[list[float]]}},
        openapi_extra=json_body(TeiEmbedBody),
    )
    @routes.post("/", summary="As POST /embed", include_in_schema=False)
    async def embed(request: Request) -> Response:
        body = await read_body(request, TeiEmbedBody)
        inputs, names = items_of("inputs", body.inputs)
        _check_count(services, "inputs", len(inputs))
        _check_options(body)
        read = [_parse_input(one) for one in inputs]
        async with services.served_models.use() as worker:
            embedded = await embed_inputs(services, worker, read, names)
        if body.truncate is False:
            _check_lengths(worker, embedded, names)
        return json_reply(shape_embeddings(embedded.vectors, VectorForm(body.dimensions)))

    @routes.post(
        "/similarity",
        summary="Cosines of a text or an image with others",
        responses={200: {"model": list[float]}},
        openapi_extra=json_body(TeiSimilarityBody),
    )
    async def similarity(request: Request) -> Response:
        body = await read_body(request, TeiSimilarityBody)
        sentences = body.inputs.sentences
        _check_count(services, "sentences", len(sentences))
        _check_options(body.parameters)
        read = [_parse_input(one) for one in (body.inputs.source_sentence, *sentences)]
        names = ["source_sentence", *names_of("sentences", len(sentences))]
        async with services.served_models.use() as worker:
            embedded = await embed_inputs(services, worker, read, names)
        if body.parameters.truncate is False:
            _check_lengths(worker, embedded, names)
        scores = cosine_similarity(embedded.vectors[:1], embedded.vectors[1:])
        return json_reply(scores[0])

    @routes.get("/health", summary="Whether the server answers", response_class=Response)
    async def check_health() -> Response:
        return Response(status_code=200 if services.served_models.is_ready else 503)

    return routes


def _parse_input(text: str) -> Input:
    return Input(image=text) if image_in_text(text) == "data URI" else Input(text=text)


def _check_count(services: Services, field: str, count: int) -> None:
    """Refuse too many items, and none at all; raises as `_check_options`."""
    most = services.settings.access.max_items
    if not count:
        raise ApiError(400, "no_items", f"`{field}` cannot be empty")
    if count > most:
        raise ApiError(
            413, "too_many_items", f"batch size {count} > maximum allowed batch size {most}"
        )


def _check_options(options: TeiEmbedBody | TeiSimilarityParameters) -> None:
    """Refuse what the reply would get wrong.

    Raises:
        ApiError: with the status that the original answers with.
    """
    if (options.truncation_direction or "right").lower() != "right":
        message = "texts are cut on the right only: send truncation_direction 'right'"
        raise ApiError(422, "invalid_request", message)
    if options.prompt_name is not None:
        message = f"the model has no prompts, so none is named {options.prompt_name[:100]!r}"
        raise ApiError(422, "invalid_request", message)


def _check_lengths(worker: ModelWorker, embedded: EmbeddedInputs, names: Sequence[str]) -> None:
    place = embedded.find_cut(worker)
    if place is not None:
        raise ApiError(
            413,
            "text_too_long",
            f"`inputs` must have at most {worker.model.tokenizer.context_length} tokens. Given: "
            f"{embedded.token_counts[place]}, in {names[place]}; send truncate true to have it cut",
        )


def _error_body(answer: ApiError, err: Exception) -> Any:
    return {"error": answer.message, "error_type": _error_type(answer, err)}


def _error_type(answer: ApiError, err: Exception) -> str:
    if isinstance(err, QueueFullError) or answer.status_code == 429:
        return "overloaded"
    if isinstance(err, RequestValidationError) or answer.status_code in (413, 422):
        return "validation"
    if answer.code == "no_items":
        return "empty"
    if answer.status_code == 503:
        return "unhealthy"
    return "backend" if answer.status_code >= 500 else "validation"


class TeiError(BaseModel):
    """The reply to a request that cannot be answered."""

    error: str
    error_type: str


API: Final = Api(
    "tei",
    _build,
    error_body=_error_body,
    error_model=TeiError,
    description="Clients of text-embeddings-inference.",
)
