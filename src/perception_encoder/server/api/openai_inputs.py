"""From the forms of a POST to /v1/embeddings to images and texts, each with its place.

Conversations are read as vLLM reads them: a list of messages is one conversation, a list of such
lists is a batch of them, in `messages` or in `input`; each conversation gives one embedding.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

from pydantic import TypeAdapter

from perception_encoder.preprocess.image_strings import image_in_text
from perception_encoder.server.api.native.embed import Input, names_of
from perception_encoder.server.http.errors import ApiError
from perception_encoder.server.http.requests import ListOf, RequestBody, validate

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
        return [("input", _input(value, modality, "input"))]
    if any(isinstance(item, int | list) for item in value):
        raise Refusal(
            "arrays of token ids are of another model's vocabulary: send the texts themselves "
            "(LangChain: check_embedding_ctx_length=False)",
            "input",
        )
    places = names_of("input", len(value))
    return [
        (place, _input(item, modality, place)) for place, item in zip(places, value, strict=True)
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
        return [_of_conversation(value, (field,))]
    if num_lists < len(value):
        message = f"{field}: send one conversation or a list of conversations, not a mixture"
        raise Refusal(message, field)
    return [_of_conversation(one, (field, position)) for position, one in enumerate(value)]


def _is_conversation(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, dict) and isinstance(one.get("role"), str) for one in value)
    )


def _is_batch(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_conversation(one) for one in value)


def _of_conversation(value: list[Any], loc: tuple[str | int, ...]) -> Placed:
    """Return a conversation's image, or its text; blank texts beside another part are ignored."""
    messages = validate(_CONVERSATION.validate_python, value, loc)
    place = loc[0] if len(loc) == 1 else f"{loc[0]}[{loc[1]}]"
    found = list(_parts(messages, str(place)))
    given = [one for one in found if one[1].image is not None or (one[1].text or "").strip()]
    chosen = given or found[-1:]
    if len(chosen) != 1:
        raise Refusal(
            f"{place}: the conversation holds {len(chosen)} images and texts; the model embeds one "
            "image or one text at a time: send each in a conversation of its own",
            str(place),
        )
    return chosen[0]


def _parts(messages: Sequence[Message], place: str) -> Iterator[Placed]:
    for number, message in enumerate(messages):
        name = f"{place}[{number}].content"
        if isinstance(message.content, str):
            yield name, _input(message.content, None, name)
            continue
        for position, part in enumerate(message.content):
            yield f"{name}[{position}]", _input(part, None, f"{name}[{position}]")


def _input(item: Any, modality: str | None, place: str) -> Input:
    if isinstance(item, str):
        is_image = modality == "image" or image_in_text(item) == "data URI"
        return Input(image=item) if is_image else Input(text=item)
    if isinstance(item, dict):
        return _input_of_object(item, place)
    raise Refusal(f"{place}: send a string or an object with text or image", place)


def _input_of_object(item: dict[str, Any], place: str) -> Input:
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
