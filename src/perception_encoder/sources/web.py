"""Fetches images by http and https: in bounded time, of bounded size, from any thread."""

from __future__ import annotations

import threading
import time
import weakref
from typing import TYPE_CHECKING, Final

from perception_encoder._version import __version__
from perception_encoder.errors import ImageUnreadableError

if TYPE_CHECKING:
    import httpx2

_TRIES: Final = 3
_PAUSE_SECONDS: Final = 0.3
_MAX_REDIRECTS: Final = 5
_WHOLE: Final = 5  # a whole image may take so many times the wait for one answer
_PASSING: Final = frozenset((429, 500, 502, 503, 504))


class Web:
    """Fetches over one pool of connections. Proxies are those of the environment.

    Args:
        timeout_seconds: of one wait for an answer; a whole image may take five times that.
        max_bytes: refuse more.
    """

    def __init__(self, *, timeout_seconds: float, max_bytes: int) -> None:
        self._timeout_seconds = timeout_seconds
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._made: httpx2.Client | None = None

    def fetch(self, url: str) -> bytes:
        """Return what a URL answers with.

        Failures that may pass (a busy server, a lost connection) are tried again twice.

        Raises:
            ImageUnreadableError: no answer in time, a status other than success, too many
                redirects, more than `max_bytes`, or not a URL.
        """
        import httpx2

        for left in reversed(range(_TRIES)):
            try:
                return self._fetch_once(url)
            except httpx2.HTTPStatusError as err:
                status = err.response.status_code
                if not left or status not in _PASSING:
                    reason = f"the server answered {status} {err.response.reason_phrase}".rstrip()
                    raise _failed(url, f"{reason}; check the URL") from err
            except httpx2.TransportError as err:
                if not left or isinstance(err, httpx2.UnsupportedProtocol):
                    raise _failed(url, f"{_described(err)}; try again later") from err
            except (httpx2.HTTPError, httpx2.InvalidURL) as err:
                raise _failed(url, f"{_described(err)}; check the URL") from err
            time.sleep(_PAUSE_SECONDS * 2 ** (_TRIES - 1 - left))
        raise AssertionError("the last try returns or raises")

    def _fetch_once(self, url: str) -> bytes:
        until = time.monotonic() + _WHOLE * self._timeout_seconds
        # An image is packed already, and the size that is announced is then the one that comes.
        with self._client().stream("GET", url, headers={"Accept-Encoding": "identity"}) as answer:
            answer.raise_for_status()
            self._check_size(url, int(answer.headers.get("Content-Length", 0)))
            data = bytearray()
            for chunk in answer.iter_bytes():
                data += chunk
                self._check_size(url, len(data))
                if time.monotonic() > until:
                    raise _failed(url, "the answer comes too slowly; try again later")
            return bytes(data)

    def _check_size(self, url: str, num_bytes: int) -> None:
        if num_bytes > self._max_bytes:
            raise _failed(url, f"larger than the limit of {self._max_bytes:,} bytes")

    def _client(self) -> httpx2.Client:
        import httpx2

        with self._lock:
            if self._made is None:
                self._made = httpx2.Client(
                    follow_redirects=True,
                    max_redirects=_MAX_REDIRECTS,
                    timeout=self._timeout_seconds,
                    headers={"User-Agent": f"perception-encoder/{__version__}"},
                )
                weakref.finalize(self, self._made.close)
            return self._made


def _failed(url: str, reason: str) -> ImageUnreadableError:
    return ImageUnreadableError(f"{url}: {reason}", item=url)


def _described(err: Exception) -> str:
    text = str(err)
    return f"{type(err).__name__}: {text}" if text else type(err).__name__
