"""POST /v1/embed, /v1/similarity and /v1/classify: images and texts, without an index."""

from collections.abc import Sequence
from typing import Any, Final, Literal, Self, TypeVar

import numpy as np
from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.datastructures import FormData, UploadFile
from typing_extensions import TypeAliasType

from perception_encoder.analysis.classifiers import ImageClassifier, Prompts, ZeroShotClassifier
from perception_encoder.errors import ImageError
from perception_encoder.search.calibration import fit_labels
from perception_encoder.search.null_distribution import read_prompts
from perception_encoder.server.api.base import ApiRoutes, Services
from perception_encoder.server.api.common import (
    IMAGE,
    Dtype,
    Encoding,
    Input,
    VectorForm,
    check_field,
    embed_inputs,
    encode_for_json,
    encode_npy,
    names_of,
    shape_embeddings,
)
from perception_encoder.server.api.native.replies import ClassifyReply, EmbedReply, SimilarityReply
from perception_encoder.server.core.model_worker import ModelWorker
from perception_encoder.server.http.errors import ApiError, build_item_error, build_items_error
from perception_encoder.server.http.replies import BINARY, json_reply
from perception_encoder.server.http.requests import (
    Dimensions,
    ListOf,
    RequestBody,
    either_body,
    form_body,
    json_body,
    parse_body,
    read_body,
    read_form,
    validate,
)
from perception_encoder.server.options import MIB
from perception_encoder.types import Embeddings, PreprocessName
from perception_encoder.vectors import cosine_similarity

ItemT = TypeVar("ItemT")
OnError = TypeAliasType("OnError", Literal["fail", "report"])

_FORM: Final = {
    "type": "object",
    "description": "NativeEmbedBody as a form, with images as files.",
    "properties": {
        "images": {"type": "array", "items": {"type": "string", "format": "binary"}},
        "texts": {"type": "array", "items": {"type": "string"}},
        "model": {"type": "string"},
        "dimensions": {"type": "integer", "minimum": 1},
        "dtype": {"$ref": "#/components/schemas/Dtype"},
        "encoding": {"$ref": "#/components/schemas/Encoding"},
        "on_error": {"$ref": "#/components/schemas/OnError"},
    },
}
# Also so that openapi-python-client's function for two kinds of bodies can be imported: it lacks an
# import where an operation has no optional parameter.
_REQUEST_ID: Final = {
    "name": "X-Request-ID",
    "in": "header",
    "required": False,
    "description": "Comes back in the reply and stands in the server's log.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
}
_MAX_CHARACTERS: Final = 64 * MIB  # of prompts, and of a reply: as much as a body may have
_CHARACTERS_OF_A_SCORE: Final = 64


class NativeEmbedBody(RequestBody):
    """What is to be embedded, and how the vectors are wanted."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {"texts": ["a red heart"], "images": [IMAGE], "encoding": "base64"}
        },
    )

    model: str | None = Field(
        default=None, description="One of GET /v1/models; default: the first."
    )
    texts: ListOf[str] = Field(default=[], description="Words; what is past the context is cut.")
    images: ListOf[str] = Field(default=[], description="Base64, data URIs, or URLs where enabled.")
    dimensions: Dimensions = Field(
        default=None, description="Cut, then brought to unit length; 0 or null keeps all."
    )
    dtype: Dtype = Field(default="float32", description="int8: scaled so that the largest is 127.")
    encoding: Encoding = Field(
        default="float", description="npy: the reply is a file, images first."
    )
    on_error: OnError = Field(
        default="fail",
        description="report: 200 although some images are bad; those have an error.",
    )


class _Parts(BaseModel):
    """A request's body as it came, whatever its content type."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    options: NativeEmbedBody
    files: list[bytes] = []


