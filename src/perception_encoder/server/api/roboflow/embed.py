"""The routes embed_image, embed_text and compare, for Perception Encoder and CLIP models."""

from collections.abc import Sequence
from typing import Final

from fastapi import Request, Response

from perception_encoder.errors import (
    ImageEmptyError,
    ImageError,
    ImageFetchError,
    ImageReferenceError,
    ImageTooLargeError,
    PerceptionEncoderError,
)
from perception_encoder.server.api.base import ApiRoutes, Services
from perception_encoder.server.api.common import check_texts, items_of, names_of
from perception_encoder.server.api.roboflow.models import Kind, lend, reply
from perception_encoder.server.api.roboflow.schemas import (
    CompareBody,
    EmbedImageBody,
    EmbedTextBody,
    ImageObject,
    InferenceEmbeddings,
    InferenceSimilarity,
)
from perception_encoder.server.core.images import name_images
from perception_encoder.server.core.model_worker import ModelWorker
from perception_encoder.server.http.errors import ApiError, build_item_error
from perception_encoder.server.http.requests import json_body, read_body
from perception_encoder.types import Embeddings
from perception_encoder.vectors import cosine_similarity

_REFUSED: Final = {
    "numpy": "NumPy image type is not supported in this configuration: it is a pickle, which can "
    "run code; send the image as base64.",
    "numpy_object": "NumPy objects cannot be sent as JSON; send the image as base64.",
    "pil": "PIL images cannot be sent as JSON; send the image as base64.",
    "multipart": "Multipart images are not taken here; send the image as base64.",
    "file": "Loading images from local filesystem is disabled.",
}
_FETCH_REASONS: Final = {
    "scheme": "Providing images via non https:// URL is not supported in this configuration.",
    "host": "Providing images via URL without FQDN is not supported in this configuration.",
    "kind": "Data pointed by URL could not be decoded into image.",
}


async def embed_images(
    services: Services,
    worker: ModelWorker,
    images: Sequence[ImageObject | str],
    names: Sequence[str],
) -> Embeddings:
    """Return (N, E) float32 of unit length; errors call each image by its name.

    Raises:
        ApiError: 400, there are none, too many, or some cannot be used.
    """
    check_count(services, len(images), "image")
    references = [_read_reference(image) for image in images]
    loaded = await services.load_images(
        [one if isinstance(one, str) else "" for one in references], names
    )
    embedded = await worker.embed_images(
        [
            data if isinstance(reference, str) else reference
            for reference, data in zip(references, loaded, strict=True)
        ],
        names,
    )
    if not embedded.errors:
        return embedded.vectors
    first = min(embedded.errors)
    cause = _describe_cause(embedded.errors[first], _is_url(images[first]))
    place = f" (image {first} of {len(images)})" if len(images) > 1 else ""
    raise ApiError(
        400,
        build_item_error(first, embedded.errors[first]).code,
        f"Could not load input image. Cause: {cause}{place}",
        items=tuple(build_item_error(n, err) for n, err in sorted(embedded.errors.items())),
    )


def check_count(services: Services, count: int, what: str) -> None:
    """Refuse a request of no items or of too many.

    Raises:
        ApiError: 400.
    """
    if not count:
        raise ApiError(400, "no_items", f"At least one {what} is required")
    most = services.settings.access.max_items
    if count > most:
        message = f"The maximum number of {what}s that can be embedded at once is {most}"
        raise ApiError(400, "too_many_items", message)


def _read_reference(image: ImageObject | str) -> str | ImageError:
    """Return what `Services.load_images` takes, or why there is nothing of that kind."""
    if isinstance(image, str):
        return image
    kind = image.type.lower()
    if kind in _REFUSED:
        return ImageReferenceError(_REFUSED[kind], reason="kind")
    if kind not in ("base64", "url"):
        message = "Image declaration contains not recognized image type."
        return ImageReferenceError(message, reason="kind")
    if not isinstance(image.value, str):
        return ImageReferenceError(f"The value of a {kind} image must be a string.", reason="kind")
    if kind == "url" and not _is_url(image):
        return ImageFetchError("the value is not a URL", reason="host")
    return image.value


def _is_url(image: ImageObject | str) -> bool:
    value = image if isinstance(image, str) else image.value
    return isinstance(value, str) and "://" in value[:32]


