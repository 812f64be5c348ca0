"""The routes of clip-retrieval's `ClipClient` and page: /knn-service, /metadata, /indices-list.

`ClipClient` sends neither headers nor a content type: the key may be in its URL
(`/knn-service?api_key=…`), and bodies are read as JSON whatever their content type.
"""

import base64
import time
from typing import Annotated, Any, Final

import numpy as np
from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field

from perception_encoder.errors import ImageError, ServingError
from perception_encoder.index import Row
from perception_encoder.search.ranking import SearchOptions
from perception_encoder.server.api.base import Api, ApiRoutes, Services
from perception_encoder.server.api.common import MOST_HITS, Modality, check_texts, describe_row
from perception_encoder.server.core.indexes import ServedIndex
from perception_encoder.server.core.pools import FILE_SECONDS, gather_all
from perception_encoder.server.core.queries import Term
from perception_encoder.server.http.errors import ApiError
from perception_encoder.server.http.replies import json_reply
from perception_encoder.server.http.requests import (
    ListOf,
    OrAbsent,
    RequestBody,
    json_body,
    read_body,
)
from perception_encoder.types import Embeddings

_SAME: Final = 0.94  # the cosine from which on clip-retrieval takes two images for one
_SIDE: Final = 512  # of the images in replies, pixels
_IMAGES_AT_ONCE: Final = 4  # of one reply; other requests read files, too


