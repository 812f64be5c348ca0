"""Items of a table: a page of rows, one row, its picture and small copies of it."""

import contextlib
from collections.abc import Callable
from typing import Annotated, Final, ParamSpec, TypeVar

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter

from perception_encoder.errors import ImageError, QueryError
from perception_encoder.index import Row
from perception_encoder.pipeline.sources import StoredImage
from perception_encoder.server.bodies import BINARY, parse_json, validate
from perception_encoder.server.core.filters import Filter
from perception_encoder.server.core.sniff import ENOUGH, content_type
from perception_encoder.server.core.thumbnails import CONTENT_TYPE
from perception_encoder.server.dialects.native.replies import Item, ItemsReply
from perception_encoder.server.dialects.native.rows import described
from perception_encoder.server.dialects.native.search import MOST_HITS, FilterBody
from perception_encoder.server.problems import ApiError, field_path
from perception_encoder.server.replies import json_reply
from perception_encoder.server.services import Services
from perception_encoder.server.streaming import ImageResponse

P = ParamSpec("P")
ResultT = TypeVar("ResultT")

_BYTES: Final = {"application/octet-stream": BINARY}  # generators of clients know no images
_KEEP: Final = "private, max-age=86400"
_FILTERS: Final = TypeAdapter(list[FilterBody])
DEEPEST: Final = 2**40

IndexName = Annotated[str | None, Query(description="One of GET /v1/indexes; default: the first.")]


def add_routes(router: APIRouter, services: Services) -> None:
    """Add the routes."""

    @router.get(
        "/v1/items",
        summary="Rows of a table, in its order",
        responses={200: {"model": ItemsReply}},
    )
    async def items(
        index: IndexName = None,
        offset: Annotated[int, Query(ge=0, le=DEEPEST)] = 0,
        limit: Annotated[int, Query(ge=1, le=MOST_HITS)] = 50,
        filters: Annotated[
            str | None, Query(description="JSON: a list of filters as in POST /v1/search.")
        ] = None,
    ) -> Response:
        served = services.indexes.get(index)
        where = await services.pools.searches.run(served.where, parsed_filters(filters))
        rows = await services.pools.searches.run(served.page, offset, limit, where)
        return json_reply(
            {
                "index": served.name,
                "items": [described(row) for row in rows],
                "offset": offset,
                "next_offset": offset + limit if len(rows) == limit else None,
            }
        )

    @router.get("/v1/items/{item}", summary="One row", responses={200: {"model": Item}})
    async def item_(item: str, index: IndexName = None) -> Response:
        served = services.indexes.get(index)
        return json_reply(
            described(await services.pools.searches.run(_row, services, served.name, item))
        )

    @router.get(
        "/v1/items/{item}/thumbnail",
        summary="A small JPEG of an item's picture",
        response_class=Response,
        responses={
            200: {"content": {"image/jpeg": BINARY, **_BYTES}},
            304: {"description": "Not modified."},
        },
    )
    async def thumbnail(
        request: Request,
        item: str,
        index: IndexName = None,
        size: Annotated[
            int, Query(ge=1, le=2048, description="Longest side, brought up to 128, 256, …, 2048.")
        ] = 256,
    ) -> Response:
        row = await services.pools.searches.run(_row, services, index, item)
        tag = f'"{row.sha256 or row.mtime}-{size}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag, "Cache-Control": _KEEP})
        content = await _read_file(services, services.thumbnails.get, row, size)
        headers = {"ETag": tag, "Cache-Control": _KEEP}
        return Response(content, media_type=CONTENT_TYPE, headers=headers)

    @router.get(
        "/v1/items/{item}/image",
        summary="An item's picture as it is stored",
        response_class=Response,
        responses={200: {"content": {"image/*": BINARY, **_BYTES}}},
    )
    async def image_(item: str, index: IndexName = None) -> Response:
        row = await services.pools.searches.run(_row, services, index, item)
        image = await _open_image(services, row)
        with contextlib.ExitStack() as closed_on_error:
            closed_on_error.enter_context(image.file)
            kind = content_type(await _read_file(services, image.read, 0, ENOUGH))
            if kind is None:
                raise ApiError(404, "no_picture", "what lies there now is not a picture")
            closed_on_error.pop_all()
        return ImageResponse(image, services.pools.files, kind, {"Cache-Control": _KEEP})


def parsed_filters(written: str | None) -> list[Filter]:
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
    place = field_path(first) or ""
    raise QueryError(f"filters{place}: {first['msg']}")


async def _open_image(services: Services, row: Row) -> StoredImage:
    """Open a row's image; one that opens after its request has ended is closed at once."""
    is_awaited = True

    def open_original() -> StoredImage:
        image = services.thumbnails.open_original(row)
        if not is_awaited:
            image.file.close()
        return image

    try:
        return await _read_file(services, open_original)
    except BaseException:
        is_awaited = False
        raise


async def _read_file(
    services: Services, read: Callable[P, ResultT], *args: P.args, **kwargs: P.kwargs
) -> ResultT:
    try:
        return await services.pools.files.run(read, *args, **kwargs)
    except ImageError as err:
        raise ApiError(404, "no_picture", str(err)) from err


def _row(services: Services, index: str | None, item: str) -> Row:
    try:
        return services.indexes.get(index).row(item)
    except QueryError as err:
        raise ApiError(404, "unknown_item", str(err)) from err
