"""Our own routes, below /v1: everything that this package can do."""

from typing import TYPE_CHECKING, Final

from perception_encoder.server.api.base import Api
from perception_encoder.server.api.native import (
    analyses,
    compare,
    download,
    embed,
    indexes,
    items,
    search,
)

if TYPE_CHECKING:
    from fastapi import APIRouter

    from perception_encoder.server.services import Services


def _build(services: "Services") -> "APIRouter":
    router = API.router()
    for add_routes in (
        embed.add_routes,
        compare.add_routes,
        search.add_routes,
        items.add_routes,
        download.add_routes,
        analyses.add_routes,
        analyses.add_cluster_routes,
        indexes.add_routes,
        indexes.add_model_routes,
        indexes.add_session_route,
    ):
        add_routes(router, services)
    return router


API: Final = Api("native", _build, description="Everything that this package can do.")
