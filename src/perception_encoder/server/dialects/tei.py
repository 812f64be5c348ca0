"""POST /embed of text-embeddings-inference: a bare list of vectors, one for each input.

Also at POST /, where `huggingface_hub.InferenceClient` sends it when it is given this server's URL.
An input that is a data URI of a picture is embedded as that picture.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from fastapi import APIRouter, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field

from perception_encoder.errors import QueueFullError
from perception_encoder.server.core.engine import Engine
from perception_encoder.server.dialect import Dialect
from perception_encoder.server.dialects.native.inputs import Input, embed_inputs
from perception_encoder.server.problems import ApiError
from perception_encoder.server.replies import json_reply
from perception_encoder.server.services import Services
from perception_encoder.server.vectors import VectorForm, shaped

_PICTURE: Final = "data:image/"


class EmbedBody(BaseModel):
    """What is to be embedded."""

    model_config = ConfigDict(json_schema_extra={"example": {"inputs": ["a cat", "a dog"]}})

    inputs: str | list[str] = Field(description="Texts, or data URIs of pictures.")
    truncate: bool | None = Field(
        default=None, description="false: refuse a text that is longer than the model reads."
    )
    truncation_direction: str | None = Field(default=None, description="Only right.")
    prompt_name: str | None = Field(default=None, description="These models have no prompts.")
    normalize: bool = Field(default=True, description="Vectors have unit length in any case.")
    dimensions: int | None = Field(
        default=None, ge=1, description="Cut, then brought to unit length."
    )


def _build(services: Services) -> APIRouter:
    router = DIALECT.router()

    @router.post("/embed", summary="Texts to a list of vectors")
    @router.post("/", summary="Texts to a list of vectors, as POST /embed", include_in_schema=False)
    async def embed(body: EmbedBody) -> Response:
        inputs = body.inputs if isinstance(body.inputs, list) else [body.inputs]
        _check(services, body, len(inputs))
        texts = [one for one in inputs if not _is_picture(one)]
        async with services.engines.use() as engine:
            if body.truncate is False:
                await _check_lengths(engine, texts)
            vectors = await embed_inputs(
                services,
                engine,
                [Input(image=one) if _is_picture(one) else Input(text=one) for one in inputs],
            )
        return json_reply(shaped(vectors, VectorForm(body.dimensions)))

    @router.get("/health", summary="Whether the server answers", response_class=Response)
    async def health() -> Response:
        return Response(status_code=200 if services.engines.is_ready else 503)

    return router


def _is_picture(text: str) -> bool:
    return text[: len(_PICTURE)].lower() == _PICTURE


def _check(services: Services, body: EmbedBody, count: int) -> None:
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


async def _check_lengths(engine: Engine, texts: Sequence[str]) -> None:
    tokenizer = engine.model.tokenizer
    most = tokenizer.context_length
    for number, row in enumerate(await asyncio.to_thread(tokenizer.encode, texts)):
        if len(row) > most:
            raise ApiError(
                413,
                "text_too_long",
                f"`inputs` must have at most {most} tokens. Given: {len(row)}, in text {number}; "
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


DIALECT: Final = Dialect("tei", _build, error_body=_error_body)
