"""POST /v1/embeddings as OpenAI's clients send it, with images as other servers take them.

Also at POST /embeddings, as text-embeddings-inference has it.

Images: data URIs in `input`; `modality: "image"` (Infinity), which also takes URLs and base64;
objects {"image": …} and {"text": …} (Jina); and conversations in `messages` or `input` (vLLM). A
list of messages is one conversation, a list of such lists a batch; each gives one embedding. GET
/v1/models is the native API's, in a form that these clients read.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal, TypeAlias

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from perception_encoder.errors import UnknownModelError
from perception_encoder.preprocess.image_strings import image_in_text
from perception_encoder.server.api.base import Api, ApiRoutes, Services
from perception_encoder.server.api.common import (
    IMAGE,
    Input,
    Modality,
    VectorForm,
    embed_inputs,
    encode_for_json,
    names_of,
    shape_embeddings,
)
from perception_encoder.server.http.errors import ApiError, format_field_path, sort_deepest_first
from perception_encoder.server.http.replies import json_reply
from perception_encoder.server.http.requests import (
    Dimensions,
    ListOf,
    OrAbsent,
    RequestBody,
    json_body,
    read_body,
    validate,
)

Placed: TypeAlias = tuple[str, Input]
"""Where an input is in the request, such as "input[3]", and the input."""

_PART_TYPES: Final = {
    "text": "text", "input_text": "text",
    "image_url": "image", "image": "image", "input_image": "image",
}  # fmt: skip


class Message(RequestBody):
    """A message of a conversation."""

    role: str = "user"
    content: str | ListOf[str | dict[str, Any]] = ""


Conversation: TypeAlias = ListOf[Message]

_CONVERSATION: Final[TypeAdapter[list[Message]]] = TypeAdapter(Conversation)


class Refusal(ApiError):
    """A 400 that names the field which is to blame."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(400, "invalid_input", message)
        self.param = param


def read_input(value: Any, modality: str | None) -> list[Placed]:
    """Return the images and texts of `input`, in order.

    Raises:
        Refusal: there are none, or one is of no known form.
        RequestValidationError: a conversation's message has a wrong form.
    """
    if value is None or value == []:
        raise Refusal("give input: a text, an image, or a list of them", "input")
    if _is_conversation(value) or _is_batch(value):
        return read_conversations(value, "input")
    if not isinstance(value, list):
        return [("input", _parse_input(value, modality, "input"))]
    if any(isinstance(item, int | list) for item in value):
        raise Refusal(
            "arrays of token ids are of another model's vocabulary: send the texts themselves "
            "(LangChain: check_embedding_ctx_length=False)",
            "input",
        )
    places = names_of("input", len(value))
    return [
        (place, _parse_input(item, modality, place))
        for place, item in zip(places, value, strict=True)
    ]


def read_conversations(value: list[Any], field: str) -> list[Placed]:
    """Return the one image or text of each conversation.

    Raises:
        Refusal: a conversation holds none or several, or conversations and messages are mixed.
        RequestValidationError: a message has a wrong form.
    """
    if not value:
        raise Refusal(f"{field}: give at least one message", field)
    num_lists = sum(isinstance(one, list) for one in value)
    if not num_lists:
        return [_read_conversation(value, (field,))]
    if num_lists < len(value):
        message = f"{field}: send one conversation or a list of conversations, not a mixture"
        raise Refusal(message, field)
    return [_read_conversation(one, (field, position)) for position, one in enumerate(value)]


def _is_conversation(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, dict) and isinstance(one.get("role"), str) for one in value)
    )


def _is_batch(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_conversation(one) for one in value)


def _read_conversation(value: list[Any], loc: tuple[str | int, ...]) -> Placed:
    """Return a conversation's image, or its text; blank texts beside another part are ignored."""
    messages = validate(_CONVERSATION.validate_python, value, loc)
    place = loc[0] if len(loc) == 1 else f"{loc[0]}[{loc[1]}]"
    found = list(_iter_parts(messages, str(place)))
    given = [one for one in found if one[1].image is not None or (one[1].text or "").strip()]
    chosen = given or found[-1:]
    if len(chosen) != 1:
        raise Refusal(
            f"{place}: the conversation holds {len(chosen)} images and texts; the model embeds one "
            "image or one text at a time: send each in a conversation of its own",
            str(place),
        )
    return chosen[0]


