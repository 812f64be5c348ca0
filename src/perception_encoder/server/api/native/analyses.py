"""Analyses of a whole index: GET /v1/duplicates, /v1/clusters and /v1/map, each as a job."""

import itertools
import logging
from typing import Annotated, Any, Final

import numpy as np
from fastapi import Query, Response
from pydantic import Field

from perception_encoder.analysis.cluster_names import load_everyday_words, name_clusters
from perception_encoder.analysis.duplicates import Duplicate, DuplicateGroup
from perception_encoder.analysis.index_map import require_projection
from perception_encoder.errors import BackendUnavailableError, PerceptionEncoderError
from perception_encoder.server.api.base import ApiRoutes, Services
from perception_encoder.server.api.common import MOST_HITS, describe_row
from perception_encoder.server.api.native.items import (
    DEEPEST,
    Filters,
    IndexName,
    Photos,
    find_where,
)
from perception_encoder.server.api.native.replies import (
    ClusterItemsReply,
    ClustersReply,
    DuplicatesReply,
    MapReply,
)
from perception_encoder.server.core.analyses import (
    MAX_CLUSTERS,
    MAX_EXAMPLES,
    ClusterFigures,
    ClusterSearch,
    DuplicateSearch,
    JobProgress,
    MapLayout,
    TierName,
)
from perception_encoder.server.core.indexes import ServedIndex
from perception_encoder.server.http.errors import ApiError
from perception_encoder.server.http.replies import json_reply
from perception_encoder.server.http.requests import OrAbsent

logger = logging.getLogger(__name__)

_MAX_LEFT_OUT: Final = 50
_AS_JOB: Final = (
    "The first request for an index as it is now starts a job and is answered 202 with "
    '`"state": "running"` and its `progress`; repeat the request until the state is "done".'
)
NumClusters = Annotated[
    int | None, Query(ge=1, le=MAX_CLUSTERS, description="Default: as many as are distinct.")
]


def add_routes(routes: ApiRoutes, services: Services) -> None:
    """Add the routes of duplicates and of the map."""

    @routes.get(
        "/v1/duplicates",
        summary="Groups of images of which one is enough",
        description=f"{_AS_JOB} Nothing is deleted.",
        responses=_responses(DuplicatesReply),
    )
    async def list_duplicates(
        index: IndexName = None,
        tier: Annotated[TierName, Query(description="How far to go, each with those before.")] = (
            "near"
        ),
        threshold: OrAbsent[Annotated[float, Field(gt=0, le=1)]] = None,
        offset: Annotated[int, Query(ge=0, le=DEEPEST)] = 0,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
    ) -> Response:
        served = services.indexes.get(index)
        search = DuplicateSearch.of(tier, threshold, services.thumbnails.original)
        job = await services.jobs.get(served, search)
        if isinstance(job, JobProgress):
            return _running(served, job)
        found = job.value
        end = offset + limit
        return json_reply(
            {
                "index": served.name,
                "state": "done",
                "num_images": found.num_images,
                "num_groups": len(found.groups),
                "num_redundant": sum(len(group.others) for group in found.groups),
                "redundant_bytes": sum(
                    other.row.bytes or 0 for group in found.groups for other in group.others
                ),
                "num_left_out": len(found.left_out),
                "left_out": [
                    {"name": one.row.name, "reason": one.reason}
                    for one in found.left_out[:_MAX_LEFT_OUT]
                ],
                "groups": [_describe_group(group) for group in found.groups[offset:end]],
                "offset": offset,
                "next_offset": end if end < len(found.groups) else None,
            }
        )

    @routes.get(
        "/v1/map",
        summary="Places in the plane for an index's images, alike ones near each other",
        description=(
            f"{_AS_JOB} `ids`, `x`, `y` and `clusters` are lists of one length; `clusters` holds "
            "numbers of `groups`. Of a large index a random part is placed. Needs the extra `map`."
        ),
        responses=_responses(MapReply),
    )
    async def get_map(
        index: IndexName = None, filters: Filters = None, *, photos: Photos
    ) -> Response:
        served = services.indexes.get(index)
        try:
            require_projection()
        except BackendUnavailableError as err:
            raise ApiError(400, "unsupported", str(err)) from err
        where = await find_where(services, served, filters, photos)
        job = await services.jobs.get(served, MapLayout(where))
        if isinstance(job, JobProgress):
            return _running(served, job)
        found = job.value
        places = np.ascontiguousarray(found.places.T)
        return json_reply(
            {
                "index": served.name,
                "state": "done",
                "num_images": found.figures.num_images,
                "ids": found.ids,
                "x": places[0],
                "y": places[1],
                "clusters": np.ascontiguousarray(found.labels),
                "groups": await _describe_clusters(services, served, found.figures),
            }
        )


