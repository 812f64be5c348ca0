"""Texts in numpy: the torch tower's vectors."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from small_models import CLIP, CORE, FP32_ON_CPU, WITHOUT_TEXT, drawing, open_tiny

from perception_encoder import AutoModel
from perception_encoder.auto import open_for_texts
from perception_encoder.backends import open_backend
from perception_encoder.backends.numpy_text import NumpyTextBackend, erf
from perception_encoder.checkpoints import Checkpoint, locate
from perception_encoder.errors import CheckpointError, UnsupportedOperationError
from perception_encoder.registry import ModelConfig

TOLERANCE = 2e-5  # on unit vectors, as between backends
END = CORE.text.vocab_size - 1 if CORE.text is not None else 0


def token_rows(batch: int, length: int) -> np.ndarray:
    rows = np.random.default_rng(batch).integers(0, END - 1, (batch, length))
    rows[:, length // 2] = END  # what follows the end must not matter
    return rows


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def saved(config: ModelConfig, folder: Path) -> Checkpoint:
    return locate(open_tiny(config).save_pretrained(folder))


def test_erf_is_right_to_float32() -> None:
    x = np.linspace(-5, 5, 2001, dtype=np.float32)
    expected = np.array([math.erf(value) for value in x])
    np.testing.assert_allclose(erf(x), expected, atol=5e-7)


@pytest.mark.parametrize("config", [CORE, CLIP], ids=lambda config: config.id)
@pytest.mark.parametrize(("batch", "length"), [(0, 5), (1, 1), (1, 12), (7, 9)])
def test_vectors_are_the_torch_towers(
    tmp_path: Path, config: ModelConfig, batch: int, length: int
) -> None:
    checkpoint = saved(config, tmp_path / "model")
    torch_backend = open_backend(checkpoint, FP32_ON_CPU)
    backend = NumpyTextBackend(checkpoint, torch_backend.fingerprint)
    rows = token_rows(batch, length)
    vectors = backend.encode_text(rows)
    assert vectors.dtype == np.float32
    expected = torch_backend.encode_text(rows)
    assert vectors.shape == expected.shape
    np.testing.assert_allclose(unit(vectors), unit(expected), atol=TOLERANCE)
    assert backend.logit_scale == pytest.approx(torch_backend.logit_scale, rel=1e-6)


def test_the_bundled_model_reads_real_texts_alike() -> None:
    checkpoint = locate("pe-nano")
    model = AutoModel.from_pretrained("pe-nano", device="cpu", precision="fp32")
    quick = open_for_texts(checkpoint, fingerprint=model.backend.fingerprint)
    assert quick.identity == model.identity
    texts = ["red heart", "", "Ein &amp; Zeichen ☂", "a very long text " * 30]
    np.testing.assert_allclose(quick.embed_text(texts), model.embed_text(texts), atol=TOLERANCE)


def test_an_image_opens_the_backend_and_has_its_vector() -> None:
    model = AutoModel.from_pretrained("pe-nano", device="cpu")
    quick = open_for_texts(locate("pe-nano"), fingerprint=model.backend.fingerprint)
    np.testing.assert_allclose(
        quick.embed_image(drawing(1)), model.embed_image(drawing(1)), atol=1e-6
    )
    quick.backend.close()
    other = open_for_texts(locate("pe-nano"), fingerprint="0" * 16)
    with pytest.raises(CheckpointError, match="not 0000"):
        other.embed_image(drawing(1))


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOperationError, match="reads no text"):
        NumpyTextBackend(saved(WITHOUT_TEXT, tmp_path / "images"), "")
    checkpoint = saved(CORE, tmp_path / "model")
    data = checkpoint.path.read_bytes()
    for number, damaged in enumerate((b"", b"\x80\x02pickle", data[:100], data[: len(data) // 2])):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=str(path)):
            NumpyTextBackend(dataclasses.replace(checkpoint, path=path), "").encode_text(
                token_rows(1, 4)
            )
    backend = NumpyTextBackend(checkpoint, "")
    with pytest.raises(UnsupportedOperationError, match="embeds texts only"):
        backend.encode_image(np.zeros((1, 32, 32, 3), np.uint8))
