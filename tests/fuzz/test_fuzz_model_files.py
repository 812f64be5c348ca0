"""A model's files change, or its config says anything: an error of ours, or the same model."""

import copy
import json
import shutil
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from config_samples import OPEN_CLIP_CLIP, OPEN_CLIP_PE, timm_config
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import CORE, open_tiny

from perception_encoder.backends import graph_cache
from perception_encoder.backends.graph_cache import GraphFolder, checksums
from perception_encoder.backends.numpy_text import NumpyTextBackend
from perception_encoder.checkpoints import locate
from perception_encoder.checkpoints.load import load_model
from perception_encoder.errors import PerceptionEncoderError
from perception_encoder.registry import ModelConfig

FEWER = max(10, settings.default.max_examples // 4)  # an example loads a model
TOKEN_IDS = np.array([[1, 2, CORE.text.vocab_size - 1]])
EDITS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


def edited(content: bytes, edits: list[tuple[float, int]], begin: int, end: int) -> bytes:
    """Change bytes between two places."""
    damaged = bytearray(content)
    for place, mask in edits:
        damaged[begin + int(place * (end - begin))] ^= mask
    return bytes(damaged)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return open_tiny().save_pretrained(tmp_path_factory.mktemp("fuzz") / "whole")


@settings(max_examples=FEWER)
@given(edits=EDITS)
def test_a_header_of_weights_that_changes_changes_no_weight(
    folder: Path, edits: list[tuple[float, int]]
) -> None:
    whole, target = locate(folder), folder.parent / "damaged"
    shutil.copytree(folder, target, dirs_exist_ok=True)
    content = whole.path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    (target / whole.path.name).write_bytes(edited(content, edits, 0, header))
    expected = load_model(whole).model.state_dict()
    try:
        found = load_model(locate(target)).model.state_dict()
        assert all(value.equal(expected[name]) for name, value in found.items())
    except PerceptionEncoderError:
        pass
    try:
        texts = NumpyTextBackend(locate(target), "0" * 16).encode_text(TOKEN_IDS)
        assert np.array_equal(texts, NumpyTextBackend(whole, "0" * 16).encode_text(TOKEN_IDS))
    except PerceptionEncoderError:
        pass


@given(edits=EDITS)
def test_a_config_that_changes_is_the_same_or_an_error(
    folder: Path, edits: list[tuple[float, int]]
) -> None:
    target = folder.parent / "config"
    shutil.copytree(folder, target, dirs_exist_ok=True)
    content = (folder / "config.json").read_bytes()
    (target / "config.json").write_bytes(edited(content, edits, 0, len(content)))
    try:
        found = locate(target)
    except PerceptionEncoderError:
        return
    assert (found.config, found.preprocess) == (CORE, "standard")


def paths_of(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(value, dict):
        return [path]
    return [path, *(one for key in value for one in paths_of(value[key], (*path, key)))]


def replaced(value: dict[str, Any], path: tuple[str, ...], new: Any) -> Any:
    if not path:
        return new
    value = copy.deepcopy(value)
    reduce(lambda part, key: part[key], path[:-1], value)[path[-1]] = new
    return value


OWN = {
    "format": "perception-encoder",
    "format_version": 1,
    "preprocess": "standard",
    "model": CORE.to_dict(),
    "graphs": {"backend": "onnx", "precision": "fp32", "fingerprint": "0" * 16, "logit_scale": 1.0},
}
KINDS = {
    "pe": ("open_clip_config.json", OPEN_CLIP_PE),
    "clip": ("open_clip_config.json", OPEN_CLIP_CLIP),
    "timm": ("config.json", timm_config()),
    "own": ("config.json", OWN),
}


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_config_that_says_anything_is_read_or_refused(
    kind: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    name, config = KINDS[kind]
    path = data.draw(st.sampled_from(paths_of(config)))
    target = tmp_path_factory.getbasetemp() / f"fuzz-{kind}"
    target.mkdir(exist_ok=True)
    for weights in ("open_clip_model.safetensors", "model.safetensors"):
        if kind != "timm" or weights == "model.safetensors":
            (target / weights).touch()
    (target / name).write_text(json.dumps(replaced(config, path, data.draw(JSON))))
    try:
        found = locate(target)
    except PerceptionEncoderError:
        return
    assert ModelConfig.from_dict(found.config.to_dict()) == found.config


def flip(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]


HARMS: list[Callable[[bytes, int], bytes]] = [
    flip,
    lambda content, place: content[:place],
    lambda content, place: content[:place] + bytes(len(content) - place),
    lambda content, place: content[place:] + content[:place],
    lambda content, place: content + content[:place],
]


@pytest.mark.parametrize("small", [0, 1 << 30], ids=["meanwhile", "before"])
@given(name=st.sampled_from(["graph.xml", "graph.bin"]), place=st.floats(0, 1, exclude_max=True),
       harm=st.sampled_from(HARMS))  # fmt: skip
def test_a_graph_is_opened_with_the_bytes_that_were_written(
    small: int,
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    place: float,
    harm: Callable[[bytes, int], bytes],
) -> None:
    target = tmp_path_factory.getbasetemp() / "graph"
    target.mkdir(exist_ok=True)
    contents = {
        "graph.xml": b"<xml>" * 100,
        "graph.bin": np.random.default_rng(0).integers(0, 256, 3_000_000, np.uint8).tobytes(),
    }

    def write() -> None:
        for file, content in contents.items():
            (target / file).write_bytes(content)

    write()
    recorded = checksums(target)
    content = contents[name]
    (target / name).write_bytes(harm(content, int(place * len(content))))
    files = GraphFolder(target, lambda: recorded, write)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph_cache, "_SMALL_BYTES", small)
        opened, _ = files.opened(list(contents), lambda: [
            (target / file).read_bytes() for file in contents
        ])  # fmt: skip
    assert opened == list(contents.values())
