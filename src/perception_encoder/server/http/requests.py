"""Bodies of requests: JSON, multipart forms, and keys in JSON bodies. All routes use it.

JSON bodies are UTF-8, with or without a byte order mark, whatever their content type. The last of
two equal names in an object counts. NaN, infinities and lone surrogates are refused. `null` means
"not given" for every optional field.
"""

import codecs
import json
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Annotated, Any, Final, TypeAlias, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, from_json
from starlette.datastructures import FormData, Headers
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.types import Message

from perception_encoder.server.http.errors import ApiError
from perception_encoder.server.options import AccessSettings

_ESCAPED_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_ABOUT: Final = frozenset(("title", "description", "default"))
_NULL: Final = {"type": "null"}
MOST_WITHOUT_KEY: Final = 64 * 1024
"""Bytes of a body that are read before its key is known. Clients that put their key into the body
(`inference-sdk`) write it before the images."""
_MORE_FIELDS = 16  # beside one for each item


class RequestBody(BaseModel):
    """A JSON object of a request. A field that may be left out may also be null."""

    model_config = ConfigDict(allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = cls.model_fields
        return {k: v for k, v in data.items() if v is not None or k not in known}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Say in the OpenAPI document, too, that optional fields may be null."""
        schema = handler(core_schema)
        described = handler.resolve_ref_schema(schema)
        fields = described.get("properties", {})
        for name in fields.keys() - set(described.get("required", ())):
            fields[name] = _nullable(fields[name])
        return schema


BODIES: Final[dict[str, type[RequestBody]]] = {}
"""The forms of bodies by their names in the OpenAPI document."""

FORMS: Final[dict[str, dict[str, Any]]] = {}
"""The schemas of multipart bodies by their names in the OpenAPI document."""

BodyT = TypeVar("BodyT", bound=RequestBody)
ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")

ListOf: TypeAlias = Annotated[list[ItemT], Field(fail_fast=True)]
"""A list whose first wrong item ends the validation: a body may hold millions of them."""


def _absent_if_empty(value: Any) -> Any:
    return None if value == "" or (value == 0 and type(value) in (int, float)) else value


OrAbsent: TypeAlias = Annotated[ValueT | None, BeforeValidator(_absent_if_empty)]
"""An option for which clients send null, zero or an empty string when it was not given."""

Dimensions: TypeAlias = OrAbsent[Annotated[int, Field(ge=1)]]


async def read_body(request: Request, kind: type[BodyT]) -> BodyT:
    """Return the content of a request's JSON body.

    Raises:
        RequestValidationError: it is not JSON, or not of this form.
    """
    return parse_body(kind, await request.body())


def parse_body(kind: type[BodyT], data: bytes) -> BodyT:
    """Return a body's content; raises as `read_body`."""
    value = parse_json(data)
    if not isinstance(value, dict):
        raise _refusal("model_type", "the body must be a JSON object")
    return validate(kind.model_validate, value)


def parse_json(data: bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        RequestValidationError: it is not JSON.
        ApiError: 400, it is empty.
    """
    reason = ""
    try:
        return from_json(data.removeprefix(codecs.BOM_UTF8), allow_inf_nan=False)
    except ValueError as err:
        reason = str(err)
    if not data.strip():
        raise ApiError(400, "invalid_request", "the request has no body; send a JSON object")
    if (place := _place_of_surrogate(data)) is not None:
        message = "half of a surrogate pair is not valid text; send whole characters"
        raise _refusal("string_unicode", message, place)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data[:4]:
        reason = "it is not UTF-8"
    raise _refusal("json_invalid", f"the body is not valid JSON: {reason}")


def validate(
    check: Callable[[Any], ValueT], value: Any, place: tuple[str | int, ...] = ()
) -> ValueT:
    """Return what a validator of pydantic makes of a JSON value at a place of a body.

    Raises:
        RequestValidationError: it is something else.
    """
    try:
        return check(value)
    except ValidationError as err:
        # Without the input and what else the error holds: a body ends with its request.
        found = err.errors(include_url=False, include_input=False, include_context=False)
    raise RequestValidationError([{**one, "loc": ("body", *place, *one["loc"])} for one in found])


def _refusal(kind: str, message: str, place: tuple[str | int, ...] = ()) -> RequestValidationError:
    return RequestValidationError([{"type": kind, "loc": ("body", *place), "msg": message}])


def _place_of_surrogate(data: bytes) -> tuple[str | int, ...] | None:
    """Return where the text is that holds half of a surrogate pair; None where there is none."""
    if not _ESCAPED_SURROGATE.search(data):
        return None
    try:
        value = json.loads(data)
        return next(_surrogates(value, ()), None)
    except (ValueError, RecursionError):
        return None


def _surrogates(value: Any, place: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, str) and _SURROGATE.search(value):
        yield place
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from _surrogates(one, (*place, number))
    elif isinstance(value, dict):
        for name, one in value.items():
            if _SURROGATE.search(name):
                yield place
            yield from _surrogates(one, (*place, name))


def _nullable(schema: JsonSchemaValue) -> JsonSchemaValue:
    if _NULL in schema.get("anyOf", ()):
        return schema
    kept = {key: value for key, value in schema.items() if key in _ABOUT}
    rest = {key: value for key, value in schema.items() if key not in kept}
    if "anyOf" in rest:
        return {**kept, "anyOf": [*rest["anyOf"], _NULL]}
    return {**kept, "anyOf": [rest, _NULL]}


def json_body(kind: type[RequestBody]) -> dict[str, Any]:
    """Return the `requestBody` of the OpenAPI document for a route that reads its body itself."""
    BODIES[kind.__name__] = kind
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def form_body(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the `requestBody` for a route that reads a multipart form.

    Args:
        name: of the form in the OpenAPI document.
        schema: of its fields; files have the format "binary".
    """
    FORMS[name] = schema
    content = {"multipart/form-data": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
    return {"requestBody": {"required": True, "content": content}}


def either_body(*bodies: dict[str, Any]) -> dict[str, Any]:
    """Return the `requestBody` for a route that reads several content types.

    Args:
        bodies: of `json_body` and `form_body`.
    """
    content = {kind: one for body in bodies for kind, one in body["requestBody"]["content"].items()}
    return {"requestBody": {"required": True, "content": content}}


async def read_key_of_body(request: Request) -> tuple[Request, str | None]:
    """Read how a JSON body begins, and return its `api_key`.

    Returns:
        The request, whose body can be read from its start again; and the key, None where the first
        `MOST_WITHOUT_KEY` bytes hold none.

    Raises:
        ClientDisconnect: the client went away.
    """
    messages: list[Message] = []
    num_bytes, is_whole = 0, False
    while num_bytes < MOST_WITHOUT_KEY and not is_whole:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        messages.append(message)
        num_bytes += len(message.get("body", b""))
        is_whole = not message.get("more_body", False)
    beginning = b"".join(message.get("body", b"") for message in messages)[:MOST_WITHOUT_KEY]
    receive = request.receive
    messages.reverse()

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return Request(request.scope, again), _key_in(beginning)


def _key_in(beginning: bytes) -> str | None:
    try:
        body: Any = from_json(beginning, allow_partial=True)
    except ValueError:
        return None
    key = body.get("api_key") if isinstance(body, dict) else None
    return key if isinstance(key, str) else None


async def read_form(request: Request, limits: AccessSettings) -> FormData:
    """Return the fields and files of a multipart body; close it when they are read.

    Raises:
        ApiError: 400, it is no multipart body, has too many parts, or does not come to its end.
    """
    parser = _Parser(
        request.headers,
        request.stream(),
        max_files=limits.max_items,
        max_fields=limits.max_items + _MORE_FIELDS,
        max_part_size=limits.max_body_bytes,
    )
    try:
        return await parser.parse()
    except MultiPartException as err:
        raise ApiError(400, "invalid_request", f"the multipart body: {err.message}") from err


class _Parser(MultiPartParser):
    """Refuses a body that ends before the final boundary."""

    def __init__(self, headers: Headers, stream: AsyncGenerator[bytes, None], **limits: int):
        super().__init__(headers, self._whole(stream), **limits)
        self._is_whole = False

    def on_end(self) -> None:
        """Note that the final boundary came."""
        self._is_whole = True

    async def _whole(self, stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async for part in stream:
            yield part
        if not self._is_whole:  # raised from here it also closes the files that have begun
            raise MultiPartException("it is cut off, without a final boundary; send it again")
