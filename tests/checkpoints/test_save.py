import json
from pathlib import Path

import pytest
import torch
from checkpoints.checkpoint_samples import CORE, LANG, checkpoint, meta, native, state_of

from perception_encoder.checkpoints import locate
from perception_encoder.checkpoints.load import build_from_tensors, load_model, random_model
from perception_encoder.checkpoints.save import save_model
from perception_encoder.errors import CheckpointError
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.preprocess.vocabulary import build

WORDS = Tokenizer(build([("c", "a"), ("ca", "t</w>")]), CORE.text.context_length)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_model_comes_back_the_same(dtype, tmp_path):
    model = random_model(CORE).to(dtype)
    save_model(model, tmp_path / "mine", WORDS, preprocess="reference")
    assert names(tmp_path / "mine") == {"config.json", "model.safetensors", "tokenizer.json"}
    found = locate(tmp_path / "mine")
    assert found.config == CORE
    assert found.preprocess == "reference"
    assert found.entry is None
    assert Tokenizer.from_file(found.tokenizer, 12)("cat").tolist() == WORDS("cat").tolist()
    loaded = state_of(load_model(found).model)
    for name, tensor in state_of(model).items():
        assert torch.equal(loaded[name], tensor)
        assert loaded[name].dtype == dtype


def test_a_model_without_text_is_saved_without_a_tokenizer(tmp_path):
    save_model(random_model(LANG), tmp_path / "mine", None)
    found = locate(tmp_path / "mine")
    assert found.tokenizer is None
    assert found.preprocess == "standard"
    assert found.config == LANG


def test_a_model_whose_tensors_share_a_files_memory_can_be_saved(tmp_path):
    torch.save(meta(native(CORE)), tmp_path / "w.pt")
    model = load_model(checkpoint(CORE, tmp_path / "w.pt")).model
    save_model(model, tmp_path / "mine", None)
    save_model(build_from_tensors(CORE, meta(native(CORE))), tmp_path / "mine2", None)
    for folder in ("mine", "mine2"):
        saved = load_model(checkpoint(CORE, tmp_path / folder / "model.safetensors")).model
        for name, tensor in native(CORE).items():
            assert torch.equal(saved.get_parameter(name), tensor)


def test_saving_again_overwrites_even_the_file_the_model_is_mapped_from(tmp_path):
    folder = tmp_path / "mine"
    save_model(random_model(CORE), folder, WORDS)
    (folder / "README.md").write_text("notes")
    model = load_model(checkpoint(CORE, folder / "model.safetensors")).model
    save_model(model, folder, None)
    assert names(folder) == {"config.json", "model.safetensors", "README.md"}
    save_model(random_model(CORE, seed=1), folder, None)
    assert torch.equal(model.logit_scale, random_model(CORE).logit_scale)
    assert torch.equal(model.vision.patch_embed.weight, native(CORE)["vision.patch_embed.weight"])
    assert names(tmp_path) == {"mine"}


def test_a_folder_of_other_things_is_never_touched(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="Choose another folder"):
        save_model(random_model(CORE), tmp_path, None)
    assert names(tmp_path) == {"notes.txt"}


def test_the_path_of_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="Choose another folder"):
        save_model(random_model(CORE), tmp_path / "file", None)


def test_a_failure_leaves_the_former_model_whole(tmp_path, monkeypatch):
    save_model(random_model(CORE), tmp_path / "mine", WORDS)
    before = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()}

    def fail(_: Tokenizer, path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Tokenizer, "save", fail)
    with pytest.raises(OSError, match="No space"):
        save_model(random_model(CORE, seed=1), tmp_path / "mine", WORDS)
    assert {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()} == before
    assert names(tmp_path) == {"mine"}


def test_the_configuration_names_its_format_and_version(tmp_path):
    save_model(random_model(CORE), tmp_path / "mine", WORDS)
    data = json.loads((tmp_path / "mine" / "config.json").read_text())
    assert data["format"] == "perception-encoder"
    assert data["format_version"] == 1
    assert data["preprocess"] == "standard"
    assert data["model"]["vision"]["width"] == 64


def test_a_saved_model_may_be_read_by_whoever_may_read_new_files(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    save_model(random_model(LANG), tmp_path / "saved", None)
    modes = {path.stat().st_mode for path in (tmp_path / "saved").iterdir()}
    assert modes == {plain.stat().st_mode}
