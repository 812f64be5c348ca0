"""A file of results that appears, or replaces the one that is there, when it is whole."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from perception_encoder.errors import OutputError, PerceptionEncoderError

_STREAMS: Final = ("/dev/", "/proc/")  # /dev/stdout may be a file, which stays open elsewhere


@contextmanager
def whole_file(
    path: str | os.PathLike[str], error: type[PerceptionEncoderError] = OutputError
) -> Iterator[Path]:
    """Give a name to write to, which takes the file's place when the block is done.

    If the block fails, the file that was there stays and nothing else is left. What is no regular
    file (`/dev/stdout`, a pipe) is written to as it is.

    Args:
        path: of the file; a link stays a link.
        error: what is raised where it cannot be written.

    Raises:
        PerceptionEncoderError: of that type; names the file and the reason.
    """
    target = Path(path)
    is_stream = target.exists() and (
        str(target).startswith(_STREAMS) or not stat.S_ISREG(target.stat().st_mode)
    )
    if not is_stream:
        target = Path(os.path.realpath(target))
    # The ending stays, as it decides the format. The name does not: it may be as long as can be.
    partial = target if is_stream else target.with_name(f".pe-{os.getpid()}.part{target.suffix}")
    try:
        yield partial
        if not is_stream:
            if target.exists():
                partial.chmod(stat.S_IMODE(target.stat().st_mode))
            partial.replace(target)
    except PerceptionEncoderError:
        raise
    except OSError as err:
        reason = err.strerror or err
        raise error(
            f"{os.fspath(path)}: cannot be written: {reason}; check the folder, its rights and its "
            "space"
        ) from err
    finally:
        if not is_stream:
            with suppress(OSError):
                partial.unlink()
