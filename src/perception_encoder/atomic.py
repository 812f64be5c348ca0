"""Writes a file or a folder so that others see all of it or nothing."""

import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from perception_encoder.errors import PerceptionEncoderError

_STREAMS: Final = ("/dev/", "/proc/")  # /dev/stdout may lead to a file that stays open elsewhere
_NAME_BYTES: Final = 100  # of the target's name in the temporary one, which has a limit of 255


@contextmanager
def atomic_write(
    path: str | os.PathLike[str],
    error: type[PerceptionEncoderError] | None = None,
    *,
    sync: bool = False,
) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which replaces it when the block succeeds.

    Write a file there, or make a folder; a folder can only replace nothing or an empty folder. If
    the block fails, `path` is as before and the temporary path is removed. The temporary path has
    the suffix of `path`, from which many writers choose the format. Anything but a regular file
    (`/dev/stdout`, a pipe) is written directly.

    Args:
        path: the file or folder to write. A link stays a link; a replaced file keeps its mode.
        error: the error to raise instead of OSError; its message names the path and the reason.
        sync: flush the file to disk first.

    Raises:
        OSError: or `error`, if it is given: the block or the replacement failed.
    """
    target = Path(path)
    is_file = target.is_file() and not str(target).startswith(_STREAMS)
    try:
        if target.exists() and not is_file and not target.is_dir():
            yield target
            return
        target = Path(os.path.realpath(target))
        with _temporary(target) as temporary:
            yield temporary
            if is_file:
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))
            if sync:
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
            temporary.replace(target)
    except PerceptionEncoderError:
        raise
    except OSError as err:
        if error is None:
            raise
        raise error(
            f"{os.fspath(path)}: cannot be written: {err.strerror or err}; check that the folder "
            "exists, its permissions, and the free space"
        ) from err


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    name = os.fsencode(target.name)[:_NAME_BYTES].decode(errors="ignore")
    path = target.with_name(f".{name}.{uuid.uuid4().hex[:8]}.part{target.suffix}")
    try:
        yield path
    finally:
        with suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
