"""JSON bodies that a route reads itself, so that it can be answered directly (see `direct`)."""

from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

BodyT = TypeVar("BodyT", bound=BaseModel)


def parsed(kind: type[BodyT], data: bytes) -> BodyT:
    """Return a body's content.

    Raises:
        RequestValidationError: it is no JSON, or not of this form.
    """
    try:
        return kind.model_validate_json(data)
    except ValidationError as err:
        raise RequestValidationError(err.errors(include_url=False, include_input=False)) from err


def json_body(kind: type[BaseModel], path: str) -> dict[str, Any]:
    """Return what the OpenAPI document says of the body of a POST to a path."""
    operation = f"#/paths/{path.replace('/', '~1')}/post"
    place = f"{operation}/requestBody/content/application~1json/schema/$defs/{{model}}"
    content = {"application/json": {"schema": kind.model_json_schema(ref_template=place)}}
    return {"requestBody": {"required": True, "content": content}}
