"""POST /…/embed_image and /…/embed_text."""

from fastapi import APIRouter, Request, Response

from perception_encoder.server.bodies import json_body, read_body
from perception_encoder.server.core.engine import image_names
from perception_encoder.server.dialects.native.inputs import check_texts, items_of
from perception_encoder.server.dialects.roboflow.bodies import EmbedImageBody, EmbedTextBody
from perception_encoder.server.dialects.roboflow.models import Kind, lend
from perception_encoder.server.dialects.roboflow.pictures import check_count, embed_pictures
from perception_encoder.server.dialects.roboflow.replies import reply
from perception_encoder.server.dialects.roboflow.schemas import InferenceEmbeddings
from perception_encoder.server.services import Services


def add_routes(router: APIRouter, services: Services, kind: Kind) -> None:
    """Add the routes of one kind of model."""

    @router.post(
        f"/{kind.prefix}/embed_image",
        summary="Images to embeddings",
        responses={200: {"model": InferenceEmbeddings}},
        openapi_extra=json_body(EmbedImageBody),
    )
    async def embed_image(request: Request) -> Response:
        body = await read_body(request, EmbedImageBody)
        images = body.image if isinstance(body.image, list) else [body.image]
        names = image_names(len(images))
        async with lend(services, kind, body) as lent:
            vectors = await embed_pictures(services, lent.engine, images, names)
            return reply(request, body, lent, embeddings=vectors)

    @router.post(
        f"/{kind.prefix}/embed_text",
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
            vectors = await lent.engine.embed_texts(texts)
            return reply(request, body, lent, embeddings=vectors)
