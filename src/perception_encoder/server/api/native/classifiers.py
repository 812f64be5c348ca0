"""GET /v1/classifiers and POST /v1/teach: classifiers that learned from examples."""

from dataclasses import asdict
from typing import Annotated, Final

from fastapi import Request, Response
from pydantic import ConfigDict, Field

from perception_encoder.analysis.classifier_file import MAX_LABEL_CHARACTERS
from perception_encoder.server.api.base import ApiRoutes, Services
from perception_encoder.server.api.common import check_field
from perception_encoder.server.api.native.replies import ClassifiersReply
from perception_encoder.server.core.classifiers import teach
from perception_encoder.server.http.errors import ApiError
from perception_encoder.server.http.replies import BINARY, json_reply
from perception_encoder.server.http.requests import ListOf, RequestBody, json_body, read_body

_MAX_LABELS: Final = 100


class TeachBody(RequestBody):
    """Items of an index, by the label that they are examples of."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"examples": {"cat": ["0" * 32]}, "none": ["1" * 32]}},
    )

    index: str | None = Field(
        default=None, description="One of GET /v1/indexes; default: the first."
    )
    examples: dict[
        Annotated[str, Field(min_length=1, max_length=MAX_LABEL_CHARACTERS)], ListOf[str]
    ] = Field(min_length=1, max_length=_MAX_LABELS, description="Ids of items by label.")
    none: ListOf[str] = Field(default=[], description="Ids of items that have none of the labels.")


def add_routes(routes: ApiRoutes, services: Services) -> None:
    """Add the routes."""

    @routes.get(
        "/v1/classifiers",
        summary="The classifiers of this server",
        responses={200: {"model": ClassifiersReply}},
    )
    async def list_classifiers() -> Response:
        return json_reply(
            {
                "classifiers": [
                    {
                        "name": name,
                        "labels": one.labels,
                        "model": one.identity.model_id,
                        "is_multi_label": one.is_multi_label,
                        "cutoff": one.cutoff,
                        "quality": None if one.quality is None else asdict(one.quality),
                    }
                    for name, one in services.classifiers
                ]
            }
        )

    @routes.post(
        "/v1/teach",
        summary="A classifier from marked items",
        description=(
            "The reply is a file for `pe classify --classifier` and `pe serve --classifier`. It "
            "holds cross-validated scores."
        ),
        response_class=Response,
        responses={200: {"content": {"application/octet-stream": BINARY}}},
        openapi_extra=json_body(TeachBody),
    )
    async def teach_from_marks(request: Request) -> Response:
        body = await read_body(request, TeachBody)
        check_field("examples", list(body.examples))
        services.check_count(sum(map(len, body.examples.values())) + len(body.none), "examples")
        if not all(body.examples.values()):
            raise ApiError(400, "invalid_request", "examples: each label needs at least one")
        content = await teach(
            services.indexes.get(body.index),
            body.examples,
            body.none,
            searches=services.pools.searches,
            served_models=services.served_models,
        )
        headers = {"Content-Disposition": 'attachment; filename="classifier.npz"'}
        return Response(content, media_type="application/octet-stream", headers=headers)
