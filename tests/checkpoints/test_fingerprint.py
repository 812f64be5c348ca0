import pytest
import torch
from checkpoints.checkpoint_samples import (
    CLIP,
    CORE,
    LANG,
    checkpoint,
    meta,
    native,
    open_clip,
    timm,
)
from safetensors.torch import save_file

from perception_encoder.checkpoints.load import load_model, random_model
from perception_encoder.checkpoints.save import save_model
from perception_encoder.checkpoints.tensors import weights_fingerprint


def test_all_files_of_the_same_weights_have_one_fingerprint(tmp_path):
    state = native(CORE)
    torch.save(meta(state), tmp_path / "a.pt")
    torch.save({"weights": meta(state)}, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    save_file(open_clip(state), tmp_path / "c.safetensors")
    paths = [tmp_path / "a.pt", tmp_path / "b.pt", tmp_path / "c.safetensors"]
    save_model(load_model(checkpoint(CORE, paths[0])).model, tmp_path / "own", None)
    paths.append(tmp_path / "own" / "model.safetensors")
    fingerprints = {load_model(checkpoint(CORE, path)).fingerprint for path in paths}
    assert fingerprints == {weights_fingerprint(random_model(CORE))}


def test_the_fingerprint_is_sixteen_hex_digits_and_does_not_change_between_versions():
    # Written in indexes and file names: a change makes every index foreign to its own model.
    model = random_model(LANG)
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape) + index)
    assert weights_fingerprint(model) == "22b8fd0785d1acbb"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_fingerprint_is_of_the_stored_weights_whatever_precision_is_asked_for(dtype, tmp_path):
    save_file(timm(native(LANG)), tmp_path / "w.safetensors")
    loaded = load_model(checkpoint(LANG, tmp_path / "w.safetensors"), dtype=dtype)
    assert loaded.fingerprint == weights_fingerprint(random_model(LANG))


def test_other_weights_another_shape_and_rounded_weights_have_other_fingerprints():
    models = [random_model(CORE), random_model(CORE, seed=1), random_model(CLIP)]
    models.append(random_model(CORE).bfloat16())
    assert len({weights_fingerprint(model) for model in models}) == len(models)


def test_a_change_at_the_start_middle_or_end_of_any_tensor_shows():
    model = random_model(CORE)
    before = weights_fingerprint(model)
    for name, parameter in model.named_parameters():
        values = parameter.view(-1)
        for index in {0, parameter.numel() // 2, parameter.numel() - 1}:
            value = values[index].item()
            values[index] = value + 1
            assert weights_fingerprint(model) != before, (name, index)
            values[index] = value
    assert weights_fingerprint(model) == before