def _iter_parts(messages: Sequence[Message], place: str) -> Iterator[Placed]:
    for number, message in enumerate(messages):
        name = f"{place}[{number}].content"
        if isinstance(message.content, str):
            yield name, _parse_input(message.content, None, name)
            continue
        for position, part in enumerate(message.content):
            yield f"{name}[{position}]", _parse_input(part, None, f"{name}[{position}]")


def _parse_input(item: Any, modality: str | None, place: str) -> Input:
    if isinstance(item, str):
        is_image = modality == "image" or image_in_text(item) == "data URI"
        return Input(image=item) if is_image else Input(text=item)
    if isinstance(item, dict):
        return _parse_object(item, place)
    raise Refusal(f"{place}: send a string or an object with text or image", place)


def _parse_object(item: dict[str, Any], place: str) -> Input:
    """Read {"text": …}, {"image": …}, or a part of a message."""
    kind = _PART_TYPES.get(str(item.get("type")))
    if kind is None and item.get("type") is None:
        has_image = item.get("image") is not None or item.get("image_url") is not None
        kind = "image" if has_image else "text"
    value = item.get("text")
    if kind == "image":
        value = item.get("image_url") or item.get("image")
        value = value.get("url") if isinstance(value, dict) else value
    if kind is None or not isinstance(value, str):
        raise Refusal(
            f'{place}: send {{"text": …}}, {{"image": …}}, or a part of type text or image_url',
            place,
        )
    return Input(image=value) if kind == "image" else Input(text=value)


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
    modality: OrAbsent[Modality] = Field(
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


def _build(services: Services) -> ApiRoutes:
    routes = API.routes(services)

    @routes.post("/embeddings", summary="As POST /v1/embeddings", include_in_schema=False)
    @routes.post(
        "/v1/embeddings",
        summary="Texts and images to embeddings",
        responses={200: {"model": EmbeddingsReply}},
        openapi_extra=json_body(EmbeddingsBody),
    )
    async def create_embeddings(request: Request) -> Response:
        body = await read_body(request, EmbeddingsBody)
        placed = _read_inputs(body)
        services.check_count(len(placed), "inputs")
        inputs = [one for _, one in placed]
        async with services.served_models.use(body.model) as worker:
            embedded = await embed_inputs(services, worker, inputs, [name for name, _ in placed])
        vectors = shape_embeddings(embedded.vectors, VectorForm(body.dimensions))
        num_tokens = embedded.num_tokens(worker)
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": encode_for_json(vector, body.encoding_format or "float"),
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

    return routes


def _read_inputs(body: EmbeddingsBody) -> list[Placed]:
    """Return the images and texts of a request, in order.

    Raises:
        ApiError: 400, there are none, or one is of no known form.
    """
    if body.messages is None:
        return read_input(body.input, body.modality)
    if body.input is not None:
        raise Refusal("give either input or messages", "messages")
    return read_conversations(body.messages, "messages")


def _error_body(answer: ApiError, err: Exception) -> Any:
    return {
        "error": {
            "message": answer.message,
            "type": _error_type(answer.status_code),
            "param": _find_param(answer, err),
            "code": _CODES.get(answer.code, answer.code),
        }
    }


_CODES: Final = {"unauthorized": "invalid_api_key", "unknown_model": "model_not_found"}


def _error_type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def _find_param(answer: ApiError, err: Exception) -> str | None:
    """Name the field that is to blame, where one is."""
    if isinstance(err, Refusal):
        return err.param
    if isinstance(err, UnknownModelError):
        return "model"
    if isinstance(err, RequestValidationError):
        return format_field_path(sort_deepest_first(err)[0])
    return answer.items[0].name if answer.items else None


API: Final = Api(
    "openai",
    _build,
    error_body=_error_body,
    error_model=OpenAIError,
    description="OpenAI's clients, with images as vLLM, Jina and Infinity take them.",
)
