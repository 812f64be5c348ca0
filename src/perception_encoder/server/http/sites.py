"""Refuses requests from pages of other sites.

A web page can send requests to servers on its visitor's machine or network. Two checks refuse
them. The `Host` header: a site whose name resolves to 127.0.0.1 (DNS rebinding) cannot hide that
name. And `Origin`, `Sec-Fetch-Site` and `Referer`, which browsers set and pages cannot forge;
programs send none of these three.
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
    """Decides which requests come from pages of other sites.

    Attributes:
        origins: the allowed origins, as browsers write them.

    Raises:
        ValueError: an allowed origin is not valid.
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
        """Return the error for a refused request, or None."""
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
        """Return whether the settings allow an origin."""
        return _ANY in self.origins or origin in self.origins


class SiteMiddleware:
    """ASGI middleware that answers refused requests, and passes on all others.

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
    """Return whether only this machine can reach a server that listens on a host."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _own_names(host: str | None) -> tuple[str, ...]:
    """Return the names of a server from its address, without DNS."""
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
    """Return whether a page's origin is the server itself."""
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
    """Return whether a request follows a link; the page with the link cannot read the reply."""
    mode, dest = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
    return scope["method"] == "GET" and (mode, dest) == ("navigate", "document")
