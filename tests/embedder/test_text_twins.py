"""Vision-only models and their twins with a text tower: one space, proven by the weights."""

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints.checkpoint_samples import State, open_clip, state_of, timm
from small_models import CORE, drawing
from twins import BOTH, REPO, VISION, Twins, register

from perception_encoder import AutoModel, EmbeddingModel
from perception_encoder.checkpoints.load import random_model
from perception_encoder.errors import CheckpointError, OfflineError, UnsupportedOperationError

IMAGES = [drawing(0), drawing(1), drawing(2)]


@pytest.fixture
def twins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Twins:
    return register(monkeypatch, tmp_path / "hub")


def opened(name: str) -> EmbeddingModel:
    return AutoModel.from_pretrained(name, device="cpu", backend="torch", precision="fp32")


@pytest.mark.usefixtures("twins")
def test_the_vision_tower_alone_gives_the_embeddings_of_its_twin() -> None:
    vision, both = opened(VISION), opened(BOTH)
    assert np.array_equal(vision.embed_images(IMAGES), both.embed_images(IMAGES))
    assert np.array_equal(vision.features(IMAGES), both.features(IMAGES))
    assert vision.identify_vision_tower() == both.identify_vision_tower()
    assert vision.identity.fingerprint == vision.identify_vision_tower()
    assert both.identity.fingerprint != both.identify_vision_tower()


@pytest.mark.usefixtures("twins")
def test_a_text_is_refused_with_the_name_of_the_twin() -> None:
    model = opened(VISION)
    assert not model.reads_text
    for ask in (model.embed_text, lambda text: model.explain(IMAGES[0], text)):
        with pytest.raises(UnsupportedOperationError, match=f"reads no text.*{BOTH}.*attach"):
            ask("a cat")


@pytest.mark.usefixtures("twins")
def test_the_twins_text_tower_can_be_attached() -> None:
    vision, both = opened(VISION), opened(BOTH)
    identity = vision.identity
    vision.attach_text_tower()
    assert vision.reads_text
    texts = ["cat", "a cat", "c"]
    np.testing.assert_allclose(vision.embed_text(texts), both.embed_text(texts), atol=2e-5)
    assert vision.logit_scale == pytest.approx(both.logit_scale)
    assert vision.identity == identity
    again = pickle.loads(pickle.dumps(vision))
    assert np.array_equal(again.embed_text(texts), vision.embed_text(texts))


def test_a_twin_with_another_vision_tower_is_refused(twins: Twins) -> None:
    state = open_clip(state_of(random_model(CORE, 1)))
    twins.put(REPO, "open_clip_model.safetensors", state)
    model = opened(VISION)
    with pytest.raises(CheckpointError, match="its vision tower is not the one of"):
        model.attach_text_tower()
    assert not model.reads_text


def test_a_twin_that_is_not_here_and_cannot_be_fetched_is_named(
    twins: Twins, caplog: pytest.LogCaptureFixture
) -> None:
    twins.remove(REPO)
    caplog.set_level(logging.WARNING)
    with pytest.raises(OfflineError, match=f"{VISION} reads no text.*{REPO}"):
        opened(VISION).attach_text_tower()


def test_only_a_vision_only_model_has_a_twin() -> None:
    model = AutoModel.from_pretrained("PE-Spatial-T16-512", random_weights=True)
    with pytest.raises(UnsupportedOperationError, match="use a PE-Core or CLIP model"):
        model.attach_text_tower()


@pytest.mark.usefixtures("twins")
def test_a_saved_vision_tower_keeps_its_twin(tmp_path: Path) -> None:
    model = opened(VISION)
    model.attach_text_tower()
    model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "tokenizer.json").exists()
    saved = opened(str(tmp_path / "saved"))
    assert saved.identity == model.identity
    saved.attach_text_tower()
    assert np.array_equal(saved.embed_text("cat"), model.embed_text("cat"))


def without(prefix: str) -> State:
    state = timm(state_of(random_model(CORE)))
    return {key: tensor for key, tensor in state.items() if not key.startswith(prefix)}


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({**without("-"), "head.bias": torch.ones(24)}, r"1 unexpected: head\.bias"),
        ({**without("-"), "head.weight": torch.ones(10, 32)}, r"head\.weight is \(10, 32\)"),
        (without("head."), r"1 missing: head\.weight"),  # reset_classifier(0)
        (without("attn_pool."), r"missing: attn_pool\.kv"),  # reset_classifier(24, "avg")
        ({**without("-"), "fc_norm.weight": torch.ones(32)}, r"1 unexpected: fc_norm\.weight"),
    ],
    ids=["bias", "classes", "no head", "no pool", "another norm"],
)
def test_a_tower_that_was_changed_is_refused(
    twins: Twins, tensors: dict[str, torch.Tensor], reason: str
) -> None:
    twins.put(VISION, "model.safetensors", tensors)
    with pytest.raises(CheckpointError, match=reason):
        opened(VISION)
