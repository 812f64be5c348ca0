"""Videos of an index: the file of a moment, for players, and the other moments of the file."""

import posixpath
from functools import partial
from typing import Final

from fastapi import Request, Response

from perception_encoder.errors import ImageError, QueryError
from perception_encoder.index import Row
from perception_encoder.preprocess.files import open_regular_file
from perception_encoder.server.api.base import ApiRoutes, Services
from perception_encoder.server.api.common import describe_row
from perception_encoder.server.api.native.items import IndexName
from perception_encoder.server.api.native.replies import SegmentsReply
from perception_encoder.server.core.indexes import ServedIndex
from perception_encoder.server.http.errors import ApiError
from perception_encoder.server.http.ranges import reply_with_ranges
from perception_encoder.server.http.replies import BINARY, json_reply, open_stored
from perception_encoder.sources import StoredImage

_KINDS: Final = {
    ".3gp": "video/3gpp",
    ".avi": "video/x-msvideo",
    ".m4v": "video/mp4",
    ".mkv": "video/x-matroska",
    ".mov": "video/quicktime",
    ".mp4": "video/mp4",
    ".mts": "video/mp2t",
    ".webm": "video/webm",
}
_CONTENT: Final = {"video/*": BINARY, "application/octet-stream": BINARY}


def add_routes(routes: ApiRoutes, services: Services) -> None:
    """Add the routes."""

    @routes.get(
        "/v1/items/{item}/video",
        summary="The video file that a moment is in",
        description="With `Range` a part of it; `If-Range` and `If-None-Match` take its `ETag`.",
        response_class=Response,
        responses={
            200: {"content": _CONTENT},
            206: {"description": "The part that was asked for.", "content": _CONTENT},
            304: {"description": "Not modified."},
        },
    )
    async def get_video(request: Request, item: str, index: IndexName = None) -> Response:
        served = services.indexes.get(index)
        row = await services.pools.searches.run(_find_moment, served, item)
        try:
            file = await open_stored(services.pools.files, partial(_open_video, row.uri))
        except ImageError as err:
            raise ApiError(404, "no_video", str(err)) from err
        kind = _KINDS[posixpath.splitext(row.uri)[1].lower()]
        return reply_with_ranges(request, file, services.pools.files, kind)

    @routes.get(
        "/v1/items/{item}/segments",
        summary="All moments of the video that a moment is in, in their order",
        responses={200: {"model": SegmentsReply}},
    )
    async def list_segments(item: str, index: IndexName = None) -> Response:
        served = services.indexes.get(index)
        row = await services.pools.searches.run(_find_moment, served, item)
        rows = await services.pools.scans.run(_list_segments, served, row)
        ends = [row.moment.end for row in rows if row.moment is not None]
        return json_reply(
            {
                "index": served.name,
                "uri": row.uri,
                "duration": max(ends, default=0.0),
                "segments": [describe_row(row) for row in rows],
            }
        )


def _find_moment(served: ServedIndex, item: str) -> Row:
    try:
        row = served.row(item)
    except QueryError as err:
        raise ApiError(404, "unknown_item", str(err)) from err
    if row.moment is None:
        raise ApiError(404, "no_video", f"{row.name} is not a moment of a video")
    return row


def _list_segments(served: ServedIndex, row: Row) -> list[Row]:
    return [row for row, _ in served.fresh().moments(row.uri)]


def _open_video(path: str) -> StoredImage:
    file, num_bytes = open_regular_file(path, item=path, max_bytes=None)
    return StoredImage(file, 0, num_bytes, path)
