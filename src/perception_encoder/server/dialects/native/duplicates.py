"""GET /v1/duplicates: groups of pictures of which one is enough. Deletes nothing."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import Field

from perception_encoder.analysis.duplicates import Duplicate, DuplicateGroup
from perception_encoder.server.bodies import OrAbsent
from perception_encoder.server.core.duplicates import TierName
from perception_encoder.server.dialects.native.items import DEEPEST, IndexName
from perception_encoder.server.dialects.native.replies import DuplicatesReply
from perception_encoder.server.dialects.native.rows import described
from perception_encoder.server.replies import json_reply
from perception_encoder.server.services import Services


def add_routes(router: APIRouter, services: Services) -> None:
    """Add the route."""

    @router.get(
        "/v1/duplicates",
        summary="Groups of pictures of which one is enough",
        description=(
            "The first request for a table as it is now begins the work and answers 202 with "
            '`"state": "running"`; ask again until it is "done". Nothing is deleted.'
        ),
        responses={
            200: {"model": DuplicatesReply},
            202: {"model": DuplicatesReply, "description": "Being worked on."},
        },
    )
    async def duplicates(
        index: IndexName = None,
        tier: Annotated[TierName, Query(description="How far to go, each with those before.")] = (
            "near"
        ),
        threshold: OrAbsent[Annotated[float, Field(gt=0, le=1)]] = None,
        offset: Annotated[int, Query(ge=0, le=DEEPEST)] = 0,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
    ) -> Response:
        served = services.indexes.get(index)
        found = await services.duplicates.get(served, tier, threshold)
        if found is None:
            return json_reply({"index": served.name, "state": "running"}, status=202)
        groups = found.groups[offset : offset + limit]
        end = offset + limit
        return json_reply(
            {
                "index": served.name,
                "state": "done",
                "num_pictures": found.num_pictures,
                "num_groups": len(found.groups),
                "num_redundant": sum(len(group.others) for group in found.groups),
                "groups": [_group(group) for group in groups],
                "offset": offset,
                "next_offset": end if end < len(found.groups) else None,
            }
        )


def _group(group: DuplicateGroup) -> dict[str, Any]:
    return {
        "tier": group.tier,
        "keep": described(group.kept),
        "others": [_other(other) for other in group.others],
    }


def _other(other: Duplicate) -> dict[str, Any]:
    return {**described(other.row), "tier": other.tier, "score": other.score}
