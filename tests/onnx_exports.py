"""Exports each model to ONNX once in a run of tests, since torch takes seconds for the smallest.

All processes of a run share a folder, which conftest.py makes: pytest's workers, and children whose
script uses `exporting_once` as well.
"""

import functools
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import onnx_ir
import torch
from onnx import ModelProto
from torch import nn

from perception_encoder.atomic import atomic_write

_PLAIN = (bool, int, float, str, tuple, type(None))


@contextmanager
def exporting_once() -> Iterator[None]:
    """Let `torch.onnx.export` return what it returned for the same weights before."""
    export, folder = torch.onnx.export, Path(os.environ["PE_TEST_SHARED"])

    def export_once(module: nn.Module, sample: tuple[torch.Tensor, ...], **options: Any) -> Any:
        path = folder / f"{_digest(module, sample, options)}.onnx"
        if not path.exists():
            model = export(module, sample, **options).model  # type: ignore[union-attr]
            with atomic_write(path) as file:
                file.write_bytes(onnx_ir.to_proto(model).SerializeToString())
        return SimpleNamespace(model=onnx_ir.from_proto(ModelProto.FromString(path.read_bytes())))

    with patch.object(torch.onnx, "export", export_once), _reading_operators_once():
        yield


@contextmanager
def _reading_operators_once() -> Iterator[None]:
    """Keep torch's table of ONNX operators, which each export makes anew from their sources."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:  # another version of torch: exports take longer
        yield
        return
    read_once = staticmethod(functools.lru_cache(ONNXRegistry.from_torchlib))
    with patch.object(ONNXRegistry, "from_torchlib", read_once):
        yield


def _digest(module: nn.Module, sample: tuple[torch.Tensor, ...], options: dict[str, Any]) -> str:
    digest = hashlib.sha256(repr((sample, options)).encode())
    for name, part in module.named_modules():
        plain = {key: value for key, value in vars(part).items() if isinstance(value, _PLAIN)}
        digest.update(repr((name, type(part), plain)).encode())
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        digest.update(repr((name, tensor.shape, tensor.dtype)).encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