def _describe_cause(err: PerceptionEncoderError, is_url: bool) -> str:
    """Return the words that clients of this API know, and ours where those say less."""
    if isinstance(err, ImageReferenceError) and err.reason == "kind":
        return str(err)
    if isinstance(err, ImageEmptyError):
        return "Empty image payload."
    if isinstance(err, ImageFetchError):
        known = _FETCH_REASONS.get(err.reason)
        return f"{known} ({err})" if known else f"{err}."
    if isinstance(err, ImageReferenceError):
        is_malformed = err.reason in ("base64", "data URI")
        return f"Malformed base64 input image. ({err})" if is_malformed else f"{err}."
    if isinstance(err, ImageTooLargeError):
        return f"{err}."
    known = _FETCH_REASONS["kind"] if is_url else "Data is not image."
    return f"{known} ({err})"


def add_routes(routes: ApiRoutes, services: Services, kind: Kind) -> None:
    """Add the routes of one kind of model."""

    @routes.post(
        f"/{kind.prefix}/embed_image",
        operation_id=f"{kind.prefix}_embed_image",
        summary="Images to embeddings",
        responses={200: {"model": InferenceEmbeddings}},
        openapi_extra=json_body(EmbedImageBody),
    )
    async def embed_image(request: Request) -> Response:
        body = await read_body(request, EmbedImageBody)
        images = body.image if isinstance(body.image, list) else [body.image]
        names = name_images(len(images))
        async with lend(services, kind, body) as lent:
            vectors = await embed_images(services, lent.worker, images, names)
            return reply(request, body, lent, embeddings=vectors)

    @routes.post(
        f"/{kind.prefix}/embed_text",
        operation_id=f"{kind.prefix}_embed_text",
        summary="Texts to embeddings",
        responses={200: {"model": InferenceEmbeddings}},
        openapi_extra=json_body(EmbedTextBody),
    )
    async def embed_text(request: Request) -> Response:
        body = await read_body(request, EmbedTextBody)
        texts, names = items_of("text", body.text)
        check_count(services, len(texts), "text")
        check_texts(zip(range(len(texts)), texts, names, strict=True))
        async with lend(services, kind, body) as lent:
            vectors = await lent.worker.embed_texts(texts)
            return reply(request, body, lent, embeddings=vectors)


def add_compare_route(routes: ApiRoutes, services: Services, kind: Kind) -> None:
    """Add the route of one kind of model."""

    @routes.post(
        f"/{kind.prefix}/compare",
        operation_id=f"{kind.prefix}_compare",
        summary="One image or text against others",
        description="Plain cosines: a list in the order of the prompts, or one for each name.",
        responses={200: {"model": InferenceSimilarity}},
        openapi_extra=json_body(CompareBody),
    )
    async def compare(request: Request) -> Response:
        body = await read_body(request, CompareBody)
        keys, prompts, names = _read_prompts(body)
        async with lend(services, kind, body) as lent:
            subject = await _embed(services, lent.worker, [body.subject], ["subject"], body)
            others = await _embed(services, lent.worker, prompts, names, body)
            similarity = cosine_similarity(subject, others)[0]
            return reply(
                request,
                body,
                lent,
                similarity=similarity
                if keys is None
                else dict(zip(keys, similarity.tolist(), strict=True)),
                parent_id=None,
            )


def _read_prompts(
    body: CompareBody,
) -> tuple[list[str] | None, Sequence[ImageObject | str], list[str]]:
    """Return the prompts' keys, where they have any, the prompts, and what errors call each."""
    if isinstance(body.prompt, dict):
        keys = list(body.prompt)
        return keys, list(body.prompt.values()), [f"prompt[{key[:100]!r}]" for key in keys]
    if isinstance(body.prompt, list):
        return None, body.prompt, names_of("prompt", len(body.prompt))
    return None, [body.prompt], ["prompt"]


async def _embed(
    services: Services,
    worker: ModelWorker,
    items: Sequence[ImageObject | str],
    names: Sequence[str],
    body: CompareBody,
) -> Embeddings:
    """Embed one side of the comparison, whose type the body says."""
    role = "subject" if names == ["subject"] else "prompt"
    kind = body.subject_type if role == "subject" else body.prompt_type
    if kind == "image":
        return await embed_images(services, worker, items, names)
    if kind != "text":
        message = f"{role}_type must be either 'image' or 'text', but got {kind[:100]!r}"
        raise ApiError(400, "invalid_request", message)
    check_count(services, len(items), "text")
    texts = [item for item in items if isinstance(item, str)]
    if len(texts) < len(items):
        message = f"{role}_type is 'text', but the {role} is an image: send {role}_type 'image'"
        raise ApiError(400, "invalid_request", message)
    check_texts(zip(range(len(texts)), texts, names, strict=True))
    return await worker.embed_texts(texts)
