"""Folders that are written beside their place and moved there once they are whole."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from perception_encoder.errors import CheckpointWriteError

try:
    import fcntl
except ImportError:  # Windows, which removes no folder whose files are open
    fcntl = None  # type: ignore[assignment]

_MARK: Final = "saving-"
# Earlier versions left folders of other names, with what they had written until they were killed.
_EARLIER: Final = re.compile(r"[a-z0-9_]{8}")
_EARLIER_FILES: Final = {"model.safetensors", "tokenizer.json"}


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Give a new folder beside `folder`, on the same disk; it is removed in the end.

    What processes left that were killed while they wrote to `folder` is removed first.

    Raises:
        CheckpointWriteError: something could not be written.
    """
    lock = None
    new: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_over(folder)
        new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.{_MARK}", dir=folder.parent))
        lock = _locked(new)
        yield new
    except OSError as err:
        raise CheckpointWriteError(
            f"{folder}: cannot be written ({err.strerror or err}). What was there is unchanged. "
            "Free some space on the disk, or choose another folder"
        ) from err
    finally:
        if new is not None:
            shutil.rmtree(new, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _remove_left_over(folder: Path) -> None:
    for other in folder.parent.glob(f".{folder.name}.*"):
        name = other.name.removeprefix(f".{folder.name}.")
        with suppress(OSError):
            if name.startswith(_MARK) or (_EARLIER.fullmatch(name) and _is_unfinished(other)):
                lock = _locked(other)
                if lock is not None:
                    shutil.rmtree(other, ignore_errors=True)
                    os.close(lock)


def _is_unfinished(folder: Path) -> bool:
    return folder.is_dir() and {path.name for path in folder.iterdir()} <= _EARLIER_FILES


def _locked(folder: Path) -> int | None:
    """Lock a folder for as long as this process lives; None where another one has it."""
    if fcntl is None:
        return None
    file = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by another process, or a file system without locks
        os.close(file)
        return None
    return file
