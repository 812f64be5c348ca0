"""The page for people: `web/index.html` at /, and the files that it loads below /web/.

The page is written as ES modules and small style sheets. The server joins them at its start into
one script and one style sheet, so that a slow network is waited for once and not once for each
import. Their names hold a hash of their content, so browsers keep them. The files hold nothing
secret and need no key; what the page then requests from `/v1` does.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

from fastapi import Request, Response

from perception_encoder.server.api.base import Api, ApiRoutes, Services
from perception_encoder.server.http.errors import ApiError

_START: Final = "index.html"
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_STYLES: Final = re.compile(r'(?:\s*<link rel="stylesheet" href="web/([^"]+)">)+')
_STYLE: Final = re.compile(r'<link rel="stylesheet" href="web/([^"]+)">')
_SCRIPT: Final = re.compile(r'<script type="module" src="web/([^"]+)">')
_FILE: Final = re.compile(r'(href|src)="web/([^"]+)"')
_IMPORT: Final = re.compile(r'^import \{([^}]*)\} from "\./([^"]+)";\n', re.MULTILINE)
_EXPORT: Final = re.compile(
    r"^export (?=(?:async function|function|class|const) ([\w$]+))", re.MULTILINE
)
_REVALIDATE: Final = "no-cache"  # a newer server's page is never mixed with an older one's
_KEEP: Final = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class _File:
    content: bytes
    compressed: bytes
    media_type: str
    tag: str
    caching: str


def _build(services: Services) -> ApiRoutes:
    routes = API.routes(services)
    if not services.settings.serve_page:
        return routes
    files = _load_files()

    @routes.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return _reply(request, files[_START])

    @routes.get("/web/{path:path}", include_in_schema=False)
    async def file(request: Request, path: str) -> Response:
        if path not in files:
            raise ApiError(404, "unknown_route", "the page has no such file")
        return _reply(request, files[path])

    return routes


def _load_files() -> dict[str, _File]:
    """Return all that can be requested, by path: every file, and what joins them."""
    texts = dict(_read_files("", resources.files("perception_encoder.server") / "web"))
    files = {path: _file(path, text) for path, text in texts.items()}
    start = texts[_START]

    def add(path: str, text: str) -> str:
        stem, _, suffix = path.rpartition(".")
        name = f"{stem}.{_digest(text)}.{suffix}"
        files[name] = _file(name, text, _KEEP)
        return name

    styles = "\n".join(texts[path] for path in _STYLE.findall(start))
    style = add("page.css", styles)
    start = _STYLES.sub(f'\n  <link rel="stylesheet" href="web/{style}">', start, count=1)
    (main,) = _SCRIPT.findall(start)
    script = add("page.js", join_modules(texts, main))
    start = start.replace(f'src="web/{main}"', f'src="web/{script}"')
    for kind, path in set(_FILE.findall(start)) - {("href", style), ("src", script)}:
        start = start.replace(f'{kind}="web/{path}"', f'{kind}="web/{add(path, texts[path])}"')
    files[_START] = _file(_START, start)
    return files


def _read_files(prefix: str, folder: Traversable) -> Iterator[tuple[str, str]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _read_files(f"{prefix}{entry.name}/", entry)
        elif entry.name[entry.name.rfind(".") :] in _TYPES:
            yield prefix + entry.name, entry.read_text(encoding="utf-8")


def join_modules(modules: Mapping[str, str], main: str) -> str:
    """Join ES modules into one.

    Each module becomes a function that returns its exports. Modules may only use
    `import { a, b as c } from "./file.js";` and `export` before a declaration, both at the
    beginning of a line, and must not import each other in a circle.

    Args:
        modules: source texts by file name.
        main: the module to start from.

    Raises:
        ValueError: a module uses another form of import or export, or imports are circular.
    """
    order: dict[str, str] = {}
    _add_module(modules, main, order, ())
    return "".join(order.values())


def _add_module(
    modules: Mapping[str, str], name: str, order: dict[str, str], importers: tuple[str, ...]
) -> None:
    if name in order:
        return
    if name in importers:
        raise ValueError(f"modules import each other: {' → '.join((*importers, name))}")
    text = modules[name]
    for _, imported in _IMPORT.findall(text):
        _add_module(modules, imported, order, (*importers, name))
    exports = ", ".join(match[1] for match in _EXPORT.finditer(text))
    body = _IMPORT.sub(
        lambda found: f"const {{{found[1].replace(' as ', ': ')}}} = {_variable(found[2])};\n", text
    )
    body = _EXPORT.sub("", body)
    if found := re.search(r"^(?:import|export)\b.*", body, re.MULTILINE):
        raise ValueError(f"{name}: cannot be joined: {found.group()}")
    order[name] = f"const {_variable(name)} = (() => {{\n{body}return {{ {exports} }};\n}})();\n"


def _variable(name: str) -> str:
    return "$" + re.sub(r"\W", "_", name.removesuffix(".js"))


def _file(path: str, text: str, caching: str = _REVALIDATE) -> _File:
    kind = _TYPES[path[path.rfind(".") :]]
    content = text.encode()
    return _File(content, gzip.compress(content, mtime=0), kind, f'"{_digest(text)}"', caching)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _reply(request: Request, file: _File) -> Response:
    headers = {"ETag": file.tag, "Cache-Control": file.caching, "Vary": "Accept-Encoding"}
    if request.headers.get("if-none-match") == file.tag:
        return Response(status_code=304, headers=headers)
    content = file.content
    if "gzip" in request.headers.get("accept-encoding", ""):
        content = file.compressed
        headers["Content-Encoding"] = "gzip"
    return Response(content, media_type=file.media_type, headers=headers)


API: Final = Api("page", _build, description="The page for people.", needs_key=False)
