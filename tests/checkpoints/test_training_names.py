"""Checkpoints as training programs save them: wrapped, prefixed, averaged, compiled."""

import logging

import pytest
import torch
from checkpoints.checkpoint_samples import (
    CORE,
    LANG,
    State,
    checkpoint,
    meta,
    native,
    open_clip,
    state_of,
    timm,
)
from checkpoints.test_load import assert_equal
from safetensors.torch import save_file

from perception_encoder.checkpoints import locate
from perception_encoder.checkpoints.load import load_model, random_model
from perception_encoder.checkpoints.tensors import MappedTensors
from perception_encoder.errors import CheckpointError


def prefixed(prefix: str, state: State) -> State:
    return {prefix + key: tensor for key, tensor in state.items()}


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "model.",
        "net.",
        "model._orig_mod.module.",
        "net.module.",
        "encoder.",
        "base.clip._orig_mod.",
        "_fsdp_wrapped_module.model.",
    ],
)
@pytest.mark.parametrize("spell", [dict, meta, open_clip])
def test_names_are_freed_of_the_modules_that_held_the_model(spell, prefix, tmp_path):
    state = native(CORE)
    save_file(prefixed(prefix, spell(state)), tmp_path / "w.safetensors")
    assert_equal(load_model(checkpoint(CORE, tmp_path / "w.safetensors")).model, state)


def test_a_part_that_was_compiled_or_made_parallel_is_found_inside_its_model(tmp_path):
    state = native(CORE)
    tensors = {
        key.replace("visual.", "model.visual._orig_mod.").replace("attn.", "module.attn."): tensor
        for key, tensor in open_clip(state).items()
    }
    tensors = {key if key.startswith("model.") else f"model.{key}": t for key, t in tensors.items()}
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "w.ckpt")
    assert_equal(load_model(checkpoint(CORE, tmp_path / "w.ckpt")).model, state)


@pytest.mark.parametrize("prefix", ["timm_model.", "model.visual.", "trunk."])
def test_a_vision_tower_inside_another_module_is_found(prefix, tmp_path):
    state = native(LANG)
    torch.save(prefixed(prefix, timm(state)), tmp_path / "w.pt")
    assert_equal(load_model(checkpoint(LANG, tmp_path / "w.pt")).model, state)


def test_what_torchs_own_wrappers_save_is_read(tmp_path):
    model = random_model(CORE)
    averaged = torch.optim.swa_utils.AveragedModel(torch.nn.DataParallel(model))
    assert "n_averaged" in averaged.state_dict()
    torch.save(averaged.state_dict(), tmp_path / "w.pt")
    assert_equal(load_model(checkpoint(CORE, tmp_path / "w.pt")).model, native(CORE))


def test_what_lightning_saves_beside_the_weights_is_left_out(tmp_path):
    content = {
        "epoch": 4,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": prefixed("model.", open_clip(native(CORE))),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
        "hyper_parameters": {"lr": 1e-4},
        "rng": torch.zeros(8, dtype=torch.uint8),
    }
    torch.save(content, tmp_path / "last.ckpt")
    assert_equal(load_model(checkpoint(CORE, tmp_path / "last.ckpt")).model, native(CORE))


