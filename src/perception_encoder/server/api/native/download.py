"""POST /v1/items/download: chosen images of an index as a zip file, or their columns as CSV."""

import csv
import io
from collections.abc import Sequence
from functools import partial
from typing import Final, Literal

from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict, Field

from perception_encoder.index import Row
from perception_encoder.server.api.native.search import described
from perception_encoder.server.core.indexes import ServedIndex
from perception_encoder.server.http.errors import ApiError
from perception_encoder.server.http.requests import (
    BINARY,
    ListOf,
    RequestBody,
    json_body,
    read_body,
)
from perception_encoder.server.http.streaming import ZipResponse
from perception_encoder.server.options import MIB
from perception_encoder.server.services import Services

_MAX_ITEMS: Final = 2000
_MAX_BYTES: Final = 2048 * MIB  # of all images of a zip file
_COLUMNS: Final = ("name", "uri", "member", "width", "height", "bytes", "modified", "sha256")


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


def add_routes(router: APIRouter, services: Services) -> None:
    """Add the route."""

    @router.post(
        "/v1/items/download",
        summary="Chosen images as a zip file, or their columns as CSV",
        description="Images that cannot be read are listed in `left-out.txt` of the zip file.",
        response_class=Response,
        responses={200: {"content": {"application/zip": BINARY, "text/csv": BINARY}}},
        openapi_extra=json_body(DownloadBody),
    )
    async def download(request: Request) -> Response:
        body = await read_body(request, DownloadBody)
        served = services.indexes.get(body.index)
        rows = await services.pools.searches.run(_read_rows, served, body.ids)
        if body.format == "csv":
            headers = {"Content-Disposition": 'attachment; filename="images.csv"'}
            return Response(_write_csv(rows), media_type="text/csv", headers=headers)
        num_bytes = sum(row.bytes or 0 for row in rows)
        if num_bytes > _MAX_BYTES:
            message = f"the images have {num_bytes:,} bytes, the limit is {_MAX_BYTES:,}"
            raise ApiError(400, "too_large", f"{message}; choose fewer")
        images = [
            (row.member or row.uri, partial(services.thumbnails.open_original, row)) for row in rows
        ]
        return ZipResponse(images, services.pools.files, _MAX_BYTES)


def _read_rows(served: ServedIndex, ids: Sequence[str]) -> list[Row]:
    served.fresh()
    rows = served.rows(list(dict.fromkeys(ids)))
    if not rows:
        raise ApiError(404, "unknown_item", f"the index {served.name} has none of these items")
    return rows


def _write_csv(rows: Sequence[Row]) -> bytes:
    """Return a table of the rows, in UTF-8: a column for each fact and each metadata name."""
    names = dict.fromkeys(name for row in rows for name in row.metadata)
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, [*_COLUMNS, *(name for name in names if name not in _COLUMNS)])
    writer.writeheader()
    for row in rows:
        reply = described(row)
        facts = {name: reply[name] for name in _COLUMNS}
        writer.writerow({**reply["metadata"], **facts})
    return out.getvalue().encode("utf-8", "backslashreplace")
