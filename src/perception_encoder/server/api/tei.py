"""POST /embed of text-embeddings-inference: a bare list of vectors, one for each input.

Also at POST /, where `huggingface_hub.InferenceClient` sends it when it is given this server's URL.
An input that is a data URI is embedded as the image that it holds.
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
        _check_body(services, body, len(inputs))
        read = [_parse_input(one) for one in inputs]
        async with services.served_models.use() as worker:
            embedded = await embed_inputs(services, worker, read, names)
        if body.truncate is False:
            _check_lengths(worker, embedded, names)
        return json_reply(shape_embeddings(embedded.vectors, VectorForm(body.dimensions)))

    @routes.get("/health", summary="Whether the server answers", response_class=Response)
    async def check_health() -> Response:
        return Response(status_code=200 if services.served_models.is_ready else 503)

    return routes


def _parse_input(text: str) -> Input:
    return Input(image=text) if image_in_text(text) == "data URI" else Input(text=text)


def _check_body(services: Services, body: TeiEmbedBody, count: int) -> None:
    """Refuse what the reply would get wrong.

    Raises:
        ApiError: with the status that the original answers with.
    """
    most = services.settings.access.max_items
    if not count:
        raise ApiError(400, "no_items", "`inputs` cannot be empty")
    if count > most:
        raise ApiError(
            413, "too_many_items", f"batch size {count} > maximum allowed batch size {most}"
        )
    if (body.truncation_direction or "right").lower() != "right":
        message = "texts are cut on the right only: send truncation_direction 'right'"
        raise ApiError(422, "invalid_request", message)
    if body.prompt_name is not None:
        message = f"the model has no prompts, so none is named {body.prompt_name[:100]!r}"
        raise ApiError(422, "invalid_request", message)


def _check_lengths(worker: ModelWorker, embedded: EmbeddedInputs, names: Sequence[str]) -> None:
    for place, count in embedded.token_counts.items():
        most = worker.model.tokenizer.context_length
        if count > most:
            raise ApiError(
                413,
                "text_too_long",
                f"`inputs` must have at most {most} tokens. Given: {count}, in {names[place]}; "
                "send truncate true to have it cut",
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
