"""Notices that a mapped file was overwritten in place, which changes what is computed from it.

A file that is replaced (by renaming another one onto it) or removed stays as it was for whoever has
it mapped, so that is no change here. Knows nothing of models.
"""

import hashlib
import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from perception_encoder.errors import CheckpointError

_NUM_SAMPLES: Final = 64
_SAMPLE_BYTES: Final = 4096


class WatchedFile:
    """A file that is mapped, or is about to be. Make it before the mapping.

    Size and time of the last change are compared at each check, which takes microseconds. Where
    only the time of the entry's change is another (a new name, owner or link; or a copy that set
    the old time again), a sample of the content decides.

    Raises:
        CheckpointError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            weakref.finalize(self, os.close, self._file)
            self._content, self._entry_changed = self._signature()
            self._sample = self._sampled()
        except OSError as err:
            raise CheckpointError(f"{path}: cannot be read ({err.strerror or err})") from err

    def check(self) -> None:
        """Refuse to go on where the file is not what it was.

        Raises:
            CheckpointError: it was overwritten in place, or cut.
        """
        content, entry_changed = self._signature()
        if (content, entry_changed) == (self._content, self._entry_changed):
            return
        if content == self._content and self._sampled() == self._sample:
            self._entry_changed = entry_changed
            return
        raise CheckpointError(
            f"{self.path} was overwritten while the model was open, so its embeddings would be "
            "wrong: open the model again. To change a file in use, write a new one and rename it "
            "onto the old one"
        )

    def _signature(self) -> tuple[tuple[int, int], int]:
        status = os.fstat(self._file)
        return (status.st_size, status.st_mtime_ns), status.st_ctime_ns

    def _sampled(self) -> bytes:
        digest = hashlib.sha256()
        last = max(0, self._content[0] - _SAMPLE_BYTES)
        for number in range(_NUM_SAMPLES):
            digest.update(_read_at(self._file, last * number // (_NUM_SAMPLES - 1)))
        return digest.digest()


@contextmanager
def unchanged(files: Sequence[WatchedFile]) -> Iterator[None]:
    """Check files before and after something is computed from them.

    Raises:
        CheckpointError: one was overwritten, so that the result, too, may be wrong.
    """
    for file in files:
        file.check()
    yield
    for file in files:
        file.check()


def _read_at(file: int, position: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(file, _SAMPLE_BYTES, position)
    os.lseek(file, position, os.SEEK_SET)  # Windows lets nobody overwrite a mapped file
    return os.read(file, _SAMPLE_BYTES)
