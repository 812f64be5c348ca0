"""`create_app`: joins models, indexes and APIs to an ASGI app."""

import asyncio
import importlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match, Route
from starlette.types import Scope

from perception_encoder._version import __version__
from perception_encoder.auto import AutoModel
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.errors import PerceptionEncoderError
from perception_encoder.server.api.base import Api, ApiRoutes, Services
from perception_encoder.server.api.openapi import describe
from perception_encoder.server.core.analyses import IndexJobs
from perception_encoder.server.core.batcher import BatchLimits
from perception_encoder.server.core.classifiers import ServedClassifiers
from perception_encoder.server.core.facets import Summaries
from perception_encoder.server.core.fetch import UrlFetcher
from perception_encoder.server.core.images import ImageLoader, Thumbnails
from perception_encoder.server.core.indexes import ServedIndexes
from perception_encoder.server.core.pools import Pools
from perception_encoder.server.core.queries import Queries
from perception_encoder.server.core.reranking import Reranker
from perception_encoder.server.core.served_models import ServedModels
from perception_encoder.server.http.access import AccessControl
from perception_encoder.server.http.errors import ApiError
from perception_encoder.server.http.middleware import RequestMiddleware
from perception_encoder.server.http.replies import error_reply
from perception_encoder.server.http.sites import SiteMiddleware, Sites
from perception_encoder.server.http.telemetry import Metrics
from perception_encoder.server.options import ImageSettings, ServerSettings

_APIS: Final = (
    "perception_encoder.server.api.native",
    "perception_encoder.server.api.page",
    "perception_encoder.server.api.openai",
    "perception_encoder.server.api.roboflow",
    "perception_encoder.server.api.tei",
    "perception_encoder.server.api.clip_retrieval",
    "perception_encoder.server.api.immich",
    "perception_encoder.server.api.cohere",
    "perception_encoder.server.api.ollama",
    "perception_encoder.server.api.about",
)
"""Modules that export `API`, in the order in which their routes are tried."""

_MCP: Final = "perception_encoder.server.mcp.transports"

_EXPOSED: Final = (
    "ETag", "Retry-After", "WWW-Authenticate", "X-Request-ID",
    "X-Inference-Engine", "X-Model-Cold-Start", "X-Model-Id", "X-Processing-Time",
)  # fmt: skip
"""Headers of replies that pages of the allowed origins may read, beside those that all may."""


def create_app(
    settings: ServerSettings,
    *,
    open_model: Callable[[str], EmbeddingModel] | None = None,
    on_ready: Callable[[], None] = lambda: None,
    on_model_closed: Callable[[], None] = lambda: None,
) -> FastAPI:
    """Return the app; `app.state.services` is what its routes work with.

    Args:
        settings: of the server.
        open_model: opens a model by its id, file or folder; None takes `AutoModel`.
        on_ready: called once the models are open that are opened at the start.
        on_model_closed: called after a model was closed.

    Raises:
        ClassifierError: a classifier cannot be read.
        IndexNotFoundError, IndexStorageError: an index cannot be opened.
        ValueError: no model at all, an alias of none or of one that does not fit it, an origin or
            an address of Immich's server that is none.
    """
    services = _services(settings, open_model or partial(_open_model, settings))
    services.served_models.on_closed = on_model_closed
    app = FastAPI(
        title="perception-encoder",
        summary="Image and text embeddings in one shared space, and search in indexes of them.",
        version=__version__,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.services = services
    app.state.on_ready = on_ready
    for kind in (HTTPException, RequestValidationError, PerceptionEncoderError, Exception):
        app.add_exception_handler(kind, _answer_error)
    modules = (*_APIS, _MCP) if settings.serve_mcp else _APIS
    apis = [_load_api(module).build(services) for module in modules]
    app.state.lifespans = [routes.lifespan for routes in apis if routes.lifespan is not None]
    routes = [route for api in apis for route in api]
    # FastAPI takes 0.1 to 0.2 ms of a core to come to a route and to call it. Those that need
    # nothing of it are plain routes, and come first; their other entries are for /openapi.json.
    direct = [Route(one.path, one.answer, methods=one.methods) for one in routes if one.is_direct]
    app.router.routes[:0] = direct
    app.router.routes += routes
    describe(app, apis, needs_key=services.access.needs_key)
    sites = Sites(settings.access)
    app.add_middleware(SiteMiddleware, sites=sites, refuse=partial(_refuse, apis))
    if sites.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(sites.origins),
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],  # SDKs in browsers send names of their own (x-stainless-lang, …)
            expose_headers=_EXPOSED,
        )
    app.add_middleware(RequestMiddleware, settings=settings.access, metrics=services.metrics)
    return app


