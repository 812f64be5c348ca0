"""The OpenAPI document: what FastAPI finds out, bodies that routes read themselves, errors, keys.

Every form has a name among the components, and nothing refers to anything else: generators of
clients read no definitions inside of others.
"""

from collections.abc import Sequence
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from perception_encoder.server.api.base import Api, ApiRoute, ApiRoutes
from perception_encoder.server.http.requests import BODIES, FORMS

_REFERENCE: Final = "#/components/schemas/{model}"
_DESCRIPTION: Final = """\
The operations of the tag `native` are this package's own; the other tags are what clients of other
servers ask for. An embedding has unit length, so the cosine of two is their product. A server with
keys takes them as `Authorization: Bearer KEY` or `X-API-Key: KEY`.
"""
_LICENSE: Final = {"name": "Apache-2.0", "identifier": "Apache-2.0"}
_DESCRIPTIONS: Final = {
    400: "The request, or an item of it, cannot be used.",
    401: "The server needs a key.",
    403: "The request comes from another site.",
    404: "There is no such model, index or item.",
    413: "The body, or a text, is too large.",
    422: "The body is not JSON, or has another form.",
    429: "Too much is waiting, or too many requests were sent; see Retry-After.",
    503: "The model or the index cannot be used now; see Retry-After.",
}
_ANY_OTHER: Final = "Any other error, such as 408 for a body that does not arrive."
_WITH_KEY: Final = (400, 401, 403, 404, 422, 429, 503)
_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key of the server."},
    "header": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "The same key, for clients that send this header.",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "pe_session",
        "description": "Of the page; see POST /v1/session.",
    },
    "query": {
        "type": "apiKey",
        "in": "query",
        "name": "api_key",
        "description": "The same key, for clients that send no header.",
    },
}


def describe(app: FastAPI, apis: Sequence[ApiRoutes], *, needs_key: bool) -> None:
    """Have an app answer GET /openapi.json with the document of all APIs.

    Args:
        app: with all routes.
        apis: the routes of each.
        needs_key: whether the server has keys; without, they are optional in the document.
    """

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, apis, needs_key)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI, apis: Sequence[ApiRoutes], needs_key: bool) -> dict[str, Any]:
    found = get_openapi(
        title=app.title,
        summary=app.summary,
        description=_DESCRIPTION,
        version=app.version,
        routes=app.routes,
        license_info=_LICENSE,
        servers=[{"url": "/"}],
        tags=[
            {"name": one.api.name, "description": one.api.description}
            for one in apis
            if any(route.include_in_schema for route in one)
        ],
    )
    models: set[type[BaseModel]] = {*BODIES.values(), *(one.api.error_model for one in apis)}
    _, forms = models_json_schema(
        [(one, "validation") for one in sorted(models, key=lambda one: one.__name__)],
        ref_template=_REFERENCE,
    )
    components = found.setdefault("components", {})
    components["schemas"] = components.get("schemas", {}) | forms["$defs"] | FORMS
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own; ours is each API's
        components["schemas"].pop(name, None)
    components["securitySchemes"] = _SCHEMES
    for routes in apis:
        for route in routes:
            if route.include_in_schema:
                _complete(found["paths"][route.path_format], route, routes.api, needs_key)
    components["schemas"] = dict(sorted(components["schemas"].items()))
    return found


def _complete(operations: dict[str, Any], route: ApiRoute, api: Api, needs_key: bool) -> None:
    """Add to a route's operations what FastAPI does not know."""
    operations.pop("head", None)  # the same without a body
    for method in {name.upper() for name in operations} & (route.methods or set()):
        operation = operations[method.lower()]
        statuses = set(_WITH_KEY if route.needs_key else (400, 403))
        if "requestBody" in operation:
            statuses.add(413)
        operation["security"] = _security(api, needs_key) if route.needs_key else []
        error = {"$ref": _REFERENCE.format(model=api.error_model.__name__)}
        for status in sorted(statuses):
            known = operation["responses"].setdefault(str(status), {})
            if "description" not in known or status == 422:
                known["description"] = _DESCRIPTIONS[status]
            known["content"] = {"application/json": {"schema": error}}
        operation["responses"]["default"] = {
            "description": _ANY_OTHER,
            "content": {"application/json": {"schema": error}},
        }


def _security(api: Api, needs_key: bool) -> list[dict[str, list[str]]]:
    found: list[dict[str, list[str]]] = [] if needs_key else [{}]
    return found + [{name: []} for name in _SCHEMES if name != "query" or api.key_in_query]
