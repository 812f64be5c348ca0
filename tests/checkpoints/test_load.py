import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoints.checkpoint_samples import (
    CLIP,
    CORE,
    CORE_WITHOUT_CLASS_TOKEN,
    LANG,
    State,
    checkpoint,
    meta,
    native,
    open_clip,
    state_of,
    timm,
)
from safetensors.torch import save_file
from torch import Tensor

from perception_encoder.checkpoints.load import build_from_tensors, load_model
from perception_encoder.checkpoints.remap import plan_parameters
from perception_encoder.errors import CheckpointError
from perception_encoder.model import DualEncoder
from perception_encoder.registry import ModelConfig


def bare_meta(state: State) -> State:
    return meta(state, prefix="")


FORMATS = [
    pytest.param(config, spell, id=f"{config.id}-{spell.__name__}")
    for config, spellings in (
        (CORE, (dict, meta, open_clip)),
        (CORE_WITHOUT_CLASS_TOKEN, (dict, meta, open_clip)),
        (CLIP, (dict, meta)),
        (LANG, (dict, meta, bare_meta, timm)),
    )
    for spell in spellings
]


def write(tensors: State, path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


def assert_equal(model: DualEncoder, state: State) -> None:
    assert list(state_of(model)) == list(state)
    for name, tensor in state_of(model).items():
        assert tensor.dtype == state[name].dtype, name
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize(("config", "spell"), FORMATS)
def test_every_format_fills_the_same_module(config, spell, suffix, tmp_path):
    state = native(config)
    path = write(spell(state), tmp_path / f"weights{suffix}")
    assert_equal(load_model(checkpoint(config, path)).model, state)


def test_the_loaded_model_computes_what_the_saved_one_did(tmp_path):
    state = native(CORE)
    pixels = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    loaded = load_model(checkpoint(CORE, write(open_clip(state), tmp_path / "w.safetensors")))
    expected = build_from_tensors(CORE, state).encode_image(pixels)
    # Not equal to the last bit: the file's tensors begin at other addresses, and so do sums.
    torch.testing.assert_close(loaded.model.encode_image(pixels), expected, atol=2e-5, rtol=0)


def test_a_loaded_model_is_in_eval_mode_without_gradients_and_contiguous(tmp_path):
    path = write(meta(native(CORE)), tmp_path / "w.pt")
    model = load_model(checkpoint(CORE, path)).model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.is_contiguous() for parameter in model.parameters())


@pytest.mark.parametrize("wrapper", ["state_dict", "weights", "model"])
def test_wrappers_of_training_scripts_are_opened(wrapper, tmp_path):
    state = native(CORE)
    torch.save({"epoch": 7, wrapper: meta(state)}, tmp_path / "w.pt")
    assert_equal(load_model(checkpoint(CORE, tmp_path / "w.pt")).model, state)


def test_the_prefix_of_a_parallel_model_is_dropped_where_every_name_has_it(tmp_path):
    state = native(CORE)
    write({f"module.{key}": t for key, t in meta(state).items()}, tmp_path / "w.pt")
    assert_equal(load_model(checkpoint(CORE, tmp_path / "w.pt")).model, state)


