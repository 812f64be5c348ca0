"""Mapped files of weights: read without torch, and checked for being overwritten in place.

A file that is replaced by renaming another one onto it, or removed, stays as it was for the process
that has it mapped, so that counts as no change.
"""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.errors import CheckpointError

_NUM_SAMPLES: Final = 64
_SAMPLE_BYTES: Final = 4096
_DTYPES: Final = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_MAX_HEADER: Final = 100_000_000  # bytes; the limit of the format's own reader


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
def require_unchanged(files: Sequence[WatchedFile]) -> Iterator[None]:
    """Check files before and after something is computed from them.

    Raises:
        CheckpointError: one was overwritten, so that the result, too, may be wrong.
    """
    for file in files:
        file.check()
    yield
    for file in files:
        file.check()


class MappedTensors:
    """The floating-point tensors of a file; nothing is read before it is used.

    Attributes:
        watched: the file, to be checked whenever a tensor is used.

    Raises:
        CheckpointError: no safetensors file, or a damaged one.
    """

    def __init__(self, path: Path) -> None:
        self.watched = WatchedFile(path)
        try:
            self._data: NDArray[np.uint8] = np.memmap(path, np.uint8, mode="r")
            length = int.from_bytes(self._data[:8].tobytes(), "little")
            header = json.loads(self._data[8 : 8 + min(length, _MAX_HEADER)].tobytes())
            header.pop("__metadata__", None)
            self._start = 8 + length
            places = sorted(tuple(entry["data_offsets"]) for entry in header.values())
            # Tensors lie one after the other, as the format's own reader demands, too.
            ends = [0, *(end for _, end in places)]
            fits = [begin for begin, _ in places] == ends[:-1]
            is_whole = self._start + ends[-1] == len(self._data)
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as err:
            raise CheckpointError(f"{path}: not a safetensors file, or damaged ({err})") from err
        if not (fits and is_whole):
            raise CheckpointError(
                f"{path}: damaged: the file ends before its tensors do, or they are not where its "
                "header says. Copy it again"
            )
        self._path = path
        self._entries: dict[str, dict[str, Any]] = header

    def keys(self) -> list[str]:
        """Return the tensors' names."""
        return list(self._entries)

    def __getitem__(self, name: str) -> NDArray[np.floating[Any]]:
        """Return a tensor: a view of the file; bfloat16, which numpy lacks, as a float32 copy.

        Raises:
            CheckpointError: there is none of that name, or it is damaged or holds no floats.
        """
        try:
            entry = self._entries[name]
            begin, end = entry["data_offsets"]
            flat = self._data[self._start + begin : self._start + end]
            stored = flat.view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
        except (KeyError, TypeError, ValueError) as err:
            raise CheckpointError(
                f"{self._path}: has no usable tensor {name!r} ({err!r}); it is another model's, or "
                "damaged"
            ) from err
        if entry["dtype"] == "BF16":  # the upper half of a float32
            return (stored.astype(np.uint32) << 16).view(np.float32)
        return stored


def _read_at(file: int, position: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(file, _SAMPLE_BYTES, position)
    os.lseek(file, position, os.SEEK_SET)  # Windows lets nobody overwrite a mapped file
    return os.read(file, _SAMPLE_BYTES)
