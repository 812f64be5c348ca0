"""How an API joins the server: its routes, who may use them, and the shape of its errors.

An API module exports `API = Api("name", build, error_body=…)` and is listed in `app`:

    def build(services: Services) -> ApiRoutes:
        routes = API.routes(services)

        @routes.post("/v9/embed")
        async def embed(request: Request) -> Response: ...

        return routes

In a route raise `ApiError`, or let this package's own errors through: the route answers both in the
API's shape, with the status of `errors.as_api_error`. Limits on bodies, clients that go away,
request ids, metrics, logs and security headers need nothing from the route.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel

from perception_encoder.errors import ImageError
from perception_encoder.server.core.analyses import IndexJobs
from perception_encoder.server.core.classifiers import ServedClassifiers
from perception_encoder.server.core.facets import Summaries
from perception_encoder.server.core.images import (
    ImageLoader,
    LoadedImage,
    Thumbnails,
    name_images,
)
from perception_encoder.server.core.indexes import ServedIndexes
from perception_encoder.server.core.pools import Pools, release_frames
from perception_encoder.server.core.queries import Queries
from perception_encoder.server.core.reranking import Reranker
from perception_encoder.server.core.served_models import ServedModels
from perception_encoder.server.http.access import AccessControl
from perception_encoder.server.http.errors import ApiError
from perception_encoder.server.http.replies import ErrorBody, ErrorReply, error_reply, native_error
from perception_encoder.server.http.requests import read_key_of_body
from perception_encoder.server.http.telemetry import Metrics
from perception_encoder.server.options import ServerSettings

Endpoint: TypeAlias = Callable[..., Awaitable[Response]]
EndpointT = TypeVar("EndpointT", bound=Endpoint)


@dataclass(frozen=True)
class Services:
    """Everything behind the routes.

        async with services.served_models.use(body.model) as worker:  # None: the default model
            texts = await worker.embed_texts(["a cat"])  # (1, E) float32, unit length
            images = await worker.embed_images(await services.load_images(references))
            vectors = images.require()  # raises the first bad image's error, or:
            images.errors  # {position: ImageError}

    Attributes:
        settings: of the server.
        served_models: the models.
        images: loads the images that requests name.
        indexes: the indexes.
        queries: turns terms into a query's vector, and calibrates scores.
        reranker: has another model order the hits of a search.
        classifiers: learned from examples, before the server was started.
        thumbnails: small copies of indexes' images, kept on disk.
        jobs: analyses of indexes in the background, shared by requests.
        summaries: facets and folders of the indexes, shared by requests.
        pools: the threads that wait for disks and compute searches.
        access: keys, sessions and rates.
        metrics: counters.
    """

    settings: ServerSettings
    served_models: ServedModels
    images: ImageLoader
    indexes: ServedIndexes
    queries: Queries
    reranker: Reranker
    classifiers: ServedClassifiers
    thumbnails: Thumbnails
    jobs: IndexJobs
    summaries: Summaries
    pools: Pools
    access: AccessControl
    metrics: Metrics

    async def load_images(
        self, references: Sequence[str | bytes], names: Sequence[str] | None = None
    ) -> list[LoadedImage | ImageError]:
        """Return the encoded images of a request, in order; an error stands for a bad one.

        Args:
            references: bytes, data URIs, base64, or URLs where they are enabled; see
                `ImageLoader.load`.
            names: what errors call each; "image 0", "image 1", … by default.

        Raises:
            ApiError: 400, more than `max_items`.
        """
        self.check_count(len(references), "images")
        names = name_images(len(references)) if names is None else names
        return await self.images.load_all(references, names)

    def check_count(self, count: int, what: str) -> None:
        """Refuse a request of more items than one may have.

        Raises:
            ApiError: 400.
        """
        most = self.settings.access.max_items
        if count > most:
            raise ApiError(
                400, "too_many_items", f"{count} {what} are more than the {most} of one request"
            )


@dataclass(frozen=True)
class Api:
    """The API of one kind of client.

    Attributes:
        name: in metrics, logs and the OpenAPI document's tags.
        build: makes the routes.
        error_body: makes the JSON body of an error's reply.
        error_model: the form of that body, for the OpenAPI document.
        description: of its clients, for the OpenAPI document.
        needs_key: whether routes ask for a key, before the body is read.
        key_in_query: whether the key may also come as `?api_key=`.
        key_in_body: whether it may also be `api_key` of a JSON body.
        operation_prefix: begins the names of the routes in the OpenAPI document, after which
            generated clients name their functions; None takes `name`.
    """

    name: str
    build: Callable[[Services], ApiRoutes]
    error_body: ErrorBody = native_error
    error_model: type[BaseModel] = ErrorReply
    description: str = ""
    needs_key: bool = True
    key_in_query: bool = False
    key_in_body: bool = False
    operation_prefix: str | None = None

    def name_operation(self, endpoint: Endpoint) -> str:
        """Return the `operationId` of a route that gives none."""
        prefix = self.name if self.operation_prefix is None else self.operation_prefix
        words = [*re.findall("[a-z0-9]+", prefix), endpoint.__name__]
        return "_".join(words)

    def routes(self, services: Services) -> ApiRoutes:
        """Return an empty collection of routes."""
        return ApiRoutes(self, services.access)


class ApiRoutes(list["ApiRoute"]):
    """The routes of an API, added by decorators that take what `fastapi.routing.APIRoute` takes.

    Attributes:
        api: whose routes they are.
        lifespan: what the API runs while the server does; None for nothing.
    """

    def __init__(self, api: Api, access: AccessControl) -> None:
        super().__init__()
        self.api = api
        self.lifespan: Callable[[], AbstractAsyncContextManager[None]] | None = None
        self._access = access

    def get(self, path: str, **options: Any) -> Callable[[EndpointT], EndpointT]:
        """Add a GET route; `needs_key` overrides that of the API."""
        return self._add("GET", path, **options)

    def post(self, path: str, **options: Any) -> Callable[[EndpointT], EndpointT]:
        """Add a POST route; `needs_key` overrides that of the API."""
        return self._add("POST", path, **options)

    def _add(self, method: str, path: str, **options: Any) -> Callable[[EndpointT], EndpointT]:
        def add(endpoint: EndpointT) -> EndpointT:
            self.append(ApiRoute(path, endpoint, self.api, self._access, method, **options))
            return endpoint

        return add


class ApiRoute(APIRoute):
    """A route that checks the key before the body is read, and answers errors as its API does.

    An endpoint without parameters but the request is called as it is, without FastAPI's search for
    parameters (`is_direct`).
    """

    def __init__(
        self,
        path: str,
        endpoint: Endpoint,
        api: Api,
        access: AccessControl,
        method: str,
        *,
        needs_key: bool | None = None,
        **options: Any,
    ) -> None:
        self._api = api
        self._access = access
        self.needs_key = api.needs_key if needs_key is None else needs_key
        parameters = list(inspect.signature(endpoint).parameters)
        self.is_direct = (
            "{" not in path
            and parameters in ([], ["request"])
            and inspect.iscoroutinefunction(endpoint)
            and not options.get("dependencies")
        )
        self._direct = endpoint if parameters else lambda _: endpoint()
        options.setdefault("operation_id", api.name_operation(endpoint))
        super().__init__(path, endpoint, methods=[method], tags=[api.name], **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        return partial(
            self._answer, self._direct if self.is_direct else super().get_route_handler()
        )

    async def answer(self, request: Request) -> Response:
        """Answer a request of a direct route."""
        return await self._answer(self._direct, request)

    async def _answer(self, endpoint: Endpoint, request: Request) -> Response:
        request.scope["pe.api"] = self._api.name
        request.scope["pe.route"] = self.path
        try:
            if self.needs_key:
                request = await self._admit(request)
            return await endpoint(request)
        except Exception as err:  # noqa: BLE001  every error has a reply
            reply = error_reply(request, err, self._api.error_body)
            release_frames(err)
            return reply

    async def _admit(self, request: Request) -> Request:
        """Check the key of a request; return it with all of its body to read.

        Raises:
            ApiError: 401 or 429, as `AccessControl.admit`.
        """
        further = [request.query_params.get("api_key")] if self._api.key_in_query else []
        is_unknown = self._access.needs_key and not self._access.is_known(request, further)
        if is_unknown and self._api.key_in_body:
            request, key = await read_key_of_body(request)
            further.append(key)
        self._access.admit(request, further)
        return request