@pytest.mark.parametrize(
    ("averaged", "plain"),
    [
        (("ema",), ("model",)),
        (("model_ema",), ("model",)),
        (("ema_state_dict",), ("state_dict",)),
        (("state_dict_ema",), ("state_dict",)),
        (("ema", "module"), ("model", "module")),
    ],
)
@pytest.mark.parametrize("is_flat", [False, True], ids=["dictionaries", "names"])
def test_the_user_chooses_between_averaged_and_plain_weights(
    averaged, plain, is_flat, tmp_path, caplog
):
    sets = {averaged: native(CORE, 1), plain: native(CORE, 0)}
    content: dict = {"step": torch.tensor(7)} if is_flat else {"epoch": 7}
    for wrappers, state in sets.items():
        if is_flat:
            content |= prefixed(".".join(wrappers) + ".", meta(state))
            continue
        nested: dict = meta(state)
        for name in reversed(wrappers[1:]):
            nested = {name: nested, "updates": 3}
        content[wrappers[0]] = nested
    torch.save(content, tmp_path / "w.pt")
    for ema, expected, other in ((True, averaged, plain), (False, plain, averaged)):
        caplog.clear()
        found = locate(tmp_path / "w.pt", model="PE-Core-T16-384", ema=ema)
        located = checkpoint(CORE, tmp_path / "w.pt", ema=found.ema)
        with caplog.at_level(logging.WARNING):
            assert_equal(load_model(located).model, sets[expected])
        (message,) = (one.getMessage() for one in caplog.records)
        assert f"{expected[0]!r} are used" in message
        assert f"{other[0]!r}; ema={not ema} takes those" in message


def test_averaged_weights_alone_are_taken_without_a_word(tmp_path, caplog):
    torch.save({"ema": meta(native(CORE)), "model": {"a": 1}}, tmp_path / "w.pt")
    with caplog.at_level(logging.WARNING):
        for ema in (True, False):
            located = checkpoint(CORE, tmp_path / "w.pt", ema=ema)
            assert_equal(load_model(located).model, native(CORE))
    assert not caplog.records


def test_texts_are_read_without_torch_from_prefixed_names(tmp_path):
    state = open_clip(native(CORE, 1))
    tensors = {**prefixed("ema.", state), **prefixed("model.", open_clip(native(CORE, 0)))}
    save_file(tensors, tmp_path / "w.safetensors")
    for ema, seed in ((True, 1), (False, 0)):
        mapped = MappedTensors(tmp_path / "w.safetensors", ema=ema)
        assert set(mapped.keys()) == set(state)
        found = torch.from_numpy(mapped["text.text_projection"].copy())
        assert torch.equal(found, open_clip(native(CORE, seed))["text.text_projection"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"state_dict": {**prefixed("model.", meta(native(CORE))), "loss.w": torch.ones(1)}},
            r"1 unexpected: state_dict\.loss\.w",
        ),
        (
            {**prefixed("clip.", meta(native(CORE))), "head.weight": torch.ones(1)},
            r"names begin with 'clip\.', but not those of head\.weight\. Save the state_dict",
        ),
        (
            {"model": meta(native(CORE)), "net": meta(native(CORE))},
            r"several models \('model', 'net'\)\. Save the state_dict of the one",
        ),
        (
            {**prefixed("module.", meta(native(CORE))), **meta(native(CORE))},
            "are one tensor under two names",
        ),
        (
            {
                "base_model.model.visual.conv1.weight": torch.ones(1),
                "base_model.model.visual.proj.lora_A.default.weight": torch.ones(1),
            },
            "PEFT model in training: save its adapter with save_pretrained",
        ),
        ({"student": meta(native(CORE)), "epoch": 1}, "holds no tensors.*it has epoch, student"),
        ({"ema": {"visual.proj": torch.ones(2)}, "model": {"a": 1}}, "not the weights of"),
    ],
)
def test_what_fits_no_model_is_refused_with_its_names(content, message, tmp_path):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(checkpoint(CORE, tmp_path / "w.pt"))
    assert "w.pt" in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_files_of_any_precision_keep_it_until_another_is_asked_for(dtype, tmp_path):
    state = {name: tensor.to(dtype) for name, tensor in native(CORE).items()}
    torch.save({"state_dict": prefixed("model.", open_clip(state))}, tmp_path / "w.ckpt")
    assert_equal(load_model(checkpoint(CORE, tmp_path / "w.ckpt")).model, state)
    loaded = load_model(checkpoint(CORE, tmp_path / "w.ckpt"), dtype=torch.float32)
    assert {tensor.dtype for tensor in state_of(loaded.model).values()} == {torch.float32}
