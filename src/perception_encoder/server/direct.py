"""The short way to routes that read their requests themselves, past FastAPI's machinery.

Matching paths one by one, solving dependencies and stacks of exits took two fifths of the event
loop's time for a request of one text (docs/reference/experiments.md). A route whose function takes
the request alone needs none of that: its path and method lead to it at once. FastAPI still knows
it, for the OpenAPI document and for every other method.
"""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


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
