"""The text tower alone, out of the twin's file on a hub that sends parts of files."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from checkpoints.checkpoint_samples import open_clip, state_of
from checkpoints.hub_server import FakeHub, Request, serve
from safetensors.torch import save
from small_models import CORE, TOKENIZER
from twins import BOTH, REPO, VISION, Twins, register

from perception_encoder import AutoModel, EmbeddingModel
from perception_encoder.checkpoints import is_cached
from perception_encoder.checkpoints.load import random_model
from perception_encoder.errors import CheckpointError, DownloadError
from perception_encoder.registry import find

FILE = "open_clip_model.safetensors"


def content(seed: int = 0) -> bytes:
    state = open_clip(state_of(random_model(CORE, seed)))
    return save({key: tensor.contiguous() for key, tensor in state.items()})


@pytest.fixture
def twins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Twins:
    return register(monkeypatch, tmp_path / "hub")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where text towers are kept; the tiny one has a vocabulary of its own."""
    kept = tmp_path / "assets" / "perception-encoder" / "text-towers" / REPO.replace("/", "--")
    kept.mkdir(parents=True)
    TOKENIZER.save(kept / "tokenizer.json")
    return kept


@pytest.fixture
def hub(
    monkeypatch: pytest.MonkeyPatch, twins: Twins, folder: Path, tmp_path: Path
) -> Iterator[FakeHub]:
    """A hub that has the twin, of which nothing is in the cache."""
    from huggingface_hub import constants

    del folder
    twins.remove(REPO)
    with serve() as hub:
        url = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
        monkeypatch.setattr(time, "sleep", lambda _: None)
        hub.put(REPO, FILE, content())
        yield hub


def opened() -> EmbeddingModel:
    return AutoModel.from_pretrained(VISION, device="cpu", backend="torch", precision="fp32")


def expected(twins: Twins) -> np.ndarray:
    twins.write()
    return AutoModel.from_pretrained(BOTH, backend="torch", precision="fp32").embed_text("cat")


def test_only_the_text_tower_is_fetched_and_kept(
    hub: FakeHub, twins: Twins, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    model = opened()
    model.attach_text_tower()
    text = model.embed_text("cat")
    assert "downloading the text tower alone" in caplog.text
    assert is_cached(find(BOTH)) is None
    (kept,) = folder.glob("*.safetensors")
    sent = sum(received(request) for request in hub.gets())
    assert sent < kept.stat().st_size + 20_000  # what is kept, and the header of the whole file
    assert kept.stat().st_size < 0.6 * len(content())
    num_requests = len(hub.requests)
    again = opened()
    again.attach_text_tower(local_files_only=True)
    assert np.array_equal(again.embed_text("cat"), text)
    assert len(hub.requests) == num_requests
    np.testing.assert_allclose(text, expected(twins), atol=2e-5)


def received(request: Request) -> int:
    """Bytes that were asked for; a redirect has none."""
    if not request.path.startswith("/cdn/") or not request.range:
        return 0
    first, _, last = request.range.removeprefix("bytes=").partition("-")
    return int(last) + 1 - int(first)


def test_a_broken_connection_is_resumed(hub: FakeHub, twins: Twins) -> None:
    hub.cut_after = [8, 10**6, 3000, 5000]  # the length, the header, then parts of the tensors
    model = opened()
    model.attach_text_tower()
    assert not hub.cut_after
    text = model.embed_text("cat")
    np.testing.assert_allclose(text, expected(twins), atol=2e-5)


def test_a_fetch_given_up_is_continued(hub: FakeHub, twins: Twins, folder: Path) -> None:
    hub.cut_after = [8, 10**6, 100_000, *[0] * 12]
    with pytest.raises(DownloadError, match=f"{VISION} reads no text"):
        opened().attach_text_tower()
    (partial,) = folder.glob("*.incomplete")
    assert partial.stat().st_size > 100_000
    hub.cut_after = []
    first = len(hub.requests)
    model = opened()
    model.attach_text_tower()
    (kept,) = folder.glob("*.safetensors")
    assert sum(map(received, hub.requests[first:])) < kept.stat().st_size - 100_000 + 30_000
    text = model.embed_text("cat")
    np.testing.assert_allclose(text, expected(twins), atol=2e-5)


def test_a_hub_that_sends_whole_files_only_gives_the_whole_file(hub: FakeHub, folder: Path) -> None:
    hub.ignores_ranges = True
    model = opened()
    # The tiny twin's vocabulary is in no repository, so it ends there.
    with pytest.raises(Exception, match="vocabulary"):
        model.attach_text_tower()
    assert is_cached(find(BOTH)) is not None
    assert not list(folder.glob("*.safetensors"))


def test_a_text_tower_beside_another_vision_tower_is_refused(hub: FakeHub) -> None:
    hub.put(REPO, FILE, content(seed=1))
    with pytest.raises(CheckpointError, match="its vision tower is not the one of"):
        opened().attach_text_tower()
