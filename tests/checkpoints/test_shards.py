"""Weights that are divided among several files, with an index that names them."""

import json
import os
from pathlib import Path

import pytest
import torch
from checkpoints.checkpoint_samples import CORE, checkpoint, meta, native, open_clip
from checkpoints.test_load import assert_equal
from config_samples import OPEN_CLIP_CLIP
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file, save_file

from perception_encoder import AutoModel
from perception_encoder.checkpoints import locate
from perception_encoder.checkpoints.known_weights import find_known_weights
from perception_encoder.checkpoints.load import load_model, random_model
from perception_encoder.checkpoints.save import save_model
from perception_encoder.checkpoints.shards import read_shard_index
from perception_encoder.errors import CheckpointError

INDEX = "model.safetensors.index.json"


def divide(folder: Path, state: dict[str, torch.Tensor], *, pickled: bool = False) -> Path:
    """Save as the hub's library does; return the index."""
    save_torch_state_dict(state, folder, max_shard_size="100KB", safe_serialization=not pickled)
    (index,) = folder.glob("*.index.json")
    assert len(set(json.loads(index.read_text())["weight_map"].values())) > 3
    return index


def own_folder(folder: Path) -> Path:
    """A saved model whose weights are divided."""
    save_model(random_model(CORE), folder, None)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    divide(folder, {name: tensor.clone() for name, tensor in state.items()})
    return folder


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize("spell", [meta, open_clip])
def test_divided_weights_fill_the_model(spell, pickled, tmp_path):
    index = divide(tmp_path, spell(native(CORE)), pickled=pickled)
    loaded = load_model(checkpoint(CORE, index))
    assert_equal(loaded.model, native(CORE))
    assert len(loaded.watched) == 1 + len(read_shard_index(index))
    halved = load_model(checkpoint(CORE, index), dtype=torch.bfloat16).model
    assert_equal(halved, {name: tensor.bfloat16() for name, tensor in native(CORE).items()})


def test_a_folder_of_shards_opens_as_the_whole_does(tmp_path):
    folder = own_folder(tmp_path / "mine")
    save_model(random_model(CORE), tmp_path / "whole", None)
    whole = load_model(locate(tmp_path / "whole"))
    for path in (folder, folder / INDEX):
        found = locate(path)
        assert found.config == CORE
        assert found.path == folder / INDEX
        assert load_model(found).fingerprint == whole.fingerprint


def test_a_folder_of_nothing_but_shards_is_one_checkpoint(tmp_path):
    folder = tmp_path / "PE-Core-T16-384"
    folder.mkdir()
    index = divide(folder, meta(native(CORE)))
    assert locate(folder).path == index
    assert locate(folder).config.id == "perception-encoder/PE-Core-T16-384"


def test_an_open_clip_snapshot_may_be_divided(tmp_path):
    config = {**OPEN_CLIP_CLIP}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    save_file({"a": torch.ones(2)}, tmp_path / "part.safetensors")
    index = tmp_path / "open_clip_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "part.safetensors"}}))
    assert locate(tmp_path).path == index


def test_a_shard_that_changes_makes_other_weights(tmp_path):
    folder = own_folder(tmp_path / "mine")
    AutoModel.from_pretrained(folder, backend="torch", device="cpu")
    found = locate(folder)
    known = find_known_weights(found)
    assert known is not None
    assert known.fingerprint == load_model(found).fingerprint
    model = AutoModel.from_pretrained(folder, backend="torch", device="cpu", precision="fp32")
    shard = max(read_shard_index(found.path))
    os.utime(shard, ns=(0, 0))
    assert find_known_weights(found) is None
    with pytest.raises(CheckpointError, match=rf"{shard.name} was overwritten"):
        model.embed_images([torch.zeros(3, 32, 32)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "not the index of a model's files"),
        ("{", "not the index of a model's files"),
        ('{"weight_map": {}}', "its weight_map names no files"),
        ('{"weight_map": {"a": 3}}', "its weight_map names no files"),
        ('{"weight_map": {"a": "../secret.safetensors"}}', "only files of the same folder"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "only files of the same folder"),
        ('{"weight_map": {"a": "sub/a.safetensors"}}', "only files of the same folder"),
        ('{"weight_map": {"a": "C:a.safetensors"}}', "only files of the same folder"),
        ('{"weight_map": {"a": ".."}}', "only files of the same folder"),
        ('{"weight_map": {"a": "model.safetensors.index.json"}}', "is an index itself"),
        ('{"weight_map": {"a": "absent.safetensors"}}', r"incomplete, absent\.safetensors is"),
        ("[" * 100_000, "not the index of a model's files"),
        (
            json.dumps({"weight_map": {str(n): f"{n}.bin" for n in range(1001)}}),
            "names 1,001 files",
        ),
        (" " * (17 << 20), "larger than 16 MB"),
    ],
)
def test_an_index_that_cannot_be_used_says_why(content, message, tmp_path):
    (tmp_path / INDEX).write_text(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(checkpoint(CORE, tmp_path / INDEX))
    assert INDEX in str(caught.value)


def test_a_shard_that_holds_something_else_is_named(tmp_path):
    index = divide(tmp_path, meta(native(CORE)))
    shard, names = max(read_shard_index(index).items())
    save_file({"other": torch.ones(2)}, shard)
    with pytest.raises(CheckpointError, match=rf"{shard.name} does not hold what the index says"):
        load_model(checkpoint(CORE, index))
    assert names
