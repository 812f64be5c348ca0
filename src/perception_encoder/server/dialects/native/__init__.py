"""Our own routes, below /v1: everything that this package can do."""

from typing import TYPE_CHECKING, Final

from perception_encoder.server.dialect import Dialect
from perception_encoder.server.dialects.native import (
    compare,
    duplicates,
    embed,
    indexes,
    items,
    models,
    search,
    session,
)

if TYPE_CHECKING:
    from fastapi import APIRouter

    from perception_encoder.server.services import Services


def _build(services: "Services") -> "APIRouter":
    router = DIALECT.router()
    for part in (embed, compare, search, items, indexes, duplicates, models, session):
        part.add_routes(router, services)
    return router


DIALECT: Final = Dialect("native", _build, description="Everything that this package can do.")
