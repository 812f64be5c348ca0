"""POST /…/compare: the cosine of one picture or text with each of others."""

from collections.abc import Sequence

from fastapi import APIRouter, Request, Response

from perception_encoder.embedder.vectors import cosine
from perception_encoder.server.bodies import json_body, read_body
from perception_encoder.server.core.engine import Engine
from perception_encoder.server.dialects.native.inputs import check_texts, names_of
from perception_encoder.server.dialects.roboflow.bodies import CompareBody, ImageObject
from perception_encoder.server.dialects.roboflow.models import Kind, lend
from perception_encoder.server.dialects.roboflow.pictures import check_count, embed_pictures
from perception_encoder.server.dialects.roboflow.replies import reply
from perception_encoder.server.dialects.roboflow.schemas import InferenceSimilarity
from perception_encoder.server.problems import ApiError
from perception_encoder.server.services import Services
from perception_encoder.types import Embeddings


def add_routes(router: APIRouter, services: Services, kind: Kind) -> None:
    """Add the route of one kind of model."""

    @router.post(
        f"/{kind.prefix}/compare",
        summary="One picture or text against others",
        description="Plain cosines: a list in the order of the prompts, or one for each name.",
        responses={200: {"model": InferenceSimilarity}},
        openapi_extra=json_body(CompareBody),
    )
    async def compare(request: Request) -> Response:
        body = await read_body(request, CompareBody)
        keys, prompts, names = _prompts(body)
        async with lend(services, kind, body) as lent:
            subject = await _embed(services, lent.engine, [body.subject], ["subject"], body)
            others = await _embed(services, lent.engine, prompts, names, body)
            similarity = cosine(subject, others)[0]
            return reply(
                request,
                body,
                lent,
                similarity=similarity
                if keys is None
                else dict(zip(keys, similarity.tolist(), strict=True)),
                parent_id=None,
            )


def _prompts(
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
    engine: Engine,
    items: Sequence[ImageObject | str],
    names: Sequence[str],
    body: CompareBody,
) -> Embeddings:
    """Embed one side of the comparison, whose type the body says."""
    role = "subject" if names == ["subject"] else "prompt"
    kind = body.subject_type if role == "subject" else body.prompt_type
    if kind == "image":
        return await embed_pictures(services, engine, items, names)
    if kind != "text":
        message = f"{role}_type must be either 'image' or 'text', but got {kind[:100]!r}"
        raise ApiError(400, "invalid_request", message)
    check_count(services, len(items), "text")
    texts = [item for item in items if isinstance(item, str)]
    if len(texts) < len(items):
        message = f"{role}_type is 'text', but the {role} is an image: send {role}_type 'image'"
        raise ApiError(400, "invalid_request", message)
    check_texts(zip(range(len(texts)), texts, names, strict=True))
    return await engine.embed_texts(texts)
