"""POST /…/embed_image and /…/embed_text."""

from fastapi import APIRouter, Request, Response

from perception_encoder.server.dialects.roboflow.bodies import EmbedImageBody, EmbedTextBody
from perception_encoder.server.dialects.roboflow.models import Kind, lend
from perception_encoder.server.dialects.roboflow.pictures import check_count, embed_pictures
from perception_encoder.server.dialects.roboflow.replies import admit, reply
from perception_encoder.server.services import Services


def add_routes(router: APIRouter, services: Services, kind: Kind) -> None:
    """Add the routes of one kind of model."""

    @router.post(f"/{kind.prefix}/embed_image", summary="Pictures to vectors")
    async def embed_image(request: Request, body: EmbedImageBody) -> Response:
        admit(services, request, body.api_key)
        pictures = body.image if isinstance(body.image, list) else [body.image]
        async with lend(services, kind, body) as lent:
            vectors = await embed_pictures(services, lent.engine, pictures)
            return reply(request, body, lent, embeddings=vectors)

    @router.post(f"/{kind.prefix}/embed_text", summary="Texts to vectors")
    async def embed_text(request: Request, body: EmbedTextBody) -> Response:
        admit(services, request, body.api_key)
        texts = body.text if isinstance(body.text, list) else [body.text]
        check_count(services, len(texts), "text")
        async with lend(services, kind, body) as lent:
            vectors = await lent.engine.embed_texts(texts)
            return reply(request, body, lent, embeddings=vectors)
