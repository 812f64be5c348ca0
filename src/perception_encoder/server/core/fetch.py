"""Fetches images from URLs in requests, from the public internet only.

The address is checked when the connection is made, for every redirect anew, so DNS rebinding has no
effect. Time, bytes and redirects are limited. A reply that does not begin like an image is dropped.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Final, TypeAlias
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import httpcore2

from perception_encoder._version import __version__
from perception_encoder.errors import ImageFetchError
from perception_encoder.server.core.images import ENOUGH, detect_content_type
from perception_encoder.server.core.pools import DaemonThreads

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

# IPv6 that carries an IPv4 address on, to wherever that leads: compatible, NAT64, 6to4, Teredo.
_TRANSITION: Final = tuple(
    ipaddress.IPv6Network(net) for net in ("::/96", "64:ff9b::/96", "2002::/16", "2001::/32")
)
_RELAYS: Final = ipaddress.IPv4Network("192.88.99.0/24")  # of 6to4, deprecated in RFC 7526
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?", re.IGNORECASE)
Resolver: TypeAlias = Callable[[str, int], Awaitable[list[str]]]
"""Returns the addresses of a name."""

_MAX_REDIRECTS: Final = 3
_AT_ONCE: Final = 16
_ODD: Final = re.compile(r"[\x00-\x20\x7f\\]")
_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
_PORTS: Final = {"https": 443, "http": 80}
_MAX_DIGITS: Final = 20  # of a length that is read: more are too large however they go on
_LOOKUPS: Final = DaemonThreads(_AT_ONCE, "look up names")  # a resolver may not answer for long
_SAFE: Final = "%/:=&?~+!$,;'@()*[]|"


def is_public(address: Address) -> bool:
    """Whether an address is of the public internet.

    Not so: loopback, private, link-local (also the clouds' metadata at 169.254.169.254), shared,
    multicast, reserved and documentation addresses, also inside an IPv6 address.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address.scope_id is not None or address.is_site_local:
            return False
        if any(address in net for net in _TRANSITION):
            return False
    elif address in _RELAYS:
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def parse_address(host: str) -> Address | None:
    """Return the address that a host is written as, in its one canonical form; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_domain_name(host: str) -> bool:
    """Whether a host is a full domain name.

    Names that resolvers would take for addresses (127.1, 0x7f000001, 2130706433, 0177.0.0.1) are
    none: the last part of a real one is not a number. Nor is a name of one part, such as localhost.
    """
    labels = host.removesuffix(".").split(".")
    if len(labels) < 2 or len(host) > 253:
        return False
    if not all(len(label) <= 63 and _LABEL.fullmatch(label) for label in labels):
        return False
    return not re.fullmatch(r"\d+|0x[0-9a-f]*", labels[-1], re.IGNORECASE)


class _RefusedError(Exception):
    """A host leads to an address that is not public."""


async def resolve(host: str, port: int) -> list[str]:
    """Ask the system for a name's addresses."""
    ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await asyncio.wrap_future(_LOOKUPS.submit(ask))
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class CheckedBackend(httpcore2.AsyncNetworkBackend):
    """Looks up and checks addresses itself before it connects."""

    def __init__(self, resolver: Resolver, is_allowed: Callable[[Address], bool]) -> None:
        self._resolve = resolver
        self._is_allowed = is_allowed
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect; refused where any of the host's addresses is not allowed."""
        try:
            found = [host] if parse_address(host) else await self._resolve(host, port)
        except (OSError, ValueError) as err:  # ValueError: no name at all, such as one too long
            raise httpcore2.ConnectError(f"{host} is not known: {err}") from err
        if not found:
            raise httpcore2.ConnectError(f"{host} has no address")
        for address in found:
            known = parse_address(address)
            if known is None or not self._is_allowed(known):
                raise _RefusedError(host)
        failure: Exception | None = None
        for address in found:
            try:
                return await self._network.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as err:
                failure = err
        assert failure is not None
        raise failure

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class UrlFetcher:
    """A `Fetcher`.

    Args:
        allow_http: also without TLS.
        timeout_seconds: for one image with all its redirects.
        max_bytes: of one image.
        resolver: looks names up.
        is_allowed: which addresses may be connected to.
        ssl_context: whose certificates are believed; None for the usual ones.
    """

    def __init__(
        self,
        *,
        allow_http: bool,
        timeout_seconds: float,
        max_bytes: int,
        resolver: Resolver = resolve,
        is_allowed: Callable[[Address], bool] = is_public,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._schemes = ("https", "http") if allow_http else ("https",)
        self._timeout_seconds = timeout_seconds
        self._max_bytes = max_bytes
        self._is_allowed = is_allowed
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=ssl_context,
            max_connections=_AT_ONCE,
            max_keepalive_connections=0,  # every image is connected, and checked, anew
            network_backend=CheckedBackend(resolver, is_allowed),
        )

    async def fetch(self, url: str, *, item: str) -> bytes:
        """See `Fetcher.fetch`."""
        try:
            async with self._free, asyncio.timeout(self._timeout_seconds):
                for _ in range(_MAX_REDIRECTS + 1):
                    parts = self._checked(url, item)
                    content, location = await self._get(parts, item)
                    if location is None:
                        return content
                    url = _join_url(url, location, item)
        except TimeoutError:
            raise _build_error(item, "the URL did not answer in time", "time") from None
        except _RefusedError:
            # The same message for every address, so that it reveals nothing of the network.
            raise _build_error(item, "the URL leads to no public address", "address") from None
        except (
            httpcore2.NetworkError,
            httpcore2.ProtocolError,
            httpcore2.TimeoutException,
            OSError,
            ValueError,  # an answer's header that cannot be understood
        ) as err:
            raise _build_error(item, "the URL could not be fetched", "failed") from err
        raise _build_error(item, f"more than {_MAX_REDIRECTS} redirects", "redirects")

    async def close(self) -> None:
        """End all connections."""
        await self._pool.aclose()

    def _checked(self, url: str, item: str) -> SplitResult:
        """Take a URL apart; refuse what cannot be an image's address on the public internet."""
        if _ODD.search(url):
            raise _build_error(item, "the URL holds spaces or backslashes", "host")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as err:
            raise _build_error(item, "the URL cannot be understood", "host") from err
        if parts.scheme.lower() not in self._schemes:
            allowed = " or ".join(self._schemes)
            raise _build_error(item, f"only {allowed} URLs are fetched here", "scheme")
        if not host or port == 0 or parts.username is not None or parts.password is not None:
            raise _build_error(item, "the URL has no plain host", "host")
        address = parse_address(host)
        if address is None and not is_domain_name(host):
            raise _build_error(item, "the URL's host is no full domain name", "host")
        if address is not None and not self._is_allowed(address):
            raise _RefusedError(host)
        return parts

    async def _get(self, parts: SplitResult, item: str) -> tuple[bytes, str | None]:
        """Return what one URL answers with, or where it sends us."""
        host = parts.hostname or ""
        scheme = parts.scheme.lower()
        target = quote(parts.path or "/", safe=_SAFE)
        if parts.query:
            target += "?" + quote(parts.query, safe=_SAFE)
        port = parts.port or _PORTS[scheme]
        shown = f"[{host}]" if ":" in host else host
        headers = {
            "Host": shown if port == _PORTS[scheme] else f"{shown}:{port}",
            "User-Agent": f"perception-encoder/{__version__}",
            "Accept": "image/*",
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        address = httpcore2.URL(
            scheme=scheme.encode(), host=host.encode(), port=port, target=target.encode()
        )
        wait = dict.fromkeys(("connect", "read", "write", "pool"), self._timeout_seconds)
        async with self._pool.stream(
            "GET", address, headers=list(headers.items()), extensions={"timeout": wait}
        ) as answer:
            found = {name.lower(): value for name, value in answer.headers}
            if answer.status in _REDIRECTS and b"location" in found:
                return b"", found[b"location"].decode("latin-1")
            if answer.status != 200:
                raise _build_error(item, f"the URL answered {answer.status}", "status")
            return await self._read(answer, found, item), None

    async def _read(
        self, answer: httpcore2.Response, headers: dict[bytes, bytes], item: str
    ) -> bytes:
        announced = headers.get(b"content-length", b"0")[:_MAX_DIGITS]
        self._check_size(int(announced) if announced.isdigit() else 0, item)
        content = bytearray()
        is_checked = False
        async for part in answer.aiter_stream():
            content += part
            self._check_size(len(content), item)
            if not is_checked and len(content) >= ENOUGH:
                is_checked = True
                _check_kind(content, item)
        if not is_checked:
            _check_kind(content, item)
        return bytes(content)

    def _check_size(self, num_bytes: int, item: str) -> None:
        if num_bytes > self._max_bytes:
            raise _build_error(item, f"more than {self._max_bytes:,} bytes", "size")


def _join_url(url: str, location: str, item: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as err:  # such as http://[
        raise _build_error(item, "the URL leads to none that can be understood", "host") from err


def _check_kind(beginning: bytearray, item: str) -> None:
    if detect_content_type(bytes(beginning[:ENOUGH])) is None:
        raise _build_error(item, "what the URL answers with is not an image", "kind")


def _build_error(item: str, message: str, reason: str) -> ImageFetchError:
    return ImageFetchError(
        f"{item}: {message}; send the image itself instead", item=item, reason=reason
    )