def _load_api(module: str) -> Api:
    api: Api = importlib.import_module(module).API
    return api


def _refuse(apis: Sequence[ApiRoutes], scope: Scope, refusal: ApiError) -> Response:
    """Return the reply to a refused request, in the shape of the API whose route it is for."""
    for routes in apis:
        if any(route.matches(scope)[0] is not Match.NONE for route in routes):
            scope["pe.api"] = routes.api.name
            return error_reply(Request(scope), refusal, routes.api.error_body)
    return error_reply(Request(scope), refusal)


def _services(settings: ServerSettings, open_model: Callable[[str], EmbeddingModel]) -> Services:
    metrics = Metrics()
    indexes = ServedIndexes(settings.indexes)
    classifiers = ServedClassifiers(settings.classifiers)
    served_models = ServedModels(
        [
            *settings.models.names,
            *(served.identity.model_id for served in indexes),
            *(one.identity.model_id for _, one in classifiers),
        ],
        open_model,
        limits=BatchLimits(
            max_batch=settings.queue.max_batch,
            batch_seconds=settings.queue.batch_seconds,
            max_wait_seconds=settings.queue.max_wait_ms / 1000,
            capacity=settings.queue.capacity,
            timeout_seconds=settings.queue.timeout_seconds,
        ),
        decode_threads=settings.queue.decode_threads,
        observe=metrics.observer,
        unload_after_seconds=settings.models.unload_after_seconds,
        max_bytes=settings.models.max_bytes,
        aliases=settings.models.aliases,
    )
    indexes.on_model = served_models.add
    metrics.watch(served_models)
    pools = Pools.make(settings.queue.timeout_seconds)
    thumbnails = Thumbnails(
        settings.cache_folder,
        max_pixels=settings.images.max_pixels,
        allow_remote=settings.images.allow_remote_items,
    )
    return Services(
        settings=settings,
        served_models=served_models,
        images=ImageLoader(_fetcher(settings.images), max_bytes=settings.images.max_bytes),
        indexes=indexes,
        queries=Queries(served_models, pools.searches),
        reranker=Reranker(thumbnails, pools),
        classifiers=classifiers,
        thumbnails=thumbnails,
        jobs=IndexJobs(pools.searches),
        summaries=Summaries(pools.searches, pools.scans),
        pools=pools,
        access=AccessControl(settings.access),
        metrics=metrics,
    )


def _fetcher(images: ImageSettings) -> UrlFetcher | None:
    if not images.allow_urls:
        return None
    return UrlFetcher(
        allow_http=images.allow_http,
        timeout_seconds=images.url_timeout_seconds,
        max_bytes=images.max_bytes,
    )


def _open_model(settings: ServerSettings, spec: str) -> EmbeddingModel:
    return AutoModel.from_pretrained(
        spec,
        device=settings.models.device,
        backend=settings.models.backend,
        precision=settings.models.precision,
        compile=settings.models.compile,
        max_pixels=settings.images.max_pixels,
        random_weights=settings.models.random_weights,
    )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    starting = asyncio.create_task(
        services.served_models.start(preload=services.settings.models.preload)
    )
    starting.add_done_callback(lambda _: app.state.on_ready())
    try:
        async with AsyncExitStack() as stack:
            for lifespan in app.state.lifespans:
                await stack.enter_async_context(lifespan())
            yield
    finally:
        starting.cancel()
        await services.queries.close()
        await services.served_models.close()
        await services.images.close()
        services.jobs.close()
        services.pools.close()


async def _answer_error(request: Request, err: Exception) -> Response:
    """Answer what no API answered: unknown routes, wrong methods, a middleware's errors."""
    return error_reply(request, err)