def add_cluster_routes(routes: ApiRoutes, services: Services) -> None:
    """Add the routes."""

    @routes.get(
        "/v1/clusters",
        summary="Groups of images that look alike, the largest first",
        description=_AS_JOB,
        responses=_responses(ClustersReply),
    )
    async def list_clusters(
        index: IndexName = None,
        k: NumClusters = None,
        filters: Filters = None,
        examples: Annotated[
            int, Query(ge=0, le=MAX_EXAMPLES, description="Images of each cluster.")
        ] = 8,
        *,
        photos: Photos,
    ) -> Response:
        served = services.indexes.get(index)
        where = await find_where(services, served, filters, photos)
        job = await services.jobs.get(served, ClusterSearch(k, where))
        if isinstance(job, JobProgress):
            return _running(served, job)
        figures = job.value.figures
        chosen = [ids[:examples] for ids in job.value.examples]
        wanted = list(itertools.chain.from_iterable(chosen))
        rows = {row.id: row for row in await services.pools.searches.run(served.rows, wanted)}
        groups = await _describe_clusters(services, served, figures)
        for group, ids in zip(groups, chosen, strict=True):
            group["examples"] = [describe_row(rows[key]) for key in ids if key in rows]
        return json_reply(
            {
                "index": served.name,
                "state": "done",
                "num_images": figures.num_images,
                "num_damaged": figures.num_damaged,
                "silhouette": figures.silhouette,
                "clusters": groups,
            }
        )

    @routes.get(
        "/v1/clusters/{number}",
        summary="The images of a cluster, the most central first",
        description=f"`number` counts from 0 in the order of GET /v1/clusters. {_AS_JOB}",
        responses=_responses(ClusterItemsReply),
    )
    async def get_cluster(
        number: int,
        index: IndexName = None,
        k: NumClusters = None,
        filters: Filters = None,
        offset: Annotated[int, Query(ge=0, le=DEEPEST)] = 0,
        limit: Annotated[int, Query(ge=1, le=MOST_HITS)] = 50,
        *,
        photos: Photos,
    ) -> Response:
        served = services.indexes.get(index)
        where = await find_where(services, served, filters, photos)
        job = await services.jobs.get(served, ClusterSearch(k, where))
        if isinstance(job, JobProgress):
            return _running(served, job)
        members = job.value.members
        if not 0 <= number < len(members):
            message = f"there is no cluster {number}; there are {len(members)}, counted from 0"
            raise ApiError(404, "unknown_cluster", message)
        ids = members[number]
        rows = await services.pools.searches.run(served.rows, ids.slice(offset, limit).to_pylist())
        end = offset + limit
        return json_reply(
            {
                "index": served.name,
                "state": "done",
                "items": [describe_row(row) for row in rows],
                "total": len(ids),
                "offset": offset,
                "next_offset": end if end < len(ids) else None,
            }
        )


def _responses(model: type[Any]) -> dict[int | str, dict[str, Any]]:
    return {200: {"model": model}, 202: {"model": model, "description": "The job is running."}}


def _running(served: ServedIndex, progress: JobProgress) -> Response:
    reply = {
        "stage": progress.stage,
        "share": progress.share,
        "seconds": round(progress.seconds, 1),
    }
    return json_reply({"index": served.name, "state": "running", "progress": reply}, status=202)


async def _describe_clusters(
    services: Services, served: ServedIndex, figures: ClusterFigures
) -> list[dict[str, Any]]:
    """Return the clusters without their images, named where the model reads words."""
    names: list[str | None] = [None] * len(figures.sizes)
    try:
        async with services.queries.text_worker(served) as (worker, _):
            words = await services.queries.embed_once(worker, load_everyday_words)
        if words is not None and names:
            named = name_clusters(figures.centers, load_everyday_words(), words)
            names = [one.text for one in named]
    except PerceptionEncoderError as err:
        logger.info("%s: clusters have no names: %s", served.name, err)
    return [
        {"name": name, "size": size, "tightness": tightness}
        for name, size, tightness in zip(names, figures.sizes, figures.tightness, strict=True)
    ]


def _describe_group(group: DuplicateGroup) -> dict[str, Any]:
    return {
        "tier": group.tier,
        "keep": describe_row(group.kept),
        "others": [_describe_duplicate(other) for other in group.others],
    }


def _describe_duplicate(other: Duplicate) -> dict[str, Any]:
    return {**describe_row(other.row), "tier": other.tier, "score": other.score}
