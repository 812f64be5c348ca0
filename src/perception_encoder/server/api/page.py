"""The page for people: `web/index.html` at /, and the files that it loads below /web/.

They are plain files in the package, read once. They hold nothing secret, so they ask for no key;
what the page then asks of `/v1` does.
"""

import hashlib
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

from fastapi import APIRouter, Request, Response

from perception_encoder.server.api.base import Api
from perception_encoder.server.http.errors import ApiError
from perception_encoder.server.services import Services

_START: Final = "index.html"
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class _File:
    content: bytes
    media_type: str
    tag: str


def _build(services: Services) -> APIRouter:
    router = API.router()
    if not services.settings.serve_page:
        return router
    files = _files()

    @router.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return _reply(request, files[_START])

    @router.get("/web/{path:path}", include_in_schema=False)
    async def file(request: Request, path: str) -> Response:
        if path not in files:
            raise ApiError(404, "unknown_route", "the page has no such file")
        return _reply(request, files[path])

    return router


def _files() -> dict[str, _File]:
    """Return every file of the page by its path; nothing else can be asked for."""
    found: dict[str, _File] = {}
    waiting = [("", resources.files("perception_encoder.server") / "web")]
    while waiting:
        prefix, folder = waiting.pop()
        for entry in folder.iterdir():
            if entry.is_dir():
                waiting.append((f"{prefix}{entry.name}/", entry))
            elif (kind := _TYPES.get(entry.name[entry.name.rfind(".") :])) is not None:
                found[prefix + entry.name] = _file(entry, kind)
    return found


def _file(entry: Traversable, kind: str) -> _File:
    content = entry.read_bytes()
    digest = hashlib.blake2b(content, digest_size=12).hexdigest()
    return _File(content, kind, f'"{digest}"')


def _reply(request: Request, file: _File) -> Response:
    # Asked again each time, so that a newer server's page is never mixed with an older one's.
    headers = {"ETag": file.tag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == file.tag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)


API: Final = Api("page", _build, description="The page for people.", needs_key=False)
