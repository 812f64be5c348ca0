"""POST /v1/embeddings as OpenAI's clients send it, with pictures where others have put them.

Pictures: data URIs in `input`; `modality: "image"` (Infinity), which also takes URLs and base64;
objects {"image": …} and {"text": …} (Jina) and parts of messages, alone or in `messages` (vLLM).
GET /v1/models is the native dialect's, in a shape that these clients read.
"""

import asyncio
from typing import Any, Final, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field

from perception_encoder.errors import UnknownModelError
from perception_encoder.server.bodies import json_body, parsed
from perception_encoder.server.core.engine import Engine
from perception_encoder.server.dialect import Dialect
from perception_encoder.server.dialects.native.inputs import PICTURE, Input, embed_inputs
from perception_encoder.server.problems import ApiError
from perception_encoder.server.replies import json_reply
from perception_encoder.server.services import Services
from perception_encoder.server.vectors import VectorForm, for_json, shaped

_DATA_URI: Final = "data:image/"
_PART_TYPES: Final = {"text": "text", "input_text": "text", "image_url": "image", "image": "image"}


class Message(BaseModel):
    """A message, one part of which is to be embedded."""

    role: str = "user"
    content: str | list[dict[str, Any]]


class EmbeddingsBody(BaseModel):
    """What is to be embedded. Fields that are not listed are ignored."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"model": "pe-nano", "input": ["a cat", PICTURE]}}
    )

    model: str | None = Field(
        default=None, description="One of GET /v1/models, or an alias; default: the first."
    )
    input: str | dict[str, Any] | list[Any] | None = Field(
        default=None, description="Texts, data URIs of pictures, {image: …} or {text: …}."
    )
    messages: list[Message] | None = Field(
        default=None, description="Instead of input: one picture or text to embed."
    )
    modality: Literal["text", "image"] | None = Field(
        default=None, description="image: every string of input is a picture."
    )
    encoding_format: Literal["float", "base64"] = Field(
        default="float", description="base64: float32, little endian."
    )
    dimensions: int | None = Field(
        default=None, ge=1, description="Cut, then brought to unit length."
    )


def _build(services: Services) -> APIRouter:
    router = DIALECT.router()

    @router.post(
        "/v1/embeddings",
        summary="Texts and pictures to vectors",
        openapi_extra=json_body(EmbeddingsBody, "/v1/embeddings"),
    )
    async def embeddings(request: Request) -> Response:
        body = parsed(EmbeddingsBody, await request.body())
        inputs = _inputs(body)
        services.check_count(len(inputs), "inputs")
        async with services.engines.use(body.model) as engine:
            whole = await embed_inputs(services, engine, inputs)
            num_tokens = await _num_tokens(
                engine, [one.text for one in inputs if one.text is not None]
            )
        vectors = shaped(whole, VectorForm(body.dimensions))
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": for_json(vector, body.encoding_format),
            }
            for index, vector in enumerate(vectors)
        ]
        return json_reply(
            {
                "object": "list",
                "data": data,
                "model": engine.name,
                "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
            }
        )

    return router


def _inputs(body: EmbeddingsBody) -> list[Input]:
    """Return the pictures and texts of a request, in order.

    Raises:
        ApiError: 400, there are none, or one is of no known form.
    """
    if body.messages is not None:
        if body.input is not None:
            raise _Refusal("give either input or messages", "messages")
        return [_input_of_messages(body.messages)]
    items = body.input if isinstance(body.input, list) else [body.input]
    if body.input is None or not items:
        raise _Refusal("give input: a text, a picture, or a list of them", "input")
    if any(isinstance(item, int | list) for item in items):
        raise _Refusal(
            "arrays of token ids are of another model's vocabulary: send the texts themselves "
            "(LangChain: check_embedding_ctx_length=False)",
            "input",
        )
    return [_input(item, body.modality, f"input.{n}") for n, item in enumerate(items)]


def _input(item: Any, modality: str | None, place: str) -> Input:
    if isinstance(item, str):
        is_image = modality == "image" or item[: len(_DATA_URI)].lower() == _DATA_URI
        return Input(image=item) if is_image else Input(text=item)
    if isinstance(item, dict):
        return _input_of_object(item, place)
    raise _Refusal(f"{place}: send a string or an object with text or image", place)


def _input_of_object(item: dict[str, Any], place: str) -> Input:
    """Read {"text": …}, {"image": …}, or a part of a message."""
    kind = _PART_TYPES.get(str(item.get("type")))
    if kind is None and "type" not in item:
        kind = "image" if "image" in item else "text"
    value = item.get("text")
    if kind == "image":
        value = item.get("image_url", item.get("image"))
        value = value.get("url") if isinstance(value, dict) else value
    if kind is None or not isinstance(value, str):
        raise _Refusal(
            f'{place}: send {{"text": …}}, {{"image": …}}, or a part of type text or image_url',
            place,
        )
    return Input(image=value) if kind == "image" else Input(text=value)


def _input_of_messages(messages: list[Message]) -> Input:
    """Return the one picture or text of a conversation; blank texts beside a picture are let go."""
    found: list[Input] = []
    for number, message in enumerate(messages):
        place = f"messages.{number}.content"
        parts = message.content if isinstance(message.content, list) else [message.content]
        found += [_input(part, None, place) for part in parts]
    given = [one for one in found if one.image is not None or (one.text or "").strip()]
    if len(given) != 1:
        raise _Refusal(
            f"messages hold {len(given)} pictures and texts; the model embeds one picture or one "
            "text at a time: send several in input",
            "messages",
        )
    return given[0]


async def _num_tokens(engine: Engine, texts: list[str]) -> int:
    """Return how many tokens of the texts the model reads; pictures have none."""
    if not texts:
        return 0
    tokenizer = engine.model.tokenizer
    rows = await asyncio.to_thread(tokenizer.encode, texts)
    return int(np.minimum([len(row) for row in rows], tokenizer.context_length).sum())


class _Refusal(ApiError):
    """A 400 that names the field which is to blame."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(400, "invalid_input", message)
        self.param = param


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
    if isinstance(err, _Refusal):
        return err.param
    if isinstance(err, UnknownModelError):
        return "model"
    if isinstance(err, RequestValidationError):
        return ".".join(str(step) for step in err.errors()[0]["loc"] if step != "body") or None
    return f"input.{answer.items[0].position}" if answer.items else None


DIALECT: Final = Dialect("openai", _build, error_body=_error_body)
