"""Items of an index: listings, rows, images, thumbnails and downloads."""

import contextlib
import csv
import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Final, Literal, ParamSpec, TypeAlias, TypeVar

from fastapi import Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ConfigDict, Field, TypeAdapter

from perception_encoder.errors import ImageError, QueryError
from perception_encoder.index import Row
from perception_encoder.server.api.base import ApiRoutes, Services
from perception_encoder.server.api.common import MOST_HITS, describe_row
from perception_encoder.server.api.native.replies import ItemReply, ItemsReply
from perception_encoder.server.api.native.search import MAX_PHOTO_TEXT, FilterBody, PhotoFields
from perception_encoder.server.core.filters import Filter
from perception_encoder.server.core.images import CONTENT_TYPE, ENOUGH, detect_content_type
from perception_encoder.server.core.indexes import Listing, ServedIndex, Sort
from perception_encoder.server.core.photo_summaries import count_moments, where_whole_videos
from perception_encoder.server.http.errors import ApiError, format_field_path
from perception_encoder.server.http.replies import (
    BINARY,
    ImageResponse,
    ZipResponse,
    json_reply,
    open_stored,
)
from perception_encoder.server.http.requests import (
    ListOf,
    RequestBody,
    json_body,
    parse_json,
    read_body,
    validate,
)
from perception_encoder.server.options import MIB

P = ParamSpec("P")
ResultT = TypeVar("ResultT")

_BYTES: Final = {"application/octet-stream": BINARY}  # generators of clients know no images
_KEEP: Final = "private, max-age=86400"
_FILTERS: Final = TypeAdapter(list[FilterBody])
DEEPEST: Final = 2**40


def _photo_query(name: str) -> Any:
    field = PhotoFields.model_fields[name]
    return Query(max_length=MAX_PHOTO_TEXT, description=field.description)


Filters = Annotated[str | None, Query(description="JSON: a list of filters as in POST /v1/search.")]


def _read_photo_fields(
    since: Annotated[str | None, _photo_query("since")] = None,
    until: Annotated[str | None, _photo_query("until")] = None,
    near: Annotated[str | None, _photo_query("near")] = None,
    camera: Annotated[str | None, _photo_query("camera")] = None,
) -> PhotoFields:
    return PhotoFields(since=since, until=until, near=near, camera=camera)


Photos = Annotated[PhotoFields, Depends(_read_photo_fields)]
"""The query parameters `since`, `until`, `near` and `camera`."""

VideoListing: TypeAlias = Literal["moments", "whole"]

Videos = Annotated[
    VideoListing,
    Query(
        description="moments: each is an item. whole: a video is one item, its first moment, where "
        "the filters let it through."
    ),
]

IndexName = Annotated[str | None, Query(description="One of GET /v1/indexes; default: the first.")]
_MAX_ITEMS: Final = 2000
_MAX_BYTES: Final = 2048 * MIB  # of all images of a zip file
_CSV_COLUMNS: Final = ("name", "uri", "member", "width", "height", "bytes", "modified", "sha256")


def add_routes(routes: ApiRoutes, services: Services) -> None:
    """Add the routes."""

    @routes.get(
        "/v1/items",
        summary="Rows of an index",
        responses={200: {"model": ItemsReply}},
    )
    async def list_items(
        index: IndexName = None,
        offset: Annotated[int, Query(ge=0, le=DEEPEST)] = 0,
        limit: Annotated[int, Query(ge=1, le=MOST_HITS)] = 50,
        filters: Filters = None,
        sort: Annotated[
            Sort,
            Query(
                description=(
                    "index: as stored; date and size are those of the file; taken_at: when the "
                    "photo was taken."
                )
            ),
        ] = "index",
        descending: bool = False,
        videos: Videos = "moments",
        *,
        photos: Photos,
    ) -> Response:
        served = services.indexes.get(index)
        where = await find_where(services, served, filters, photos, videos)
        listing = Listing(where, sort, descending)
        pool = services.pools.searches if listing == Listing() else services.pools.scans
        rows, total = await pool.run(served.page, listing, offset, limit)
        items = [describe_row(row) for row in rows]
        if videos == "whole" and any(row.moment is not None for row in rows):
            counts = await services.summaries.get(served, count_moments)
            for row, item in zip(rows, items, strict=True):
                item["num_moments"] = None if row.moment is None else counts.get(row.uri)
        return json_reply(
            {
                "index": served.name,
                "items": items,
                "total": total,
                "offset": offset,
                "next_offset": offset + limit if offset + limit < total else None,
            }
        )

    @routes.get("/v1/items/{item}", summary="One row", responses={200: {"model": ItemReply}})
    async def get_item(item: str, index: IndexName = None) -> Response:
        served = services.indexes.get(index)
        return json_reply(
            describe_row(await services.pools.searches.run(_find_row, services, served.name, item))
        )

    @routes.get(
        "/v1/items/{item}/thumbnail",
        summary="A small JPEG of an item's image",
        response_class=Response,
        responses={
            200: {"content": {"image/jpeg": BINARY, **_BYTES}},
            304: {"description": "Not modified."},
        },
    )
    async def get_thumbnail(
        request: Request,
        item: str,
        index: IndexName = None,
        size: Annotated[
            int, Query(ge=1, le=2048, description="Longest side, brought up to 128, 256, …, 2048.")
        ] = 256,
    ) -> Response:
        row = await services.pools.searches.run(_find_row, services, index, item)
        tag = f'"{row.sha256 or row.mtime}-{size}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag, "Cache-Control": _KEEP})
        content = await _read_file(services, services.thumbnails.get, row, size)
        headers = {"ETag": tag, "Cache-Control": _KEEP}
        return Response(content, media_type=CONTENT_TYPE, headers=headers)

    @routes.get(
        "/v1/items/{item}/image",
        summary="An item's image as it is stored",
        response_class=Response,
        responses={200: {"content": {"image/*": BINARY, **_BYTES}}},
    )
    async def get_image(item: str, index: IndexName = None) -> Response:
        row = await services.pools.searches.run(_find_row, services, index, item)
        try:
            image = await open_stored(
                services.pools.files, partial(services.thumbnails.open_original, row)
            )
        except ImageError as err:
            raise ApiError(404, "no_image", str(err)) from err
        with contextlib.ExitStack() as closed_on_error:
            closed_on_error.enter_context(image.file)
            kind = detect_content_type(await _read_file(services, image.read, 0, ENOUGH))
            if kind is None:
                raise ApiError(404, "no_image", "what lies there now is not an image")
            closed_on_error.pop_all()
        return ImageResponse(image, services.pools.files, kind, {"Cache-Control": _KEEP})