def add_routes(routes: ApiRoutes, services: Services) -> None:
    """Add the route."""

    @routes.post(
        "/v1/embed",
        summary="Images and texts to vectors",
        openapi_extra={
            "parameters": [_REQUEST_ID],
            **either_body(json_body(NativeEmbedBody), form_body("NativeEmbedForm", _FORM)),
        },
        responses={
            200: {
                "model": EmbedReply,
                "description": "Embeddings of unit length, images first.",
                "content": {
                    "application/json": {
                        "example": {
                            "model": "pe-nano",
                            "dimensions": 192,
                            "dtype": "float32",
                            "data": [{"type": "text", "index": 0, "embedding": [0.02, -0.11]}],
                        }
                    },
                    "application/octet-stream": BINARY,
                },
            },
            400: {"description": "An item cannot be used; `error.items` names each."},
        },
    )
    async def embed(request: Request) -> Response:
        parts = await _read(request, services)
        body = parts.options
        check_field("texts", body.texts)
        services.check_count(len(body.texts) + len(body.images) + len(parts.files), "items")
        async with services.served_models.use(body.model) as worker:
            loaded = await services.load_images([*parts.files, *body.images])
            embedded = await worker.embed_images(loaded)
            if embedded.errors and (body.on_error == "fail" or body.encoding == "npy"):
                raise build_items_error(embedded.errors, len(loaded))
            form = VectorForm(body.dimensions, body.dtype)
            images = shape_embeddings(embedded.vectors, form)
            texts = (
                shape_embeddings(await worker.embed_texts(body.texts), form)
                if body.texts
                else images[:0]
            )
        if body.encoding == "npy":
            content = encode_npy(np.concatenate([images, texts]))
            return Response(content, media_type="application/octet-stream")
        data = [
            _build_entry("image", index, vector, body.encoding, embedded.errors.get(index))
            for index, vector in enumerate(images)
        ]
        data += [
            _build_entry("text", index, vector, body.encoding, None)
            for index, vector in enumerate(texts)
        ]
        dimensions = images.shape[1]
        return json_reply(
            {"model": worker.name, "dimensions": dimensions, "dtype": body.dtype, "data": data}
        )


def _build_entry(
    kind: str, index: int, vector: Any, encoding: Encoding, err: ImageError | None
) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": kind, "index": index}
    if err is None:
        return {**entry, "embedding": encode_for_json(vector, encoding)}
    problem = build_item_error(index, err)
    return {
        **entry,
        "embedding": None,
        "error": {"code": problem.code, "message": problem.message},
    }


async def _read(request: Request, services: Services) -> _Parts:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        parts = await _read_form_parts(await read_form(request, services.settings.access))
        if not (parts.files or parts.options.texts or parts.options.images):
            raise ApiError(400, "invalid_request", "the form has neither texts nor images")
        return parts
    data = await request.body()
    if not data:
        raise ApiError(400, "invalid_request", "the request has no body; send texts or images")
    if kind.startswith("image/"):
        return _Parts(options=NativeEmbedBody(), files=[data])
    return _Parts(options=parse_body(NativeEmbedBody, data))


async def _read_form_parts(form: FormData) -> _Parts:
    """Read a form's fields and files, and close it."""
    fields: dict[str, Any] = {}
    files: list[bytes] = []
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name not in ("images", "images[]", "image", "file"):
                    message = f"field {name[:100]!r}: files come as 'images'"
                    raise ApiError(400, "invalid_request", message)
                files.append(await value.read())
            elif name in ("texts", "texts[]", "images", "images[]"):
                fields.setdefault(name.removesuffix("[]"), []).append(value)
            elif value != "" and (name, value) != ("dimensions", "0"):  # else it is not given
                fields[name] = value
    finally:
        await form.close()
    return _Parts(options=validate(NativeEmbedBody.model_validate, fields), files=files)


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


class LabelFields(RequestBody):
    """Labels of which one fits an image best; or a classifier, which has labels."""

    labels: ListOf[str] = Field(default=[], description="At least one, or a classifier.")
    templates: ListOf[str] = Field(
        default=["{}"],
        min_length=1,
        max_length=100,
        description="Sentences with {} for the label; a label's vector is the mean of its own.",
    )
    classifier: str | None = Field(
        default=None, description="One of GET /v1/classifiers, in place of labels."
    )

    @model_validator(mode="after")
    def _has_labels(self) -> Self:
        if bool(self.labels) == (self.classifier is not None):
            raise ValueError("give labels, or a classifier")
        return self


