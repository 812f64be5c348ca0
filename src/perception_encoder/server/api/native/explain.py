"""POST /v1/explain: which parts of an image make it similar to texts."""

from __future__ import annotations

import io
from typing import Any, Final, Literal, Self

from fastapi import Request, Response
from pydantic import ConfigDict, Field, model_validator

from perception_encoder.analysis.relevance_maps import MAX_TEXTS, draw_relevance
from perception_encoder.embedder.relevance import Relevance
from perception_encoder.errors import ImageError, QueryError
from perception_encoder.server.api.base import ApiRoutes, Services
from perception_encoder.server.api.common import IMAGE, check_field
from perception_encoder.server.api.native.replies import ExplainReply
from perception_encoder.server.core.images import LoadedImage
from perception_encoder.server.core.indexes import ServedIndex
from perception_encoder.server.http.errors import ApiError
from perception_encoder.server.http.replies import BINARY, json_reply
from perception_encoder.server.http.requests import ListOf, RequestBody, json_body, read_body

_DECIMALS: Final = 6
_PNG: Final = "image/png"


class ExplainBody(RequestBody):
    """An image, or an item of an index, and texts."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"image": IMAGE, "texts": ["a cat"]}}
    )

    model: str | None = Field(
        default=None, description="One of GET /v1/models; default: the index's for an item."
    )
    image: str | None = Field(default=None, description="Base64, a data URI, or a URL if enabled.")
    item: str | None = Field(default=None, description="The id of an item, in place of an image.")
    index: str | None = Field(
        default=None, description="Of the item: one of GET /v1/indexes; default: the first."
    )
    texts: ListOf[str] = Field(min_length=1, max_length=MAX_TEXTS)
    format: Literal["json", "png"] | None = Field(
        default=None, description="Default: png if `Accept` is image/png, else json."
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.image is None) == (self.item is None):
            raise ValueError("give either image or item")
        return self


def add_routes(routes: ApiRoutes, services: Services) -> None:
    """Add the route."""

    @routes.post(
        "/v1/explain",
        summary="Which parts of an image make it similar to texts",
        description=(
            "`map` has a row of numbers for each row of patches: what each adds to `score`, the "
            "cosine, negative where it lowers it. Their sum and `rest`, which no patch adds, are "
            "the score. `region` is the part of the image that the map covers, as fractions: "
            "left, top, right, bottom. As PNG: the maps over the image."
        ),
        response_class=Response,
        responses={
            200: {"model": ExplainReply, "content": {_PNG: BINARY}},
            400: {
                "description": "The image or a text cannot be used, or the model cannot explain."
            },
            404: {"description": "No such item, or its image is gone."},
        },
        openapi_extra=json_body(ExplainBody),
    )
    async def explain(request: Request) -> Response:
        body = await read_body(request, ExplainBody)
        check_field("texts", body.texts)
        name = body.model
        if body.item is not None:
            served = services.indexes.get(body.index)
            image: LoadedImage = await _read_item(services, served, body.item)
            if name is None:
                model_id = served.identity.model_id
                name = services.served_models.text_model_of(model_id) or model_id
        else:
            (loaded,) = await services.load_images([body.image or ""], ["image"])
            if isinstance(loaded, ImageError):
                raise loaded
            image = loaded
        async with services.served_models.use(name) as worker:
            found = await worker.explain(image, body.texts, item="image")
        wanted = body.format or ("png" if _accepts_png(request) else "json")
        if wanted == "png":
            content = await services.pools.files.run(_draw, image, found, body.texts)
            return Response(content, media_type=_PNG)
        return json_reply({"model": worker.name, **_describe(found, body.texts)})


async def _read_item(services: Services, served: ServedIndex, item: str) -> bytes:
    try:
        row = await services.pools.searches.run(served.row, item)
        return await services.pools.files.run(services.thumbnails.original, row)
    except QueryError as err:
        raise ApiError(404, "unknown_item", str(err)) from err
    except ImageError as err:
        raise ApiError(404, "no_image", str(err)) from err


def _accepts_png(request: Request) -> bool:
    accepted = request.headers.get("accept", "")
    return any(one.partition(";")[0].strip().lower() == _PNG for one in accepted.split(","))


def _draw(image: LoadedImage, found: Relevance, texts: list[str]) -> bytes:
    out = io.BytesIO()
    draw_relevance(image, found, texts).save(out, "PNG")
    return out.getvalue()


def _describe(found: Relevance, texts: list[str]) -> dict[str, Any]:
    def rounded(value: float) -> float:
        return round(float(value), _DECIMALS)

    scores, rests = found.scores, found.rest
    return {
        "region": [rounded(edge) for edge in found.region],
        "explanations": [
            {
                "text": text,
                "score": rounded(scores[n]),
                "rest": rounded(rests[n]),
                "map": [[rounded(value) for value in row] for row in found.maps[n]],
            }
            for n, text in enumerate(texts)
        ],
    }
