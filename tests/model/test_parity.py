"""Our towers against outputs recorded from the original implementations on the same weights.

The checkpoint is made by formula under the original's own key names, so each test also goes
through recognition, remapping and strict loading. What was recorded: tests/golden/README.md.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import formula
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from perception_encoder.checkpoints.load import build_from_tensors
from perception_encoder.model import DualEncoder
from perception_encoder.registry import ModelConfig, TextConfig, VisionConfig, find

# Unit vectors. float32 sums of up to 4096 terms in another order (fused qkv, another attention
# kernel) differ by a few 1e-7 in each of up to 24 blocks; a wrong rope axis, activation or
# epsilon moves them by more than 1e-3 (parity/sensitivity.py).
TOLERANCE = 2e-5
# Features are not normalized: values near 1, read before the last sum averages errors away.
FEATURE_TOLERANCE = 2e-4

CORE = ["PE-Core-T16-384", "PE-Core-S16-384", "PE-Core-B16-224", "PE-Core-L14-336"]
CLIP = ["ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336"]
SHRUNKEN = [
    "PE-Core-G14-shrunken",
    "PE-Spatial-G14-shrunken",
    "PE-Spatial-B16-shrunken",
    "PE-Lang-L14-shrunken",
]
PE_CASES = [(name, naming) for name in [*CORE, *SHRUNKEN] for naming in ("openclip", "meta")]
# The largest model in one naming: the others show that both lead to the same modules.
PE_CASES.remove(("PE-Core-L14-336", "meta"))
# Its text tower has the same numbers as B16's, and weights by formula take seconds.
VISION_ALONE = "PE-Core-L14-336"
CASES = [*PE_CASES, *((f"CLIP-{name}", "openclip") for name in CLIP)]


def config_of(name: str, numbers: dict[str, object]) -> ModelConfig:
    """The registered configuration, or that of a shrunken model from its recorded numbers."""
    if not name.endswith("-shrunken"):
        return find(name.replace("CLIP-", "clip/")).config
    text = numbers["text"]
    width = numbers["width"]
    return ModelConfig(
        id=name,
        vision=VisionConfig(
            image_size=numbers["image_size"],
            patch_size=numbers["patch_size"],
            width=width,
            depth=numbers["layers"],
            num_heads=numbers["heads"],
            mlp_width=int(width * numbers["mlp_ratio"]),
            has_class_token=numbers["use_cls_token"],
            has_post_norm=numbers["use_ln_post"],
            layer_scale=numbers["ls_init_value"],
            pooling="attention" if numbers["output_dim"] else "none",
        ),
        text=text
        and TextConfig(
            context_length=text["context_length"],
            vocab_size=49_408,
            width=text["width"],
            depth=text["layers"],
            num_heads=text["heads"],
            mlp_width=4 * text["width"],
        ),
        embed_dim=numbers["output_dim"],
    )


@functools.lru_cache(maxsize=1)  # the tests of one model follow each other
def load(
    name: str, naming: str, *, is_vision_alone: bool = False
) -> tuple[DualEncoder, formula.Golden]:
    golden = formula.load_golden(name)
    keys, config = golden.keys[naming], config_of(name, golden.config)
    if is_vision_alone and config.text is not None:
        keys = {key: shape for key, shape in keys.items() if key.startswith("visual.")}
        config = replace(config, text=None)
    state = formula.formula_state(keys)
    tensors = {key: torch.from_numpy(value) for key, value in state.items()}
    return build_from_tensors(config, tensors), golden


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case), scope="module")
def case(request: pytest.FixtureRequest) -> Iterator[tuple[DualEncoder, dict[str, NDArray], str]]:
    name, naming = request.param
    model, golden = load(name, naming, is_vision_alone=name == VISION_ALONE)
    yield model, golden.arrays, naming
    load.cache_clear()


def assert_unit_rows_equal(vectors: torch.Tensor, arrays: dict[str, NDArray], name: str) -> None:
    norms, rows = vectors.norm(dim=-1), slice(len(vectors))
    difference = np.abs((vectors / norms[:, None]).numpy() - arrays[name][rows]).max()
    assert difference <= TOLERANCE, difference
    np.testing.assert_allclose(norms.numpy(), arrays[f"{name}_norm"][rows], rtol=1e-4)


def assert_features_equal(tokens: torch.Tensor, arrays: dict[str, NDArray], name: str) -> None:
    for label, value in (
        ("patches", tokens[:, [0, 1, -1], :16]),
        ("mean", tokens.mean(dim=1)[:, :64]),
        ("std", tokens.std(dim=(1, 2))),
    ):
        expected = arrays[f"{name}/{label}"][: len(tokens)]
        scale = max(1.0, float(np.abs(expected).max()))
        assert np.abs(value.numpy() - expected).max() <= FEATURE_TOLERANCE * scale, label


@contextmanager
def keeping_tokens(model: DualEncoder) -> Iterator[None]:
    """Compute the blocks once for the vector and the features of the same pixels."""
    model.vision.tokens = functools.lru_cache(maxsize=1)(model.vision.tokens)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del model.vision.tokens


@torch.inference_mode()
def test_towers_equal_the_original(case: tuple[DualEncoder, dict[str, NDArray], str]) -> None:
    model, arrays, naming = case
    side = model.config.vision.image_size
    # Two were recorded; of the largest models, an image takes as long as the rest of its test.
    batch = 1 if model.config.vision.width == 1024 else 2
    pixels = torch.from_numpy(formula.pixels(batch, side, side))
    with keeping_tokens(model):
        if model.config.embed_dim is not None:
            assert_unit_rows_equal(model.encode_image(pixels), arrays, f"{naming}/image")
        if f"{naming}/features/mean" in arrays:
            assert_features_equal(model.vision.features(pixels), arrays, f"{naming}/features")
    if model.config.text is not None:
        token_ids = torch.from_numpy(formula.token_ids(model.config.text.context_length))
        assert_unit_rows_equal(model.encode_text(token_ids), arrays, f"{naming}/text")


def test_text_towers_have_the_numbers_of_the_original() -> None:
    for name in CORE:
        golden, text = formula.load_golden(name), find(name).config.text
        assert text is not None
        assert golden.config["text"] == {
            "width": text.width,
            "layers": text.depth,
            "heads": text.num_heads,
            "context_length": text.context_length,
        }
    assert find(VISION_ALONE).config.text == find("PE-Core-B16-224").config.text


@pytest.mark.parametrize("name", [*CORE[:3], *SHRUNKEN])
@torch.inference_mode()
def test_other_layers_and_another_grid_equal_the_original(name: str) -> None:
    model, golden = load(name, "meta", is_vision_alone=True)
    side, patch = model.config.vision.image_size, model.config.vision.patch_size
    pixels = torch.from_numpy(formula.pixels(2, side, side))
    wide = torch.from_numpy(formula.pixels(2, 6 * patch, 11 * patch))
    for layer in (-2, 0):
        features = model.vision.features(pixels, layer=layer)
        assert_features_equal(features, golden.arrays, f"meta/features_layer_{layer}")
    assert_features_equal(model.vision.features(wide), golden.arrays, "meta/grid_6x11/features")
    if model.config.embed_dim is not None:
        assert_unit_rows_equal(model.encode_image(wide), golden.arrays, "meta/grid_6x11/image")


SIZES = {
    "PE-Core-T16-384": [(12, 12), (36, 36), (16, 52)],
    "PE-Core-G14-shrunken": [(4, 4), (12, 12), (5, 17)],
    "PE-Spatial-G14-shrunken": [(4, 4), (12, 12), (5, 17)],
    "PE-Spatial-B16-shrunken": [(4, 4), (12, 12), (5, 17)],
}


@pytest.mark.parametrize("original", ["meta", "timm"])
@pytest.mark.parametrize("name", SIZES)
@torch.inference_mode()
def test_features_at_three_sizes_equal_both_originals(name: str, original: str) -> None:
    model, _ = load(name, "meta", is_vision_alone=True)
    arrays = formula.load_arrays("sizes")
    for rows, columns in SIZES[name]:
        patch = model.config.vision.patch_size
        pixels = torch.from_numpy(formula.pixels(2, rows * patch, columns * patch))
        label = f"{original}/{name}/grid_{rows}x{columns}/features"
        assert_features_equal(model.vision.features(pixels), arrays, label)


@pytest.mark.parametrize("name", ["PE-Core-T16-384", "PE-Core-G14-shrunken", "CLIP-ViT-B-32"])
@torch.inference_mode()
def test_batches_of_one_and_of_seven_equal_the_original(name: str) -> None:
    model, golden = load(name, "openclip")
    side = model.config.vision.image_size
    pixels = torch.from_numpy(formula.pixels(7, side, side))  # its first two were recorded
    assert_unit_rows_equal(model.encode_image(pixels)[:2], golden.arrays, "openclip/image")
    alone = torch.cat([model.encode_image(pixels[row : row + 1]) for row in (0, 1)])
    assert_unit_rows_equal(alone, golden.arrays, "openclip/image")


# timm's vision-only models. Real shapes are the registered ones; the others keep the traits.
TIMM = {
    "vit_pe_core_tiny_patch16_384": find("PE-Core-T16-384").config.vision,
    "vit_pe_core_large_patch14_336": VisionConfig(
        image_size=112, patch_size=14, width=128, depth=3, num_heads=2, mlp_width=512
    ),
    "vit_pe_core_gigantic_patch14_448": VisionConfig(
        image_size=112,
        patch_size=14,
        width=384,
        depth=3,
        num_heads=4,
        mlp_width=2240,
        has_class_token=False,
    ),
}


@pytest.mark.parametrize("name", TIMM)
@torch.inference_mode()
def test_timms_vision_only_models_equal_timm(name: str) -> None:
    header, arrays = formula.load_several("timm")
    keys = {key: tuple(shape) for key, shape in header["models"][name]["keys"].items()}
    tensors = {key: torch.from_numpy(array) for key, array in formula.formula_state(keys).items()}
    embed_dim = len(tensors["head.bias"])
    model = build_from_tensors(
        ModelConfig(id=name, vision=TIMM[name], embed_dim=embed_dim), tensors
    )
    side = model.config.vision.image_size
    pixels = torch.from_numpy(formula.pixels(2, side, side))
    with keeping_tokens(model):
        assert_unit_rows_equal(model.encode_image(pixels), arrays, f"{name}/image")
        assert_features_equal(model.vision.features(pixels), arrays, f"{name}/features")