async def find_where(
    services: Services,
    served: ServedIndex,
    filters: str | None,
    photos: PhotoFields,
    videos: VideoListing = "moments",
) -> str | None:
    """Return the condition of a query string.

    Raises:
        QueryError: the filters or the photo filters are wrong.
    """
    searches = services.pools.searches
    where = await searches.run(served.where, parse_filters(filters), photos.filter)
    if videos == "whole":
        where = await searches.run(where_whole_videos, served, where)
    return where


def parse_filters(written: str | None) -> list[Filter]:
    """Read the filters of a query string.

    Raises:
        QueryError: they are not JSON, or not filters.
    """
    if not written:
        return []
    try:
        value = parse_json(written.encode("utf-8", "surrogatepass"))
        return [one.filter() for one in validate(_FILTERS.validate_python, value)]
    except RequestValidationError as err:
        first = err.errors()[0]
    place = format_field_path(first) or ""
    raise QueryError(f"filters{place}: {first['msg']}")


async def _read_file(
    services: Services, read: Callable[P, ResultT], *args: P.args, **kwargs: P.kwargs
) -> ResultT:
    try:
        return await services.pools.files.run(read, *args, **kwargs)
    except ImageError as err:
        raise ApiError(404, "no_image", str(err)) from err


def _find_row(services: Services, index: str | None, item: str) -> Row:
    try:
        return services.indexes.get(index).row(item)
    except QueryError as err:
        raise ApiError(404, "unknown_item", str(err)) from err


class DownloadBody(RequestBody):
    """Items of an index, and the form in which they are wanted."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"ids": ["0" * 32], "format": "csv"}}
    )

    index: str | None = Field(
        default=None, description="One of GET /v1/indexes; default: the first."
    )
    ids: ListOf[str] = Field(min_length=1, max_length=_MAX_ITEMS)
    format: Literal["zip", "csv"] = Field(
        default="zip", description="zip: the images as they are stored; csv: their columns."
    )


def add_download_route(routes: ApiRoutes, services: Services) -> None:
    """Add the route."""

    @routes.post(
        "/v1/items/download",
        summary="Chosen images as a zip file, or their columns as CSV",
        description="Images that cannot be read are listed in `left-out.txt` of the zip file.",
        response_class=Response,
        responses={200: {"content": {**_BYTES, "application/zip": BINARY, "text/csv": BINARY}}},
        openapi_extra=json_body(DownloadBody),
    )
    async def download_items(request: Request) -> Response:
        body = await read_body(request, DownloadBody)
        served = services.indexes.get(body.index)
        rows = await services.pools.searches.run(_find_rows, served, body.ids)
        if body.format == "csv":
            headers = {"Content-Disposition": 'attachment; filename="images.csv"'}
            return Response(_write_csv(rows), media_type="text/csv", headers=headers)
        num_bytes = sum(row.bytes or 0 for row in rows if row.moment is None)
        if num_bytes > _MAX_BYTES:
            message = f"the images have {num_bytes:,} bytes, the limit is {_MAX_BYTES:,}"
            raise ApiError(400, "too_large", f"{message}; choose fewer")
        images = [
            (_name_of_file(row), partial(services.thumbnails.open_original, row)) for row in rows
        ]
        return ZipResponse(images, services.pools.files, _MAX_BYTES)


def _name_of_file(row: Row) -> str:
    """Return the name of an image in a zip file; a frame of a video is a JPEG."""
    if row.moment is not None:
        return f"{row.uri} {str(row.member).replace(':', '.')}.jpg"
    return row.member or row.uri


def _find_rows(served: ServedIndex, ids: Sequence[str]) -> list[Row]:
    served.fresh()
    rows = served.rows(list(dict.fromkeys(ids)))
    if not rows:
        raise ApiError(404, "unknown_item", f"the index {served.name} has none of these items")
    return rows


def _write_csv(rows: Sequence[Row]) -> bytes:
    """Return a table of the rows, in UTF-8: a column for each fact and each metadata name."""
    names = dict.fromkeys([*_CSV_COLUMNS, *(name for row in rows for name in row.metadata)])
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(names))
    writer.writeheader()
    for row in rows:
        reply = describe_row(row)
        fields = {name: reply[name] for name in _CSV_COLUMNS}
        writer.writerow({**reply["metadata"], **fields})
    return out.getvalue().encode("utf-8", "backslashreplace")
