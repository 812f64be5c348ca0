"""POST /v1/similarity and /v1/classify: what fits what, without an index."""

from typing import Any, Final

from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict, Field

from perception_encoder.analysis.classifiers import Prompts, ZeroShotClassifier
from perception_encoder.search.calibration import fit_labels
from perception_encoder.search.null_distribution import background_prompts
from perception_encoder.server.api.native.embed import (
    IMAGE,
    Input,
    check_field,
    embed_inputs,
    names_of,
)
from perception_encoder.server.api.native.replies import ClassifyReply, SimilarityReply
from perception_encoder.server.core.model_worker import ModelWorker
from perception_encoder.server.http.errors import ApiError, item_problem
from perception_encoder.server.http.requests import (
    ListOf,
    RequestBody,
    json_body,
    json_reply,
    read_body,
)
from perception_encoder.server.options import MIB
from perception_encoder.server.services import Services
from perception_encoder.vectors import cosine_similarity

_MAX_CHARACTERS: Final = 64 * MIB  # of prompts, and of a reply: as much as a body may have
_CHARACTERS_OF_A_SCORE: Final = 64


class SimilarityBody(RequestBody):
    """Two lists; every one of the first is compared with every one of the second."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {"a": [{"image": IMAGE}], "b": [{"text": "a cat"}, {"text": "a dog"}]}
        },
    )

    model: str | None = None
    a: ListOf[Input] = Field(min_length=1)
    b: ListOf[Input] = Field(min_length=1)


class ClassifyBody(RequestBody):
    """Images, and labels of which one fits each best."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"images": [IMAGE], "labels": ["cat", "dog"]}},
    )

    model: str | None = None
    images: ListOf[str] = Field(min_length=1, description="Base64, data URIs, or URLs.")
    labels: ListOf[str] = Field(min_length=1)
    templates: ListOf[str] = Field(
        default=["{}"],
        min_length=1,
        max_length=100,
        description="Sentences with {} for the label; a label's vector is the mean of its own.",
    )


def add_routes(router: APIRouter, services: Services) -> None:
    """Add the routes."""

    @router.post(
        "/v1/similarity",
        summary="Cosines of two lists of images and texts",
        responses={200: {"model": SimilarityReply}},
        openapi_extra=json_body(SimilarityBody),
    )
    async def similarity(request: Request) -> Response:
        body = await read_body(request, SimilarityBody)
        services.check_count(len(body.a) + len(body.b), "items")
        names = names_of("a", len(body.a)) + names_of("b", len(body.b))
        async with services.served_models.use(body.model) as worker:
            vectors = await embed_inputs(services, worker, [*body.a, *body.b], names)
        scores = cosine_similarity(vectors[: len(body.a)], vectors[len(body.a) :])
        return json_reply({"model": worker.name, "similarity": scores})

    @router.post(
        "/v1/classify",
        summary="Which label fits each image",
        description=(
            "`probability` is the softmax over the labels: the best of them is likely even where "
            "none fits. `fit` compares each label with unrelated prompts: strong, weak or none. A "
            "bad image has an `error`."
        ),
        responses={200: {"model": ClassifyReply}},
        openapi_extra=json_body(ClassifyBody),
    )
    async def classify(request: Request) -> Response:
        body = await read_body(request, ClassifyBody)
        check_field("labels", body.labels)
        check_field("templates", body.templates)
        services.check_count(len(body.labels) * len(body.templates), "labels times templates")
        _check_reply(body)
        loaded = await services.load_images(body.images)
        async with services.served_models.use(body.model) as worker:
            classifier = await _classifier(worker, body.labels, body.templates)
            embedded = await worker.embed_images(loaded)
            prompts = await services.queries.embed_once(worker, background_prompts)
        found = classifier.classify(embedded.vectors)
        fits = None if prompts is None else fit_labels(found.scores, embedded.vectors, prompts)
        orders = found.order.tolist()
        results: list[dict[str, Any]] = []
        for index in range(len(loaded)):
            if index in embedded.errors:
                problem = item_problem(index, embedded.errors[index])
                error = {"code": problem.code, "message": problem.message}
                results.append({"index": index, "labels": [], "error": error})
                continue
            results.append(
                {
                    "index": index,
                    "labels": [
                        {
                            "label": body.labels[n],
                            "score": found.scores[index, n],
                            "probability": found.probabilities[index, n],
                            "fit": None if fits is None else fits[index][n],
                        }
                        for n in orders[index]
                    ],
                }
            )
        return json_reply({"model": worker.name, "results": results})


def _check_reply(body: ClassifyBody) -> None:
    """Refuse a request whose reply would be out of all proportion: it names all labels each time.

    Raises:
        ApiError: 400.
    """
    one = sum(map(len, body.labels)) + _CHARACTERS_OF_A_SCORE * len(body.labels)
    if one * len(body.images) > _MAX_CHARACTERS:
        message = (
            f"the reply would have more than {_MAX_CHARACTERS:,} characters ({len(body.images)} "
            f"images times {len(body.labels)} labels); send fewer images or labels at once"
        )
        raise ApiError(400, "too_large", message)


async def _classifier(
    worker: ModelWorker, labels: list[str], templates: list[str]
) -> ZeroShotClassifier:
    """Embed the labels in the worker's batches."""
    if not all("{}" in template for template in templates):
        raise ApiError(400, "invalid_request", "templates: each needs {} where the label goes")
    if sum(map(len, labels)) * len(templates) > _MAX_CHARACTERS:
        message = f"labels times templates: more than {_MAX_CHARACTERS:,} characters; send fewer"
        raise ApiError(400, "too_large", message)
    prompts = Prompts.of(labels, templates)
    vectors = await worker.embed_texts(prompts.texts)
    return ZeroShotClassifier(prompts, vectors, worker.logit_scale)
