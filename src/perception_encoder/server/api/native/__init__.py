"""The package's own API, below /v1: everything that the package can do."""

from typing import Final

from perception_encoder.server.api.base import Api, ApiRoutes, Services
from perception_encoder.server.api.native import (
    analyses,
    classifiers,
    embed,
    explain,
    indexes,
    items,
    photos,
    saved,
    search,
    videos,
)


def _build(services: Services) -> ApiRoutes:
    routes = API.routes(services)
    embed.add_routes(routes, services)
    embed.add_compare_routes(routes, services)
    explain.add_routes(routes, services)
    classifiers.add_routes(routes, services)
    search.add_routes(routes, services)
    saved.add_routes(routes, services)
    items.add_routes(routes, services)
    items.add_download_route(routes, services)
    photos.add_routes(routes, services)
    videos.add_routes(routes, services)
    analyses.add_routes(routes, services)
    analyses.add_cluster_routes(routes, services)
    indexes.add_routes(routes, services)
    indexes.add_model_routes(routes, services)
    indexes.add_session_route(routes, services)
    return routes


API: Final = Api(
    "native", _build, description="Everything that this package can do.", operation_prefix=""
)
