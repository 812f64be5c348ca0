"""Files on object stores and other servers, through fsspec: s3://, gs://, az://, hf://, memory://.

Credentials and endpoints are those of each protocol's own package (AWS_… for s3) and of fsspec's
configuration (FSSPEC_…). Knows nothing of http, which `web` fetches.
"""

import math
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import IO, Any, Final, NamedTuple, cast

from perception_encoder.errors import (
    ImageError,
    ImageNotFoundError,
    ImageTruncatedError,
    ImageUnreadableError,
    SourceError,
)
from perception_encoder.sources.item import scheme

_PACKAGES: Final = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs",
    "abfss": "adlfs", "oss": "ossfs", "sftp": "paramiko", "ssh": "paramiko", "smb": "smbprotocol",
}  # fmt: skip
_TIMES: Final = ("LastModified", "last_modified", "mtime", "updated", "created")


class RemoteEntry(NamedTuple):
    """A file or folder as a listing tells of it; size in bytes, time in ns since 1970."""

    url: str
    is_folder: bool
    bytes: int | None
    mtime: int | None


class Remote:
    """Files of all protocols that fsspec knows; one connection for each.

    Args:
        max_bytes: refuse to read more.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._systems: dict[str, Any] = {}
        self._turns = threading.Lock()

    def check(self, url: str) -> None:
        """See whether the URL's protocol can be spoken here.

        Raises:
            SourceError: a protocol that is unknown, or whose package is not installed.
        """
        self._connect(url)

    def canonical(self, url: str) -> str:
        """Return the URL as listings spell it."""
        system, path = self._connect(url)
        return cast("str", system.unstrip_protocol(path))

    def entry(self, url: str) -> RemoteEntry:
        """Return what the store tells of one file or folder.

        Raises:
            ImageNotFoundError: there is none.
            ImageUnreadableError: no permission, no connection, or another failure.
        """
        with _failures(url):
            system, path = self._connect(url)
            return _entry(system, system.info(path))

    def folder(self, url: str) -> list[RemoteEntry]:
        """Return what lies directly in a folder, in no order.

        Raises:
            ImageError: as for `entry`.
        """
        with _failures(url):
            system, path = self._connect(url)
            system.invalidate_cache(path)  # somebody may have added to it since
            found = system.ls(path, detail=True)
            own = path.rstrip("/")  # stores may list a folder's own empty object in it
            return [_entry(system, info) for info in found if info["name"].rstrip("/") != own]

    def read(self, url: str, num_bytes: int | None) -> bytes:
        """Read a whole file, whose size is given where known.

        Raises:
            ImageError: as for `entry`, or larger than `max_bytes`.
        """
        with _failures(url):
            system, path = self._connect(url)
            self._check_size(url, num_bytes or 0)
            with self._turn(system):
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
            with self._turn(system):
                data = cast("bytes", system.cat_file(path, start=offset, end=offset + num_bytes))
            if len(data) < num_bytes:
                raise ImageTruncatedError(
                    f"{item}: the file ends before this image does; fetch it again", item=item
                )
            return data

    def open(self, url: str) -> IO[bytes]:
        """Open a file for reading; it can be sought in.

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
        protocol = scheme(url)
        with self._lock:
            try:
                if protocol not in self._systems:
                    # Not fsspec's own instance, of which there would be one for every thread.
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
        return system, system._strip_protocol(url)

    def _turn(self, system: Any) -> AbstractContextManager[object]:
        """Let one thread at a time use a connection that cannot be shared."""
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
        modified(info),
    )


def modified(info: dict[str, Any]) -> int | None:
    """Return when a file was changed last; each protocol's package tells it in its own way."""
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
