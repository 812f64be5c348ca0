"""Keeps pages of other sites away: which names a server answers to, and whose pages may ask it.

A page that somebody visits can send requests to servers on that person's own machine or network.
Two things tell them apart from what a person or a program asks. The `Host`: a site that has its own
name lead to 127.0.0.1 (DNS rebinding) may read replies, but cannot hide that name. And what the
browser says of the page that asks, in `Origin`, `Sec-Fetch-Site` and `Referer`, which no page can
forge. Programs send none of these, and are let through.
"""

import ipaddress
import re
import socket
from collections.abc import Callable
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from perception_encoder.server.http.errors import ApiError
from perception_encoder.server.options import AccessSettings

_Headers: TypeAlias = dict[str, str]

_ANY: Final = "*"
_READ: Final = frozenset(
    (
        b"host", b"origin", b"referer", b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest",
        b"content-type", b"content-length", b"transfer-encoding",
    )
)  # fmt: skip
_BRACKETED: Final = re.compile(r"\[([^\]]*)\](?::\d*)?")
_PORTS: Final = {"http": ":80", "https": ":443"}
_PRIVATE_SUFFIXES: Final = (".local", ".internal", ".localdomain", ".lan", ".home.arpa")
"""Of names that no public site can have, as little as a name without a dot: those of containers,
of services of a cluster (`pe.default.svc.cluster.local`), of machines in a home."""
_WITHOUT_ASKING: Final = frozenset(("", "text/plain", "application/x-www-form-urlencoded"))
"""Content types that a page may send elsewhere without the browser asking (a preflight) first. Of
the fourth, multipart/form-data, the page's own uploads are."""


class Sites:
    """Says which requests come by way of another site.

    Attributes:
        origins: whose pages may ask, as browsers write them.

    Raises:
        ValueError: what is given as an origin is none.
    """

    def __init__(self, settings: AccessSettings) -> None:
        self._hosts = frozenset(_host_name(host) for host in settings.allowed_hosts)
        self.origins = frozenset(_parse_origin(written) for written in settings.cors_origins)
        self._is_loopback = settings.host is not None and is_loopback(settings.host)
        # Whoever has a key may ask by any name: a page under a foreign name has neither the key nor
        # the cookie, which belongs to the right name.
        self._needs_host = _ANY not in self._hosts and bool(self._hosts or not settings.key_hashes)
        self._own = frozenset(_own_names(settings.host))

    def find_refusal(self, scope: Scope) -> ApiError | None:
        """Return why a request is not answered, or None if it is."""
        headers = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in _READ
        }
        if sum(name == b"host" for name, _ in scope["headers"]) > 1:
            return ApiError(400, "invalid_request", "a request has one Host header, not several")
        return (
            self._check_host(headers)
            or self._check_page(scope, headers)
            or self._check_body(scope, headers)
        )

    def _check_host(self, headers: _Headers) -> ApiError | None:
        name = _host_name(headers.get("host", ""))
        if not name or not self._needs_host or self._is_own(name):  # browsers always send one
            return None
        return ApiError(
            403,
            "forbidden_host",
            f"this server does not answer to the name {name[:100]!r}: ask for it by its address; "
            "whoever runs it can add a name (pe serve --allowed-host NAME, or PE_ALLOWED_HOST)",
        )

    def _is_own(self, name: str) -> bool:
        if name in self._hosts or name in self._own or _is_address(name):
            return True
        if name == "localhost" or name.endswith(".localhost"):  # browsers ask no DNS for these
            return True
        return not self._is_loopback and ("." not in name or name.endswith(_PRIVATE_SUFFIXES))

    def _check_page(self, scope: Scope, headers: _Headers) -> ApiError | None:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if site in ("same-origin", "none"):
            return None
        if site is None and (origin is None or _is_same(origin, headers.get("host", ""))):
            return None
        asking = origin or _origin_of(headers.get("referer", ""))
        if self._may_ask(asking):
            return None
        if scope["path"] == "/" and _is_visit(scope, headers):
            return None
        return ApiError(
            403,
            "forbidden_origin",
            f"pages of {(asking or 'another site')[:100]} may not ask this server; whoever runs it "
            "can allow them (pe serve --cors ORIGIN, or PE_CORS)",
        )

    def _check_body(self, scope: Scope, headers: _Headers) -> ApiError | None:
        is_browser = "origin" in headers or "sec-fetch-site" in headers
        if scope["method"] != "POST" or not is_browser or self._may_ask(headers.get("origin")):
            return None
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        if not has_body or kind not in _WITHOUT_ASKING:
            return None
        return ApiError(
            415,
            "wrong_content_type",
            f"a page has to say what it sends: Content-Type application/json, not {kind[:100]!r}",
        )

    def _may_ask(self, origin: str | None) -> bool:
        """Say whether whoever runs the server has allowed an origin's pages."""
        return _ANY in self.origins or origin in self.origins


class SiteMiddleware:
    """ASGI middleware: answers what comes by way of another site, and passes on everything else.

    Args:
        app: answers the rest.
        sites: decides.
        refuse: makes the reply to a request that is refused.
    """

    def __init__(
        self, app: ASGIApp, sites: Sites, refuse: Callable[[Scope, ApiError], Response]
    ) -> None:
        self._app = app
        self._sites = sites
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        refusal = self._sites.find_refusal(scope) if scope["type"] == "http" else None
        app = self._app if refusal is None else self._refuse(scope, refusal)
        await app(scope, receive, send)


def is_loopback(host: str) -> bool:
    """Say whether only this machine reaches what listens on a host."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _own_names(host: str | None) -> tuple[str, ...]:
    """Return the names that a server has by where it listens; asks no DNS."""
    if host is not None and is_loopback(host):
        return ()
    machine = socket.gethostname().lower()
    return (machine, machine.partition(".")[0], (host or "localhost").lower())


def _parse_origin(written: str) -> str:
    """Return an origin as browsers write it."""
    found = urlsplit(written.strip().lower())
    if written in (_ANY, "null"):
        return written
    if not found.scheme or not found.netloc or found.path.strip("/") or found.query:
        raise ValueError(
            f"{written!r} is no origin that pages can have: write https://a.example or "
            "http://localhost:3000, without a path"
        )
    return f"{found.scheme}://{found.netloc.removesuffix(_PORTS.get(found.scheme, ':'))}"


def _host_name(host: str) -> str:
    """Return a Host header without its port."""
    host = host.strip().lower()
    if found := _BRACKETED.fullmatch(host):
        return found[1]
    return host.partition(":")[0].removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_same(origin: str, host: str) -> bool:
    """Say whether a page's origin is the server itself."""
    scheme, _, place = origin.lower().partition("://")
    return place.removesuffix(_PORTS.get(scheme, "")) == host.lower().removesuffix(
        _PORTS.get(scheme, "")
    )


def _origin_of(referer: str) -> str | None:
    try:
        found = urlsplit(referer)
    except ValueError:
        return None
    return f"{found.scheme}://{found.netloc}" if found.netloc else None


def _is_visit(scope: Scope, headers: _Headers) -> bool:
    """Say whether somebody follows a link: the page that is left can read nothing of the reply."""
    mode, dest = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
    return scope["method"] == "GET" and (mode, dest) == ("navigate", "document")