class ClassifyBody(LabelFields):
    """Images, and labels of which one fits each best; or a classifier, which has labels."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"images": [IMAGE], "labels": ["cat", "dog"]}},
    )

    model: str | None = None
    images: ListOf[str] = Field(min_length=1, description="Base64, data URIs, or URLs.")


def add_compare_routes(routes: ApiRoutes, services: Services) -> None:
    """Add the routes."""

    @routes.post(
        "/v1/similarity",
        summary="Cosines of two lists of images and texts",
        responses={200: {"model": SimilarityReply}},
        openapi_extra=json_body(SimilarityBody),
    )
    async def compute_similarity(request: Request) -> Response:
        body = await read_body(request, SimilarityBody)
        services.check_count(len(body.a) + len(body.b), "items")
        names = names_of("a", len(body.a)) + names_of("b", len(body.b))
        async with services.served_models.use(body.model) as worker:
            embedded = await embed_inputs(services, worker, [*body.a, *body.b], names)
        vectors = embedded.vectors
        scores = cosine_similarity(vectors[: len(body.a)], vectors[len(body.a) :])
        return json_reply({"model": worker.name, "similarity": scores})

    @routes.post(
        "/v1/classify",
        summary="Which label fits each image",
        description=(
            "`probability` is the softmax over the labels: the best of them is likely even where "
            "none fits. `fit` compares each label with unrelated prompts: strong, weak or none. "
            "With a `classifier` of `pe teach`, `applies` says which labels the image gets. A bad "
            "image has an `error`."
        ),
        responses={200: {"model": ClassifyReply}},
        openapi_extra=json_body(ClassifyBody),
    )
    async def classify(request: Request) -> Response:
        body = await read_body(request, ClassifyBody)
        return json_reply(await classify_images(services, body, body.images, body.model))


async def classify_images(
    services: Services, fields: LabelFields, references: Sequence[str | bytes], model: str | None
) -> dict[str, Any]:
    """Return the labels of images as `ClassifyReply` describes them.

    Args:
        services: of the server.
        fields: the labels, or a classifier.
        references: the images; see `Services.load_images`.
        model: its name; None takes the classifier's, or the default.

    Raises:
        ApiError, PerceptionEncoderError: a part of the request cannot be used.
    """
    check_field("labels", fields.labels)
    check_field("templates", fields.templates)
    services.check_count(len(fields.labels) * len(fields.templates), "labels times templates")
    taught = None if fields.classifier is None else services.classifiers.get(fields.classifier)
    labels = fields.labels if taught is None else taught.labels
    _check_reply(labels, len(references))
    loaded = await services.load_images(references)
    name = model if taught is None else model or taught.identity.model_id
    prompts: Embeddings | None = None
    preprocess: PreprocessName | None = None
    classifier: ImageClassifier
    async with services.served_models.use(name) as worker:
        if taught is None:
            classifier = await _classifier(worker, fields.labels, fields.templates)
            prompts = await services.queries.embed_once(worker, read_prompts)
        else:
            preprocess = taught.identity.preprocess
            taught.check(worker.prepared_by(preprocess).identity)
            classifier = taught
        embedded = await worker.embed_images(loaded, preprocess=preprocess)
    found = classifier.classify(embedded.vectors)
    fits = None if prompts is None else fit_labels(found.scores, embedded.vectors, prompts)
    orders = found.order.tolist()
    results: list[dict[str, Any]] = []
    for index in range(len(loaded)):
        if index in embedded.errors:
            problem = build_item_error(index, embedded.errors[index])
            error = {"code": problem.code, "message": problem.message}
            results.append({"index": index, "labels": [], "error": error})
            continue
        results.append(
            {
                "index": index,
                "labels": [
                    {
                        "label": labels[n],
                        "score": found.scores[index, n],
                        "probability": found.probabilities[index, n],
                        "fit": None if fits is None else fits[index][n],
                        "applies": None if found.applies is None else found.applies[index, n],
                    }
                    for n in orders[index]
                ],
            }
        )
    return {"model": worker.name, "results": results}


def _check_reply(labels: Sequence[str], num_images: int) -> None:
    """Refuse a request whose reply would be out of all proportion: it names all labels each time.

    Raises:
        ApiError: 400.
    """
    one = sum(map(len, labels)) + _CHARACTERS_OF_A_SCORE * len(labels)
    if one * num_images > _MAX_CHARACTERS:
        message = (
            f"the reply would have more than {_MAX_CHARACTERS:,} characters ({num_images} "
            f"images times {len(labels)} labels); send fewer images or labels at once"
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
