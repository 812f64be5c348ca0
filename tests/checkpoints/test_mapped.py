"""Checkpoints without torch: every naming and precision of a safetensors file, read by numpy."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints.checkpoint_samples import CORE, checkpoint, meta, native, open_clip
from safetensors.torch import save_file
from small_models import FP32_ON_CPU

from perception_encoder.backends import open_backend
from perception_encoder.backends.numpy_text import NumpyTextBackend
from perception_encoder.checkpoints.tensors import MappedTensors
from perception_encoder.errors import CheckpointError


@pytest.mark.parametrize("naming", [meta, open_clip, native], ids=lambda naming: naming.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_naming_and_precision_of_a_file_is_read(
    tmp_path: Path, naming: Callable[..., dict[str, torch.Tensor]], dtype: torch.dtype
) -> None:
    tensors = native(CORE)
    named = tensors if naming is native else naming(tensors)
    path = tmp_path / "weights.safetensors"
    save_file({name: tensor.to(dtype).contiguous() for name, tensor in named.items()}, path)
    found = checkpoint(CORE, path)
    end = CORE.text.vocab_size - 1
    rows = np.array([[3, 5, end, 7], [end, 0, 0, 0], [9, 8, 7, end]])
    expected = open_backend(found, FP32_ON_CPU).encode_text(rows)
    vectors = NumpyTextBackend(found, "").encode_text(rows)
    np.testing.assert_allclose(vectors, expected, atol=1e-5 * np.abs(expected).max())


def test_tensors_are_those_that_were_saved(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(2.5, dtype=torch.float64)}
    save_file({**tensors, "n": torch.arange(3)}, tmp_path / "t.safetensors", {"note": "x"})
    mapped = MappedTensors(tmp_path / "t.safetensors")
    assert sorted(mapped.keys()) == ["a", "b", "n"]
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(mapped[name], tensor.numpy())
    for name in ("n", "missing"):  # whole numbers are no weights
        with pytest.raises(CheckpointError, match=f"no usable tensor '{name}'"):
            mapped[name]