class KnnBody(RequestBody):
    """A query. Of the fields that are not listed, none has a meaning here."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"text": "red heart", "num_images": 4, "modality": "image"}}
    )

    text: OrAbsent[str] = None
    image: OrAbsent[str] = Field(default=None, description="Base64.")
    image_url: OrAbsent[str] = Field(default=None, description="Where URLs are enabled.")
    embedding_input: ListOf[float] | None = Field(default=None, description="A vector.")
    modality: OrAbsent[Modality] = Field(
        default=None, description="Which vectors to search: indexes hold those of images."
    )
    num_images: int = Field(default=40, ge=1, description="Hits that come with their columns.")
    num_result_ids: OrAbsent[Annotated[int, Field(ge=1)]] = Field(
        default=None, description=f"Hits, at most {MOST_HITS}; default: num_images."
    )
    indice_name: OrAbsent[str] = Field(default=None, description="One of GET /indices-list.")
    deduplicate: bool = False
    use_mclip: bool = False


class MetadataBody(RequestBody):
    """Items whose columns are wanted."""

    ids: ListOf[str] = Field(description="As in the replies of /knn-service.", max_length=MOST_HITS)
    indice_name: OrAbsent[str] = None


class KnnHit(BaseModel):
    """A hit; those that come with their columns have these as further fields."""

    model_config = ConfigDict(extra="allow")

    id: str
    similarity: float


class ItemColumns(BaseModel):
    """An item and its columns."""

    id: str
    metadata: dict[str, Any]


class ClipRetrievalError(BaseModel):
    """The reply to a request that cannot be answered."""

    message: str


def _build(services: Services) -> ApiRoutes:
    routes = API.routes(services)

    @routes.get(
        "/indices-list", summary="The indexes' names", responses={200: {"model": list[str]}}
    )
    async def list_indices() -> Response:
        return json_reply([served.name for served in services.indexes])

    @routes.post(
        "/knn-service",
        summary="Search an index",
        responses={200: {"model": list[KnnHit]}},
        openapi_extra=json_body(KnnBody),
    )
    async def search(request: Request) -> Response:
        body = await read_body(request, KnnBody)
        served = services.indexes.get(body.indice_name)
        query = await services.queries.read(served, [await _read_term(services, body)])
        options = SearchOptions(
            k=min(body.num_result_ids or body.num_images, MOST_HITS),
            unique=_SAME if body.deduplicate else None,
            pairs=body.deduplicate,
        )
        found = await services.pools.searches.run(served.search, query, options)
        hits = [one.hit for one in found]
        shown = [hit.id for hit in hits[: body.num_images]]
        rows = await services.pools.searches.run(lambda: [served.row(key) for key in shown])
        columns = [*await _load_columns(services, rows), *({} for _ in hits[len(rows) :])]
        replies = zip(hits, columns, strict=True)
        return json_reply(
            [{**others, "id": hit.id, "similarity": hit.score} for hit, others in replies]
        )

    @routes.post(
        "/metadata",
        summary="Columns of items",
        responses={200: {"model": list[ItemColumns]}},
        openapi_extra=json_body(MetadataBody),
    )
    async def get_metadata(request: Request) -> Response:
        body = await read_body(request, MetadataBody)
        served = services.indexes.get(body.indice_name)
        rows = await services.pools.searches.run(_find_rows, served, body.ids)
        columns = await _load_columns(services, rows)
        replies = zip(body.ids, columns, strict=True)
        return json_reply([{"id": key, "metadata": one} for key, one in replies])

    return routes


async def _read_term(services: Services, body: KnnBody) -> Term:
    """Return the first of the ways to say what is searched for that a body uses."""
    if body.modality == "text":
        raise ApiError(
            400, "unsupported", "indexes hold vectors of images only: send modality 'image'"
        )
    if body.use_mclip:
        raise ApiError(400, "unsupported", "there is no multilingual CLIP here: use_mclip false")
    if body.text is not None:
        check_texts([(0, body.text, "text")])
        return Term(text=body.text)
    reference = body.image if body.image is not None else body.image_url
    if reference is not None:
        return Term(image=await services.images.load(reference, item="image"))
    if body.embedding_input:
        return Term(vector=_scale_vector(body.embedding_input))
    raise ApiError(400, "invalid_query", "give one of text, image, image_url and embedding_input")


def _scale_vector(numbers: list[float]) -> Embeddings:
    """Return (E,) float32 of the same direction, also for numbers beyond float32."""
    vector = np.asarray(numbers, np.float64)
    largest = np.abs(vector).max(initial=0.0)
    if 0 < largest < np.inf:
        vector = vector / largest
    return vector.astype(np.float32)


def _find_rows(served: ServedIndex, ids: list[str]) -> list[Row]:
    found = served.fresh().by_ids(ids)
    if missing := [key for key in ids if key not in found]:
        raise ApiError(
            404, "unknown_item", f"the index {served.name} has no item {missing[0][:64]!r}"
        )
    return [found[key][0] for key in ids]


async def _load_columns(services: Services, rows: list[Row]) -> list[dict[str, Any]]:
    """Return rows' own columns, their names, and their images where these can be had in time."""
    replies: list[dict[str, Any]] = []
    until = time.monotonic() + FILE_SECONDS
    for start in range(0, len(rows), _IMAGES_AT_ONCE):
        part = rows[start : start + _IMAGES_AT_ONCE]
        images: list[str | None] = [None] * len(part)
        if time.monotonic() < until:
            images = await gather_all(_load_thumbnail(services, row) for row in part)
        replies += map(_describe_columns, part, images)
    return replies


async def _load_thumbnail(services: Services, row: Row) -> str | None:
    """Return a small copy of a row's image; a hit whose image is moved or damaged is a hit."""
    try:
        data = await services.pools.files.run(services.thumbnails.get, row, _SIDE)
    except (ImageError, ServingError):
        return None
    return base64.b64encode(data).decode("ascii")


def _describe_columns(row: Row, image: str | None) -> dict[str, Any]:
    columns: dict[str, Any] = dict(describe_row(row)["metadata"])
    columns |= {"width": row.width, "height": row.height}
    if row.uri.startswith(("http://", "https://")) and row.member is None:
        columns.setdefault("url", row.uri)
    else:
        columns["image_path"] = row.name
    if image is not None:
        columns["image"] = image
    return columns


def _error_body(answer: ApiError, _: Exception) -> Any:
    return {"message": answer.message}


API: Final = Api(
    "clip-retrieval",
    _build,
    error_body=_error_body,
    error_model=ClipRetrievalError,
    description="ClipClient of clip-retrieval.",
    key_in_query=True,
)
