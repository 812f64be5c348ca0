"""Open a checkpoint file without reading it: every tensor is a view of the mapped file.

The first bytes decide between safetensors and torch's zip files (`.pt`, `.pth`, `.bin`), not the
name. Pickles are read with `weights_only=True`, so a file can contain tensors but no code.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import weakref
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.checkpoints.names import list_names
from perception_encoder.checkpoints.shards import is_shard_index, read_shard_index
from perception_encoder.checkpoints.training_names import find_model_names, flatten_wrappers
from perception_encoder.errors import CheckpointError
from perception_encoder.registry import MODELS, ModelConfig

if TYPE_CHECKING:  # mapped tensors are read without torch
    from torch import Tensor

    from perception_encoder.model import DualEncoder

_HEADER_BYTES: Final = 128

# What torch.load raises for a damaged file depends on where the damage is.
_DAMAGE: Final = (
    RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError,
    zipfile.BadZipFile,
)  # fmt: skip
_RUN: Final = 32  # consecutive values read at the start, middle and end of each tensor
_DIGITS: Final = 16
_NUM_SAMPLES: Final = 64
_SAMPLE_BYTES: Final = 4096
_DTYPES: Final = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_MAX_HEADER: Final = 100_000_000  # bytes; the limit of the format's own reader


@dataclass(frozen=True, slots=True)
class TensorFile:
    """An open checkpoint.

    `tensors` by the file's own names, without the wrappers of training programs; `is_mapped` is
    false for torch's files from before version 1.6, which can only be read whole. The mapping is
    private: nothing done to a tensor reaches the file. The file must not be truncated while a
    tensor lives. `choice` says which of two sets of weights these are, None where there is one.
    """

    tensors: Mapping[str, Tensor]
    is_mapped: bool
    choice: str | None = None


def open_tensors(path: Path, *, ema: bool = True) -> TensorFile:
    """Open a checkpoint, or all files that an index of shards names.

    Args:
        path: the file.
        ema: take averaged weights where there are plain ones, too.

    Raises:
        CheckpointError: it is missing, empty, damaged, of another format, or holds more than
            tensors, or several models.
    """
    file = _open_shards(path) if is_shard_index(path) else open_raw_tensors(path)
    try:
        found = find_model_names(file.tensors, ema=ema)
    except CheckpointError as err:
        raise CheckpointError(f"{path}: {err}") from err
    named = {name: file.tensors[key] for name, key in found.stored.items()}
    return TensorFile(named, file.is_mapped, found.choice)


def _open_shards(path: Path) -> TensorFile:
    tensors: dict[str, Tensor] = {}
    are_mapped = True
    for shard, names in read_shard_index(path).items():
        opened = open_raw_tensors(shard)
        if opened.tensors.keys() != names:
            wrong = sorted(opened.tensors.keys() ^ names)
            raise CheckpointError(
                f"{path}: {shard.name} does not hold what the index says"
                f"{list_names(wrong, lead='; only one of them has ')}. Download or copy all again"
            )
        tensors.update(opened.tensors)
        are_mapped = are_mapped and opened.is_mapped
    return TensorFile(tensors, are_mapped)


def open_raw_tensors(path: Path) -> TensorFile:
    """Open one file; a training program's wrappers stay in the names.

    Raises:
        CheckpointError: as `open_tensors`.
    """
    if path.is_fifo():  # opening one would wait for a writer
        raise CheckpointError(f"{path}: cannot be read (a pipe); name a file of weights")
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError as err:
        raise CheckpointError(f"{path}: cannot be read ({err.strerror or err})") from err
    if header[8:9] == b"{":
        return TensorFile(_open_safetensors(path), is_mapped=True)
    if header[:2] == b"PK":
        return TensorFile(_open_pickle(path, mmap=True), is_mapped=True)
    if header[:1] == b"\x80":
        return TensorFile(_open_pickle(path, mmap=False), is_mapped=False)
    raise CheckpointError(f"{path}: {_other_format(header)}")


def _other_format(header: bytes) -> str:
    if not header:
        return "the file is empty. Download it again"
    if header.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the weights. Run `git lfs pull`, or download the file"
    return "not a checkpoint: neither safetensors nor a file that torch.save made"


def _open_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as err:
        raise CheckpointError(
            f"{path}: damaged or incomplete safetensors file ({err}). Download or copy it again"
        ) from err


def _open_pickle(path: Path, *, mmap: bool) -> dict[str, Tensor]:
    import torch

    try:
        if mmap:
            _refuse_other_archives(path)
        content = torch.load(str(path), map_location="cpu", mmap=mmap, weights_only=True)
    except pickle.UnpicklingError as err:  # torch's text advises to run the file: not repeated
        raise CheckpointError(
            f"{path}: holds Python objects beside tensors, none of which was run, or is damaged. "
            "Where you trust its origin, load it with the program that made it and save the bare "
            "state_dict as safetensors; else download or copy it again"
        ) from err
    except _DAMAGE as err:
        reason = str(err).strip().partition("\n")[0]
        raise CheckpointError(
            f"{path}: damaged or incomplete torch file ({reason}). Download or copy it again"
        ) from err
    is_mapping = isinstance(content, Mapping)
    tensors = flatten_wrappers(content, torch.Tensor) if is_mapping else {}
    if not tensors:
        held = list_names(sorted(map(str, content)), lead="; it has ") if is_mapping else ""
        raise CheckpointError(
            f"{path}: holds no tensors by name, so it is not a model's weights{held}"
        )
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _refuse_other_archives(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise CheckpointError(
                f"{path}: a TorchScript program, as OpenAI published CLIP. Use a file that holds "
                "weights only: `pe download clip/…` brings the same ones"
            )
    if path.suffix == ".safetensors":  # torch goes by the name
        raise CheckpointError(f"{path}: a torch file, despite its name. Rename it to end in .pt")


def weights_fingerprint(model: DualEncoder) -> str:
    """Return 16 hex digits of the SHA-256 over names, shapes and sampled float32 values.

    Take it before weights are converted to another precision: rounded weights are other weights.
    """
    return fingerprint_of(dict(model.named_parameters()), model.config)


def fingerprint_of(parameters: Mapping[str, Tensor], config: ModelConfig) -> str:
    """As `weights_fingerprint`, from our parameter names and their tensors."""
    digest = hashlib.sha256(_deviation(config))
    for name in sorted(parameters):
        tensor = parameters[name].detach()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(_sampled(tensor).float().cpu().numpy().astype("<f4").tobytes())
    return digest.hexdigest()[:_DIGITS]


def _deviation(config: ModelConfig) -> bytes:
    """Name a config that is not the one its id is registered with; b"" for all others."""
    registered = next((entry.config for entry in MODELS if entry.id == config.id), config)
    return b"" if registered == config else config.digest().encode()


def _sampled(tensor: Tensor) -> Tensor:
    """(at most 96,) values, in runs: a mapped file is read by pages, and each costs time."""
    import torch

    flat = tensor.reshape(-1)
    if flat.numel() <= 3 * _RUN:
        return flat
    middle = flat.numel() // 2
    return torch.cat([flat[:_RUN], flat[middle : middle + _RUN], flat[-_RUN:]])


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

    Args:
        path: a safetensors file.
        ema: as in `open_tensors`.

    Attributes:
        watched: the file, to be checked whenever a tensor is used.

    Raises:
        CheckpointError: no safetensors file, or a damaged one.
    """

    def __init__(self, path: Path, *, ema: bool = True) -> None:
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
        stored = find_model_names(header, ema=ema).stored
        self._entries: dict[str, dict[str, Any]] = {
            name: header[key] for name, key in stored.items()
        }

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