def test_a_file_of_torch_before_1_6_is_read(tmp_path):
    state = native(CORE)
    torch.save(meta(state), tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    assert_equal(load_model(checkpoint(CORE, tmp_path / "w.pt")).model, state)
    halved = load_model(checkpoint(CORE, tmp_path / "w.pt"), dtype=torch.bfloat16).model
    assert_equal(halved, {name: t.bfloat16() for name, t in state.items()})


@pytest.mark.parametrize("spell", [dict, meta, open_clip])
def test_a_vision_model_takes_the_vision_tower_of_a_file_with_both(spell, tmp_path):
    state = native(CORE)
    config = ModelConfig(id="tiny/vision", vision=CORE.vision, embed_dim=CORE.embed_dim)
    path = write(spell(state), tmp_path / "w.safetensors")
    vision = {name: tensor for name, tensor in state.items() if name.startswith("vision.")}
    assert_equal(load_model(checkpoint(config, path)).model, vision)


@pytest.mark.parametrize("key", ["attn_mask", "context_length", "vocab_size"])
def test_buffers_that_nothing_reads_are_ignored(key):
    state = native(CLIP)
    assert_equal(build_from_tensors(CLIP, {**meta(state), key: torch.zeros(3)}), state)


def test_a_logit_scale_of_one_element_is_a_scalar():
    state = native(CORE)
    spelled = {**open_clip(state), "logit_scale": state["logit_scale"].reshape(1)}
    assert_equal(build_from_tensors(CORE, spelled), state)


def test_missing_unexpected_and_misshapen_tensors_are_listed_in_the_files_own_names(tmp_path):
    tensors = meta(native(CORE))
    del tensors["visual.ln_pre.bias"]
    tensors["visual.extra"] = torch.zeros(2)
    tensors["text_projection"] = torch.zeros(32, 25)
    path = write(tensors, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_model(checkpoint(CORE, path))
    text = str(caught.value)
    assert str(path) in text
    assert "1 missing: visual.ln_pre.bias" in text
    assert "1 unexpected: visual.extra" in text
    assert "1 misshapen: text_projection is (32, 25), should be (32, 24)" in text
    assert "model=" in text


def test_an_error_lists_ten_names_and_counts_the_rest():
    tensors = open_clip(native(CORE))
    for key in [key for key in tensors if "resblocks.1." in key]:
        del tensors[key]
    with pytest.raises(CheckpointError, match=r"12 missing: .* and 2 more"):
        build_from_tensors(CORE, tensors)


def test_every_single_tensor_of_every_format_is_needed():
    for config, spell in ((CORE, meta), (CORE, open_clip), (CLIP, meta), (LANG, timm)):
        state = native(config)
        tensors, shapes = spell(state), {name: tuple(t.shape) for name, t in state.items()}
        plan_parameters(tensors, shapes)
        for key in tensors.keys() - {"visual.trunk.head.bias"}:
            rest = {other: tensor for other, tensor in tensors.items() if other != key}
            with pytest.raises(CheckpointError):
                plan_parameters(rest, shapes)


def test_weights_of_another_size_of_model_are_refused():
    with pytest.raises(CheckpointError, match="misshapen"):
        build_from_tensors(CORE, meta(native(CORE_WITHOUT_CLASS_TOKEN)))


def test_a_projection_bias_is_accepted_only_where_it_is_zero():
    tensors = open_clip(native(CORE))
    tensors["visual.trunk.head.bias"][3] = 0.5
    with pytest.raises(CheckpointError, match=r"unexpected: visual\.trunk\.head\.bias"):
        build_from_tensors(CORE, tensors)


def test_a_vision_file_does_not_pass_for_a_model_with_text():
    with pytest.raises(CheckpointError, match=r"text\.token_embedding\.weight|text\."):
        build_from_tensors(
            CORE, bare_meta({k: t for k, t in native(CORE).items() if "vision" in k})
        )


def test_foreign_weights_are_named_as_such():
    with pytest.raises(CheckpointError, match=r"not the weights of .* among its 1 tensors.*fc\.w"):
        build_from_tensors(CORE, {"fc.w": torch.zeros(2)})


def test_integer_weights_are_refused():
    tensors = meta(native(CORE))
    tensors["visual.ln_pre.bias"] = torch.zeros(64, dtype=torch.int8)
    with pytest.raises(CheckpointError, match=r"visual\.ln_pre\.bias is torch\.int8"):
        build_from_tensors(CORE, tensors)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_precision_is_converted_exactly_once(dtype, suffix, tmp_path):
    state = native(CORE)
    path = write(open_clip(state), tmp_path / f"w{suffix}")
    loaded = load_model(checkpoint(CORE, path), dtype=dtype)
    assert_equal(loaded.model, {name: tensor.to(dtype) for name, tensor in state.items()})


def test_half_precision_files_stay_so_unless_told_otherwise(tmp_path):
    state = {name: tensor.half() for name, tensor in native(CORE).items()}
    path = write(meta(state), tmp_path / "w.safetensors")
    assert_equal(load_model(checkpoint(CORE, path)).model, state)
    single = load_model(checkpoint(CORE, path), dtype=torch.float32).model
    assert_equal(single, {name: tensor.float() for name, tensor in state.items()})


def test_a_file_of_several_precisions_is_widened_to_one(tmp_path):
    state = native(CORE)
    mixed = {name: t if t.ndim == 1 else t.bfloat16() for name, t in state.items()}
    model = load_model(checkpoint(CORE, write(meta(mixed), tmp_path / "w.pt"))).model
    assert_equal(model, {name: tensor.float() for name, tensor in mixed.items()})


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_large_tensors_are_views_of_the_file(suffix, tmp_path):
    path = write(meta(native(CORE)), tmp_path / f"w{suffix}")
    model = load_model(checkpoint(CORE, path)).model
    copied = [name for name, t in state_of(model).items() if not is_mapped(t, path)]
    assert copied == ["vision.projection.weight", "text.projection.weight"]  # transposed


def is_mapped(tensor: Tensor, path: Path) -> bool:
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, rest = line.partition(" ")
        start, end = (int(number, 16) for number in span.split("-"))
        if start <= tensor.data_ptr() < end:
            return rest.endswith(str(path))
    return False


def test_changing_a_loaded_model_leaves_the_file_alone(tmp_path):
    path = write(native(CORE), tmp_path / "w.safetensors")
    before = path.read_bytes()
    load_model(checkpoint(CORE, path)).model.vision.pre_norm.weight.zero_()
    assert path.read_bytes() == before


def test_loading_does_not_import_torchs_compiler(tmp_path):
    path = write(meta(native(CORE)), tmp_path / "w.safetensors")
    script = f"""
import subprocess
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from checkpoints.checkpoint_samples import CORE, checkpoint
from perception_encoder.checkpoints.load import load_model
load_model(checkpoint(CORE, Path({str(path)!r})))
print([name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules])
"""
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert output.stdout.decode().strip() == "[]"
