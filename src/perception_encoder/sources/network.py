"""Files behind a network: object stores through fsspec, and images by http.

Credentials and endpoints are those of each protocol's own package (AWS_… for s3) and of fsspec's
configuration (FSSPEC_…).
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple, cast

from perception_encoder._version import __version__
from perception_encoder.errors import (
    ImageError,
    ImageNotFoundError,
    ImageTruncatedError,
    ImageUnreadableError,
    SourceError,
)
from perception_encoder.sources.item import scheme_of

if TYPE_CHECKING:
    import httpx2


_PACKAGES: Final = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs",
    "abfss": "adlfs", "oss": "ossfs", "sftp": "paramiko", "ssh": "paramiko", "smb": "smbprotocol",
}  # fmt: skip
_TIMES: Final = ("LastModified", "last_modified", "mtime", "updated", "created")
_TRIES: Final = 3
_PAUSE_SECONDS: Final = 0.3
_MAX_REDIRECTS: Final = 5
_WHOLE: Final = 5  # timeouts for a whole image
_TEMPORARY: Final = frozenset((429, 500, 502, 503, 504))


class RemoteEntry(NamedTuple):
    """A file or folder of a listing; size in bytes, time in ns since 1970."""

    url: str
    is_folder: bool
    bytes: int | None
    mtime: int | None


class Remote:
    """Files of all protocols of fsspec, with one connection for each.

    Args:
        max_bytes: the largest file to read.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._systems: dict[str, Any] = {}
        self._turns = threading.Lock()

    def check(self, url: str) -> None:
        """Check that the URL's protocol is available.

        Raises:
            SourceError: the protocol is unknown, or its package is not installed.
        """
        self._connect(url)

    def canonical(self, url: str) -> str:
        """Return the URL as listings spell it."""
        system, path = self._connect(url)
        return cast("str", system.unstrip_protocol(path))

    def entry(self, url: str) -> RemoteEntry:
        """Return what the store knows of one file or folder.

        Raises:
            ImageNotFoundError: it does not exist.
            ImageUnreadableError: no permission, no connection, or another failure.
        """
        with _failures(url):
            system, path = self._connect(url)
            return _entry(system, system.info(path))

    def folder(self, url: str) -> list[RemoteEntry]:
        """Return the entries of a folder, in no order.

        Raises:
            ImageError: as for `entry`.
        """
        with _failures(url):
            system, path = self._connect(url)
            system.invalidate_cache(path)  # it may have changed
            found = system.ls(path, detail=True)
            own = path.rstrip("/")  # some stores list a folder in itself
            return [_entry(system, info) for info in found if info["name"].rstrip("/") != own]

    def read(self, url: str, num_bytes: int | None) -> bytes:
        """Read a whole file; its size saves a request if it is known.

        Raises:
            ImageError: as for `entry`, or larger than `max_bytes`.
        """
        with _failures(url):
            system, path = self._connect(url)
            self._check_size(url, num_bytes or 0)
            with self._exclusive(system):
                if num_bytes is not None:
                    return cast("bytes", system.cat_file(path))
                with system.open(path, "rb") as file:
                    data = cast("bytes", file.read(self._max_bytes + 1))
            self._check_size(url, len(data))
            return data

    def read_range(self, url: str, offset: int, num_bytes: int, *, item: str) -> bytes:
        """Read a part of a file.

        Raises:
            ImageTruncatedError: the file ends inside the part.
            ImageError: as for `read`.
        """
        with _failures(item):
            system, path = self._connect(url)
            self._check_size(item, num_bytes)
            if num_bytes == 0:
                return b""
            with self._exclusive(system):
                data = cast("bytes", system.cat_file(path, start=offset, end=offset + num_bytes))
            if len(data) < num_bytes:
                raise ImageTruncatedError(
                    f"{item}: the file ends before this image does; fetch it again", item=item
                )
            return data

    def open(self, url: str) -> IO[bytes]:
        """Open a file as a seekable stream.

        Raises:
            ImageError: as for `entry`.
        """
        with _failures(url):
            system, path = self._connect(url)
            return cast("IO[bytes]", system.open(path, "rb"))

    def _connect(self, url: str) -> tuple[Any, str]:
        import fsspec.core

        if "::" in url:
            raise SourceError(f"{url}: chained URLs are not supported; unpack or copy it first")
        protocol = scheme_of(url)
        with self._lock:
            try:
                if protocol not in self._systems:
                    # fsspec caches one instance per thread; one is enough.
                    self._systems[protocol], _ = fsspec.core.url_to_fs(
                        url, skip_instance_cache=True
                    )
            except ImportError as err:
                package = _PACKAGES.get(protocol)
                fix = f"pip install {package}" if package else str(err)
                raise SourceError(
                    f"{url}: reading {protocol}:// needs a package that is missing: {fix}"
                ) from err
            except ValueError as err:
                raise SourceError(f"{url}: {err}; check the URL") from err
        system = self._systems[protocol]
        return system, fsspec.core.strip_protocol(url)

    def _exclusive(self, system: Any) -> AbstractContextManager[object]:
        """Give one thread at a time a connection that cannot be shared."""
        return nullcontext() if system.async_impl else self._turns

    def _check_size(self, item: str, num_bytes: int) -> None:
        if num_bytes > self._max_bytes:
            raise ImageUnreadableError(
                f"{item}: larger than the limit of {self._max_bytes:,} bytes", item=item
            )


def _entry(system: Any, info: dict[str, Any]) -> RemoteEntry:
    return RemoteEntry(
        system.unstrip_protocol(info["name"]),
        info["type"] == "directory",
        info.get("size"),
        modified_time(info),
    )


def modified_time(info: dict[str, Any]) -> int | None:
    """Return the time of the last change; each protocol's package has its own key for it."""
    value = next((info[name] for name in _TIMES if info.get(name) is not None), None)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, datetime):
        if value.tzinfo is None:
            value = value.replace(tzinfo=UTC)
        since = value - datetime.fromtimestamp(0, UTC)
        return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return round(value * 1e9)


@contextmanager
def _failures(item: str) -> Iterator[None]:
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except SourceError as err:
        raise ImageUnreadableError(str(err), item=item) from err
    except FileNotFoundError as err:
        raise ImageNotFoundError(f"{item}: there is none; check the URL", item=item) from err
    except Exception as err:  # each protocol's package raises errors of its own
        reason = str(err) or type(err).__name__
        raise ImageUnreadableError(f"{item}: cannot be read: {reason}", item=item) from err


class Web:
    """Fetches images over one pool of connections, with the proxies of the environment.

    Args:
        timeout_seconds: for one response; a whole image may take five times as long.
        max_bytes: the largest image to fetch.
    """

    def __init__(self, *, timeout_seconds: float, max_bytes: int) -> None:
        self._timeout_seconds = timeout_seconds
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._made: httpx2.Client | None = None

    def fetch(self, url: str) -> bytes:
        """Return the body of a URL's response.

        Temporary failures (a busy server, a lost connection) are retried twice.

        Raises:
            ImageUnreadableError: no response in time, an error status, too many redirects, more
                than `max_bytes`, or an invalid URL.
        """
        import httpx2

        for left in reversed(range(_TRIES)):
            try:
                return self._fetch_once(url)
            except httpx2.HTTPStatusError as err:
                status = err.response.status_code
                if not left or status not in _TEMPORARY:
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
        # Images are compressed already, and Content-Length is then their size.
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
