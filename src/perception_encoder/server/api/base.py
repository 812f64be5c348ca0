"""How an API joins the server: its routes, and what its errors look like.

An API module exports `API = Api("name", build, error_body=…)` and is listed in `app`:

    def build(services: Services) -> APIRouter:
        router = API.router()

        @router.post("/v9/embed")
        async def embed(body: Body) -> Response: ...

        return router

In a route raise `ApiError`, or let this package's own errors through: the router turns both into
replies of the API's shape, with the status of `problems.as_api_error`. Nothing else is needed
for limits on bodies, clients that go away, request ids, metrics, logs and security headers.
"""

import logging
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel

from perception_encoder.server.core.frames import release_frames
from perception_encoder.server.http.early_keys import with_key_of_body
from perception_encoder.server.http.errors import ApiError, as_api_error
from perception_encoder.server.http.requests import (
    DirectRoute,
    Handler,
    json_reply,
    takes_the_request_alone,
)

if TYPE_CHECKING:
    from perception_encoder.server.services import Services

logger = logging.getLogger(__name__)

ErrorBody: TypeAlias = Callable[[ApiError, Exception], Any]
"""Makes a reply's JSON body of the answer and the error behind it (`RequestValidationError` for a
body of a wrong form, one of this package's, or the `ApiError` itself)."""


class ErrorItem(BaseModel):
    """What is wrong with one image or text of a request."""

    index: int
    code: str
    message: str


class ErrorDetail(BaseModel):
    """What happened, to which items, and what to do; `code` is for programs."""

    code: str
    message: str
    items: list[ErrorItem] | None = None


class ErrorReply(BaseModel):
    """The reply to a request that cannot be answered."""

    error: ErrorDetail


def native_error(answer: ApiError, _: Exception) -> Any:
    """Return {"error": {"code", "message", "items"?}}."""
    return answer.native()


@dataclass(frozen=True)
class Api:
    """One kind of client.

    Attributes:
        name: in metrics, logs and the OpenAPI document's tags.
        build: makes the routes.
        error_body: the JSON of an error's reply.
        error_model: what it looks like, for the OpenAPI document.
        description: of its clients, for the OpenAPI document.
        needs_key: whether every route asks for a key, before the body is read. A single route of
            another API does so with `dependencies=[Depends(admitted)]`.
        key_in_query: whether the key may also come as `?api_key=`.
        key_in_body: whether it may also be `api_key` of a JSON body; see `early_keys`.
    """

    name: str
    build: "Callable[[Services], APIRouter]"
    error_body: ErrorBody = native_error
    error_model: type[BaseModel] = ErrorReply
    description: str = ""
    needs_key: bool = True
    key_in_query: bool = False
    key_in_body: bool = False

    def router(self) -> APIRouter:
        """Return an empty router whose errors have this API's shape."""
        api = self

        def answering(
            handle: Handler, *, needs_key: bool
        ) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            async def answer(request: Request) -> Response:
                request.scope["pe.api"] = api.name
                try:
                    if needs_key:  # here: FastAPI reads bodies before it looks at dependencies
                        request = await api._admit(request)
                    return await handle(request)
                except Exception as err:  # noqa: BLE001  the edge: every error has a reply
                    reply = error_reply(request, err, api.error_body)
                    release_frames(err)
                    return reply

            return answer

        class Route(DirectRoute):
            def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
                needs_key = any(one.dependency is admitted for one in self.dependencies)
                self.answer = answering(self._handle, needs_key=needs_key)
                return answering(super().get_route_handler(), needs_key=needs_key)

            async def _handle(self, request: Request) -> Response:
                response: Response = await self.endpoint(request)
                return response

        dependencies = [Depends(admitted)] if self.needs_key else []
        return APIRouter(route_class=Route, tags=[self.name], dependencies=dependencies)

    async def _admit(self, request: Request) -> Request:
        """Let a request pass that has an accepted key; return it with all of its body to read.

        Raises:
            ApiError: 401 or 429, as `AccessControl.admit`.
        """
        services: Services = request.app.state.services
        access = services.access
        further = [request.query_params.get("api_key")] if self.key_in_query else []
        if self.key_in_body and access.needs_key and not access.knows(request, further):
            request, key = await with_key_of_body(request)
            further.append(key)
        access.admit(request, further)
        return request


def direct_routes(router: APIRouter) -> Iterator[tuple[tuple[str, str], DirectRoute]]:
    """Yield the method and path of each route of an API that can be answered directly."""
    for route in router.routes:
        if not isinstance(route, DirectRoute):
            continue
        has_others = any(one.dependency is not admitted for one in route.dependencies)
        if takes_the_request_alone(route) and not has_others:
            yield from (((method, route.path), route) for method in route.methods or ())


async def admitted(request: Request) -> None:
    """Let a request pass that has an accepted key; a route's dependency.

    Where an API answers, it has admitted the request already, before its body was read: there
    this marks the routes. It waits for nothing; a plain function would be handed to a thread.
    """
    if "pe.caller" not in request.scope:
        services: Services = request.app.state.services
        services.access.admit(request)


def error_reply(request: Request, err: Exception, body: ErrorBody = native_error) -> Response:
    """Return the reply to an error, and log it if nobody expected it."""
    answer = as_api_error(err)
    request.scope["pe.error"] = answer.code
    if answer.status_code >= 500 and not isinstance(err, ApiError):
        logger.error(
            "request %s: %s",
            request.scope.get("pe.request_id"),
            err,
            exc_info=err if answer.code == "internal" else None,
        )
    return json_reply(body(answer, err), status=answer.status_code, headers=answer.headers)
