"""POST /v1/embeddings as OpenAI's clients send it, with images where others have put them.

Images: data URIs in `input`; `modality: "image"` (Infinity), which also takes URLs and base64;
objects {"image": …} and {"text": …} (Jina) and conversations, in `messages` or `input` (vLLM).
GET /v1/models is the native api's, in a shape that these clients read.
"""

from typing import Any, Final, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field

from perception_encoder.errors import UnknownModelError
from perception_encoder.server.api.base import Api
from perception_encoder.server.api.native.embed import IMAGE, embed_inputs
from perception_encoder.server.api.openai_inputs import (
    Message,
    Placed,
    Refusal,
    read_conversations,
    read_input,
)
from perception_encoder.server.core.embeddings import VectorForm, for_json, shaped
from perception_encoder.server.core.model_worker import ModelWorker
from perception_encoder.server.http.errors import ApiError, deepest_first, field_path
from perception_encoder.server.http.requests import (
    Dimensions,
    ListOf,
    OrAbsent,
    RequestBody,
    json_body,
    json_reply,
    read_body,
)
from perception_encoder.server.services import Services


class EmbeddingsBody(RequestBody):
    """What is to be embedded. Fields that are not listed are ignored."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"model": "pe-nano", "input": ["a cat", IMAGE]}}
    )

    model: OrAbsent[str] = Field(
        default=None, description="One of GET /v1/models, or an alias; default: the first."
    )
    input: str | dict[str, Any] | list[Any] | None = Field(
        default=None,
        description="Texts, data URIs of images, {image: …} or {text: …}; or as messages.",
    )
    messages: ListOf[Message | ListOf[Message]] | None = Field(
        default=None,
        description="Instead of input: a conversation that holds one image or text, or a list of "
        "such conversations, each of which gives one embedding.",
    )
    modality: OrAbsent[Literal["text", "image"]] = Field(
        default=None, description="image: every string of input is an image."
    )
    encoding_format: OrAbsent[Literal["float", "base64"]] = Field(
        default=None, description="float, the default, or base64: float32, little endian."
    )
    dimensions: Dimensions = Field(
        default=None, description="Cut, then brought to unit length; 0 or null keeps all."
    )


class EmbeddingObject(BaseModel):
    """The embedding of the input at an index."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(BaseModel):
    """The tokens of the texts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsReply(BaseModel):
    """An embedding of each input, in order."""

    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str
    usage: EmbeddingsUsage


class OpenAIErrorDetail(BaseModel):
    """What happened; `param` is the field that is to blame, such as input[2]."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(BaseModel):
    """The reply to a request that cannot be answered."""

    error: OpenAIErrorDetail


def _build(services: Services) -> APIRouter:
    router = API.router()

    @router.post(
        "/v1/embeddings",
        summary="Texts and images to embeddings",
        responses={200: {"model": EmbeddingsReply}},
        openapi_extra=json_body(EmbeddingsBody),
    )
    async def embeddings(request: Request) -> Response:
        body = await read_body(request, EmbeddingsBody)
        placed = _inputs(body)
        services.check_count(len(placed), "inputs")
        inputs = [one for _, one in placed]
        async with services.served_models.use(body.model) as worker:
            whole = await embed_inputs(services, worker, inputs, [name for name, _ in placed])
            num_tokens = await _num_tokens(
                worker, [one.text for one in inputs if one.text is not None]
            )
        vectors = shaped(whole, VectorForm(body.dimensions))
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": for_json(vector, body.encoding_format or "float"),
            }
            for index, vector in enumerate(vectors)
        ]
        return json_reply(
            {
                "object": "list",
                "data": data,
                "model": worker.name,
                "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
            }
        )

    return router


def _inputs(body: EmbeddingsBody) -> list[Placed]:
    """Return the images and texts of a request, in order.

    Raises:
        ApiError: 400, there are none, or one is of no known form.
    """
    if body.messages is None:
        return read_input(body.input, body.modality)
    if body.input is not None:
        raise Refusal("give either input or messages", "messages")
    return read_conversations(body.messages, "messages")


async def _num_tokens(worker: ModelWorker, texts: list[str]) -> int:
    """Return how many tokens of the texts the model reads; images have none."""
    if not texts:
        return 0
    counts = await worker.count_tokens(texts)
    return int(np.minimum(counts, worker.model.tokenizer.context_length).sum())


def _error_body(answer: ApiError, err: Exception) -> Any:
    return {
        "error": {
            "message": answer.message,
            "type": _type(answer.status_code),
            "param": _param(answer, err),
            "code": _CODES.get(answer.code, answer.code),
        }
    }


_CODES: Final = {"unauthorized": "invalid_api_key", "unknown_model": "model_not_found"}


def _type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def _param(answer: ApiError, err: Exception) -> str | None:
    """Name the field that is to blame, where one is."""
    if isinstance(err, Refusal):
        return err.param
    if isinstance(err, UnknownModelError):
        return "model"
    if isinstance(err, RequestValidationError):
        return field_path(deepest_first(err)[0])
    return answer.items[0].name if answer.items else None


API: Final = Api(
    "openai",
    _build,
    error_body=_error_body,
    error_model=OpenAIError,
    description="OpenAI's clients, with images as vLLM, Jina and Infinity take them.",
)
