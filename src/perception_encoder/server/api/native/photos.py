"""Photos by time and place: GET /v1/indexes/{name}/timeline and /locations."""

from typing import Annotated, Final

from fastapi import Query, Response

from perception_encoder.server.api.base import ApiRoutes, Services
from perception_encoder.server.api.native.items import Filters, Photos, Videos, find_where
from perception_encoder.server.api.native.replies import LocationsReply, TimelineReply
from perception_encoder.server.core.photo_summaries import (
    MAX_PERIODS,
    MAX_POINTS,
    Bounds,
    Unit,
    bin_locations,
    count_periods,
)
from perception_encoder.server.http.replies import json_reply

_MAX_RESOLUTION: Final = 256


def add_routes(routes: ApiRoutes, services: Services) -> None:
    """Add the routes."""

    @routes.get(
        "/v1/indexes/{name}/timeline",
        summary="How many photos were taken in each month",
        description=(
            "Periods without photos are left out. The photos of a period are those of "
            "`GET /v1/items?sort=taken_at` with the period as `since` and `until`. At most "
            f"{MAX_PERIODS:,} periods."
        ),
        responses={200: {"model": TimelineReply}},
    )
    async def get_timeline(
        name: str,
        unit: Unit = "month",
        filters: Filters = None,
        videos: Videos = "moments",
        *,
        photos: Photos,
    ) -> Response:
        served = services.indexes.get(name)
        where = await find_where(services, served, filters, photos, videos)
        return json_reply(await services.pools.scans.run(count_periods, served, where, unit))

    @routes.get(
        "/v1/indexes/{name}/locations",
        summary="Where photos were taken, counted in the cells of a grid",
        description=(
            f"At most {MAX_POINTS:,} points, those with the most photos first. Photos near a point "
            "are those of `GET /v1/items` with `near`."
        ),
        responses={200: {"model": LocationsReply}},
    )
    async def list_locations(
        name: str,
        bounds: Annotated[
            str | None,
            Query(
                max_length=200,
                description="south,west,north,east in degrees; default: the whole world.",
            ),
        ] = None,
        resolution: Annotated[
            int, Query(ge=1, le=_MAX_RESOLUTION, description="Cells along the longer side.")
        ] = 64,
        filters: Filters = None,
        *,
        photos: Photos,
    ) -> Response:
        served = services.indexes.get(name)
        part = Bounds() if bounds is None else Bounds.parse(bounds)
        where = await find_where(services, served, filters, photos)
        return json_reply(
            await services.pools.scans.run(bin_locations, served, where, part, resolution)
        )
