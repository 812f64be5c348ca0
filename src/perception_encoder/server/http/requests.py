"""JSON bodies: one reader for every route, so that the same bytes mean the same everywhere.

Bodies are UTF-8, with or without a byte order mark, whatever content type they come with. Of a
name that stands twice in an object the last value counts. NaN, infinities and halves of surrogate
pairs are not JSON and refused. `null` means "not given" for every field that may be left out.
"""

import codecs
import inspect
import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import orjson
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
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
from starlette.types import ASGIApp, Receive, Scope, Send

from perception_encoder.server.http.errors import ApiError

_ESCAPED_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_ABOUT: Final = frozenset(("title", "description", "default"))
_NULL: Final = {"type": "null"}
Handler: TypeAlias = Callable[[Request], Awaitable[Response]]
_INT64: Final = 2**63
_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


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


BINARY: Final = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
"""What the OpenAPI document says of content that is bytes."""

BODIES: Final[dict[str, type[RequestBody]]] = {}
"""The forms of bodies by their names in the OpenAPI document."""

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
    """Return what the OpenAPI document says of the body of a route that reads it itself."""
    BODIES[kind.__name__] = kind
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


class DirectRoute(APIRoute):
    """A route that may be answered directly; `answer` does it, errors included."""

    answer: Handler


class ShortWay:
    """ASGI middleware, the innermost: answers direct routes, and passes on everything else."""

    def __init__(self, app: ASGIApp, routes: Mapping[tuple[str, str], DirectRoute]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        route = None
        if scope["type"] == "http":
            route = self._routes.get((scope["method"], scope["path"]))
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        response = await route.answer(Request(scope, receive, send))
        await response(scope, receive, send)


def takes_the_request_alone(route: APIRoute) -> bool:
    """Say whether a route's path is fixed and its function reads everything from the request."""
    parameters = list(inspect.signature(route.endpoint).parameters)
    is_coroutine = inspect.iscoroutinefunction(route.endpoint)
    return is_coroutine and "{" not in route.path and parameters == ["request"]


def json_reply(
    body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    r"""Return a JSON reply; contiguous numpy arrays become lists, float32 in their shortest form.

    Every reply is JSON that strict parsers read: numbers that are not finite become null, halves of
    surrogate pairs in names and quoted texts are escaped ("caf\udce9.jpg"), integers beyond 64
    bits and whatever else JSON has no form for become strings.
    """
    try:
        content = orjson.dumps(body, option=_OPTIONS)
    except orjson.JSONEncodeError:
        content = orjson.dumps(_valid(body), option=_OPTIONS, default=str)
    return Response(content, status, dict(headers or {}), "application/json")


def _valid(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, int) and not -_INT64 <= value < 2 * _INT64:
        return str(value)
    if isinstance(value, Mapping):
        return {_valid(str(key)): _valid(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_valid(one) for one in value]
    return value
