"""POST /v1/session: a cookie for the page, whose pictures cannot send a key in a header."""

from fastapi import APIRouter, Request, Response

from perception_encoder.server.access import COOKIE
from perception_encoder.server.services import Services


def add_routes(router: APIRouter, services: Services) -> None:
    """Add the route."""

    @router.post(
        "/v1/session",
        status_code=204,
        summary="Begin a session for a browser",
        description="With a key in the header; the cookie then stands for it, on this site only.",
    )
    async def session(request: Request) -> Response:
        token, seconds = services.access.open_session()
        reply = Response(status_code=204)
        reply.set_cookie(
            COOKIE,
            token,
            max_age=seconds,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return reply
