"""Weights that are overwritten while a model is open end in an error, not in other embeddings."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import CORE, open_tiny

from perception_encoder import AutoModel
from perception_encoder.auto import open_for_texts
from perception_encoder.checkpoints import locate
from perception_encoder.checkpoints import tensors as mapped
from perception_encoder.checkpoints.load import random_model
from perception_encoder.checkpoints.save import save_model
from perception_encoder.checkpoints.tensors import WatchedFile
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.errors import CheckpointError

IMAGES = [np.full((30, 30, 3), level, np.uint8) for level in (10, 200)]
OVERWRITTEN = r"model\.safetensors was overwritten while the model was open.*open the model again"


@pytest.fixture
def folder(tmp_path) -> Path:
    return open_tiny().save_pretrained(tmp_path / "model")


@pytest.fixture
def other(tmp_path) -> Path:
    """Other weights of the same model, in a file of the same size."""
    save_model(random_model(CORE, seed=1), tmp_path / "other", None)
    return tmp_path / "other" / "model.safetensors"


def opened(folder: Path, precision: str = "fp32") -> EmbeddingModel:
    return AutoModel.from_pretrained(folder, backend="torch", device="cpu", precision=precision)


def opened_for_texts(folder: Path) -> EmbeddingModel:
    return open_for_texts(locate(folder), fingerprint=opened(folder).identity.fingerprint)


def calls_of(model: EmbeddingModel):
    yield lambda: model.embed_text(["cat", "a cat"])
    if model.backend.name == "torch":
        yield lambda: model.embed_images(IMAGES)
        yield lambda: model.features(IMAGES)
        yield lambda: model.embed_video(IMAGES)


@pytest.mark.parametrize("open_model", [opened, opened_for_texts], ids=["torch", "numpy"])
@pytest.mark.parametrize("keeps_time", [False, True])
def test_other_weights_in_the_same_file_are_noticed(open_model, keeps_time, folder, other):
    path = folder / "model.safetensors"
    model = open_model(folder)
    for call in calls_of(model):
        call()
    before = path.stat()
    shutil.copyfile(other, path)
    if keeps_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    for call in calls_of(model):
        with pytest.raises(CheckpointError, match=OVERWRITTEN):
            call()
    again = opened(folder)
    assert again.identity.fingerprint != model.identity.fingerprint
    assert again.embed_text("cat").shape == (1, 24)


@pytest.mark.parametrize("open_model", [opened, opened_for_texts], ids=["torch", "numpy"])
def test_a_single_byte_that_is_overwritten_is_noticed(open_model, folder):
    path = folder / "model.safetensors"
    model = open_model(folder)
    model.embed_text("cat")
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 3)
        file.write(b"\x41")
    with pytest.raises(CheckpointError, match=OVERWRITTEN):
        model.embed_text("cat")


@pytest.mark.parametrize("open_model", [opened, opened_for_texts], ids=["torch", "numpy"])
def test_a_file_that_is_cut_while_it_is_mapped_ends_no_process(open_model, folder):
    model = open_model(folder)
    os.truncate(folder / "model.safetensors", 1000)
    for call in calls_of(model):
        with pytest.raises(CheckpointError, match=OVERWRITTEN):
            call()


def test_a_file_that_is_overwritten_during_a_batch_gives_no_embedding(folder, other):
    model = opened(folder)

    def overwrite(*_: object) -> None:
        shutil.copyfile(other, folder / "model.safetensors")

    handle = model.backend._graphs.image.vision.blocks[0].register_forward_hook(overwrite)  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match=OVERWRITTEN):
        model.embed_images(IMAGES)
    handle.remove()


def test_a_file_that_is_overwritten_while_it_is_read_is_refused(folder, other, monkeypatch):
    from perception_encoder.checkpoints import load

    take = load.fingerprint_of  # type: ignore[attr-defined]

    def overwritten(*args):
        shutil.copyfile(other, folder / "model.safetensors")
        return take(*args)

    monkeypatch.setattr(load, "fingerprint_of", overwritten)
    for precision in ("fp32", "bf16"):
        with pytest.raises(CheckpointError, match=OVERWRITTEN):
            opened(folder, precision)


@pytest.mark.parametrize("open_model", [opened, opened_for_texts], ids=["torch", "numpy"])
def test_a_file_that_is_replaced_or_removed_stays_open(open_model, folder, other, tmp_path):
    path = folder / "model.safetensors"
    model = open_model(folder)
    expected = model.embed_text(["cat", "a cat"])
    path.chmod(0o600)
    os.link(path, tmp_path / "backup")
    assert np.array_equal(model.embed_text(["cat", "a cat"]), expected)
    os.replace(other, path)
    assert np.array_equal(model.embed_text(["cat", "a cat"]), expected)
    path.unlink()
    (tmp_path / "backup").unlink()
    assert np.array_equal(model.embed_text(["cat", "a cat"]), expected)


def test_weights_that_were_copied_are_not_watched(folder, other):
    model = opened(folder, "bf16")
    expected = model.embed_images(IMAGES)
    shutil.copyfile(other, folder / "model.safetensors")
    assert np.array_equal(model.embed_images(IMAGES), expected)


def test_a_check_reads_nothing_of_an_unchanged_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(bytes(10_000))
    file = WatchedFile(path)
    monkeypatch.setattr(mapped, "_read_at", lambda *_: pytest.fail("the file was read"))
    for _ in range(3):
        file.check()


def test_what_cannot_be_watched_is_named(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(CheckpointError, match="cannot be read"):
            WatchedFile(path)


def test_watching_leaves_no_file_open(folder):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        model = opened(folder)
        with torch.inference_mode():
            model.embed_text("cat")
        model.close()
        del model
    assert len(os.listdir("/proc/self/fd")) <= before + 1
