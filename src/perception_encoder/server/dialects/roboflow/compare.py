"""POST /…/compare: the cosine of one picture or text with each of others."""

from collections.abc import Sequence

from fastapi import APIRouter, Request, Response

from perception_encoder.embedder.vectors import cosine
from perception_encoder.server.core.engine import Engine
from perception_encoder.server.dialects.roboflow.bodies import CompareBody, ImageObject
from perception_encoder.server.dialects.roboflow.models import Kind, lend
from perception_encoder.server.dialects.roboflow.pictures import check_count, embed_pictures
from perception_encoder.server.dialects.roboflow.replies import admit, reply
from perception_encoder.server.problems import ApiError
from perception_encoder.server.services import Services
from perception_encoder.types import Embeddings


def add_routes(router: APIRouter, services: Services, kind: Kind) -> None:
    """Add the route of one kind of model."""

    @router.post(
        f"/{kind.prefix}/compare",
        summary="One picture or text against others",
        description="Plain cosines: a list in the order of the prompts, or one for each name.",
    )
    async def compare(request: Request, body: CompareBody) -> Response:
        admit(services, request, body.api_key)
        names, prompts = _prompts(body)
        async with lend(services, kind, body) as lent:
            subject = await _embed(services, lent.engine, [body.subject], "subject", body)
            others = await _embed(services, lent.engine, prompts, "prompt", body)
            similarity = cosine(subject, others)[0]
            return reply(
                request,
                body,
                lent,
                similarity=similarity
                if names is None
                else dict(zip(names, similarity.tolist(), strict=True)),
                parent_id=None,
            )


def _prompts(body: CompareBody) -> tuple[list[str] | None, Sequence[ImageObject | str]]:
    if isinstance(body.prompt, dict):
        return list(body.prompt), list(body.prompt.values())
    return None, body.prompt if isinstance(body.prompt, list) else [body.prompt]


async def _embed(
    services: Services,
    engine: Engine,
    items: Sequence[ImageObject | str],
    role: str,
    body: CompareBody,
) -> Embeddings:
    """Embed one side of the comparison, whose type the body says."""
    kind = body.subject_type if role == "subject" else body.prompt_type
    if kind == "image":
        return await embed_pictures(services, engine, items)
    if kind != "text":
        message = f"{role}_type must be either 'image' or 'text', but got {kind[:100]!r}"
        raise ApiError(400, "invalid_request", message)
    check_count(services, len(items), "text")
    texts = [item for item in items if isinstance(item, str)]
    if len(texts) < len(items):
        message = f"{role}_type is 'text', but the {role} is an image: send {role}_type 'image'"
        raise ApiError(400, "invalid_request", message)
    return await engine.embed_texts(texts)
