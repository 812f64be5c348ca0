"""Tensors of a safetensors file as numpy arrays over the mapped file, without torch.

The format: 8 bytes with the length of a JSON header, the header, then the data
(https://huggingface.co/docs/safetensors). Knows nothing of models.
"""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.checkpoints.watched import WatchedFile
from perception_encoder.errors import CheckpointError

_DTYPES: Final = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_MAX_HEADER: Final = 100_000_000  # as the format's own reader


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
