"""A registered pair of tiny models in a hub cache: a vision tower alone, and its twin with text.

Their files have the names and the layout of the real ones: timm's `model.safetensors`, and
open_clip's `open_clip_model.safetensors`.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from checkpoints.checkpoint_samples import open_clip, state_of, timm
from huggingface_hub import constants
from safetensors.torch import save_file
from small_models import CORE, TOKENIZER

from perception_encoder import registry
from perception_encoder.checkpoints.load import random_model
from perception_encoder.registry import ModelEntry, WeightSource

VISION = "timm/vit_tiny_core.fb"
BOTH = "perception-encoder/tiny-core"
REPO = "timm/tiny-core"

_COMMIT = "c" * 40


@dataclass(frozen=True)
class Twins:
    """The pair. Both names can be opened; `cache` is the hub's cache folder."""

    cache: Path

    def write(self, *, seed: int = 0) -> None:
        """Put both files into the cache; the vision towers are the same."""
        state = state_of(random_model(CORE, seed))
        self.put(VISION, "model.safetensors", timm(state))
        self.put(REPO, "open_clip_model.safetensors", open_clip(state))

    def put(self, repo: str, filename: str, tensors: dict) -> Path:
        snapshot = self._repo(repo) / "snapshots" / _COMMIT
        snapshot.mkdir(parents=True, exist_ok=True)
        (self._repo(repo) / "refs").mkdir(exist_ok=True)
        (self._repo(repo) / "refs" / "main").write_text(_COMMIT)
        save_file({k: t.contiguous() for k, t in tensors.items()}, snapshot / filename)
        TOKENIZER.save(snapshot / "tokenizer.json")
        return snapshot / filename

    def remove(self, repo: str) -> None:
        """Forget a repository, as if it had never been downloaded."""
        shutil.rmtree(self._repo(repo))

    def _repo(self, repo: str) -> Path:
        return self.cache / f"models--{repo.replace('/', '--')}"


def register(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Twins:
    """Register the pair, with both files in a cache of their own, without network."""
    core = registry.find("PE-Core-T16-384")
    both = replace(
        core,
        config=replace(CORE, id=BOTH),
        aliases=("tiny-core",),
        sources=(WeightSource(repo=REPO, filename="open_clip_model.safetensors"),),
    )
    vision = replace(
        both,
        config=replace(CORE, id=VISION, text=None),
        aliases=(),
        sources=(WeightSource(repo=VISION, filename="model.safetensors"),),
        text_twin=BOTH,
    )
    for entry in (both, vision):
        for name in _names(entry):
            monkeypatch.setitem(registry._BY_NAME, name.lower(), entry)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    twins = Twins(cache)
    twins.write()
    return twins


def _names(entry: ModelEntry) -> list[str]:
    return [entry.id, *entry.aliases, *(source.repo for source in entry.sources)]
