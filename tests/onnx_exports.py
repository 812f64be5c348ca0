"""Exports each model to ONNX once in a process, since torch takes seconds for the smallest."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

_PLAIN = (bool, int, float, str, tuple, type(None))
_programs: dict[bytes, Any] = {}


@contextmanager
def exporting_once() -> Iterator[None]:
    """Let `torch.onnx.export` return copies of what it returned for the same weights before."""
    export = torch.onnx.export

    def export_once(module: nn.Module, sample: tuple[torch.Tensor, ...], **options: Any) -> Any:
        key = _digest(module, sample, options)
        if key not in _programs:
            _programs[key] = export(module, sample, **options).model  # type: ignore[union-attr]
        return SimpleNamespace(model=_programs[key].clone())

    with patch.object(torch.onnx, "export", export_once):
        yield


def _digest(module: nn.Module, sample: tuple[torch.Tensor, ...], options: dict[str, Any]) -> bytes:
    digest = hashlib.sha256(repr((sample, options)).encode())
    for name, part in module.named_modules():
        plain = {key: value for key, value in vars(part).items() if isinstance(value, _PLAIN)}
        digest.update(repr((name, type(part), plain)).encode())
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        digest.update(repr((name, tensor.shape, tensor.dtype)).encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.digest()
