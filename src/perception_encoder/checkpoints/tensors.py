"""Open a checkpoint file without reading it: every tensor is a view of the mapped file.

The first bytes decide between safetensors and torch's zip files (`.pt`, `.pth`, `.bin`), not the
name. Pickles are read with `weights_only=True`, so a file can contain tensors but no code.
"""

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from perception_encoder.errors import CheckpointError
from perception_encoder.model import DualEncoder
from perception_encoder.registry import MODELS, ModelConfig

_HEADER_BYTES: Final = 128
_WRAPPERS: Final = ("state_dict", "weights", "model")
_PARALLEL_PREFIX: Final = "module."  # put before every name by torch's DataParallel

# What torch.load raises for a damaged file depends on where the damage is.
_DAMAGE: Final = (
    RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError,
    zipfile.BadZipFile,
)  # fmt: skip
_RUN: Final = 32  # consecutive values read at the start, middle and end of each tensor
_DIGITS: Final = 16


@dataclass(frozen=True, slots=True)
class TensorFile:
    """An open checkpoint.

    `tensors` by the file's own names; `is_mapped` is false for torch's files from before version
    1.6, which can only be read whole. The mapping is private: nothing done to a tensor reaches the
    file. The file must not be truncated while a tensor lives.
    """

    tensors: Mapping[str, Tensor]
    is_mapped: bool


def open_tensors(path: Path) -> TensorFile:
    """Open a checkpoint.

    Raises:
        CheckpointError: it is missing, empty, damaged, of another format, or holds more than
            tensors.
    """
    if path.is_fifo():  # opening one would wait for a writer
        raise CheckpointError(f"{path}: cannot be read (a pipe); name a file of weights")
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError as err:
        raise CheckpointError(f"{path}: cannot be read ({err.strerror or err})") from err
    if header[8:9] == b"{":
        return TensorFile(_without_prefix(_open_safetensors(path)), is_mapped=True)
    if header[:2] == b"PK":
        return TensorFile(_without_prefix(_open_pickle(path, mmap=True)), is_mapped=True)
    if header[:1] == b"\x80":
        return TensorFile(_without_prefix(_open_pickle(path, mmap=False)), is_mapped=False)
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
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if isinstance(content, Mapping):
        # Beside tensors, wrappers hold counters and names; strictness is about tensors.
        tensors = {str(key): t.detach() for key, t in content.items() if isinstance(t, Tensor)}
        if tensors:
            return tensors
    raise CheckpointError(f"{path}: holds no tensors by name, so it is not a model's weights")


def _refuse_other_archives(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise CheckpointError(
                f"{path}: a TorchScript program, as OpenAI published CLIP. Use a file that holds "
                "weights only: `pe download clip/…` brings the same ones"
            )
    if path.suffix == ".safetensors":  # torch goes by the name
        raise CheckpointError(f"{path}: a torch file, despite its name. Rename it to end in .pt")


def _without_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if all(key.startswith(_PARALLEL_PREFIX) for key in tensors):
        return {key.removeprefix(_PARALLEL_PREFIX): tensor for key, tensor in tensors.items()}
    return dict(tensors)


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
    flat = tensor.reshape(-1)
    if flat.numel() <= 3 * _RUN:
        return flat
    middle = flat.numel() // 2
    return torch.cat([flat[:_RUN], flat[middle : middle + _RUN], flat[-_RUN:]])
