"""What a caller may rely on whatever the weights are: batches, padding, threads, shapes."""

from concurrent.futures import ThreadPoolExecutor

import formula
import pytest
import torch

from perception_encoder.checkpoints.load import random_model
from perception_encoder.model import DualEncoder
from perception_encoder.model.blocks import rope_table
from perception_encoder.model.vision import patch_rows
from perception_encoder.registry import ModelConfig, TextConfig, VisionConfig

# Another batch size makes the matrix library split its sums differently: float32 rounding.
ROUNDING = 2e-5

TEXT = TextConfig(context_length=12, vocab_size=300, width=32, depth=2, num_heads=2, mlp_width=64)
VISION = {
    "class token, attention pool": VisionConfig(
        image_size=32, patch_size=8, width=32, depth=2, num_heads=2, mlp_width=64
    ),
    "no class token": VisionConfig(
        image_size=32,
        patch_size=8,
        width=48,
        depth=3,
        num_heads=2,
        mlp_width=96,
        has_class_token=False,
        layer_scale=0.1,
    ),
    "clip": VisionConfig(
        image_size=32,
        patch_size=16,
        width=64,
        depth=2,
        num_heads=2,
        mlp_width=128,
        has_rope=False,
        activation="quick_gelu",
        pooling="class_token",
    ),
}


@pytest.fixture(params=VISION, scope="module")
def model(request: pytest.FixtureRequest) -> DualEncoder:
    config = ModelConfig(id="tiny", vision=VISION[request.param], text=TEXT, embed_dim=24)
    return random_model(config)


def unit(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1)


def token_rows(num_rows: int, num_words: int) -> torch.Tensor:
    words = (torch.arange(num_rows * num_words).reshape(num_rows, num_words) * 37) % 290
    start, end = torch.full((num_rows, 1), 298), torch.full((num_rows, 1), 299)
    return torch.cat([start, words, end], dim=1)


@torch.inference_mode()
def test_an_image_has_the_same_vector_in_any_batch(model: DualEncoder) -> None:
    pixels = torch.from_numpy(formula.pixels(7, 32, 32))
    together = unit(model.encode_image(pixels))
    for row in range(7):
        alone = unit(model.encode_image(pixels[row : row + 1]))
        torch.testing.assert_close(alone[0], together[row], atol=ROUNDING, rtol=0)


@torch.inference_mode()
def test_images_do_not_mix(model: DualEncoder) -> None:
    pixels = torch.from_numpy(formula.pixels(3, 32, 32))
    vectors = unit(model.encode_image(pixels))
    assert (vectors @ vectors.T - torch.eye(3)).abs().max() < 0.9999
    changed = pixels.clone()
    changed[1:] = -changed[1:]
    again = unit(model.encode_image(changed))
    torch.testing.assert_close(again[0], vectors[0], atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("num_words", [0, 1, 9, 10])
@torch.inference_mode()
def test_what_follows_the_end_of_a_text_changes_nothing(model: DualEncoder, num_words: int) -> None:
    short = token_rows(3, num_words)
    padding = torch.full((3, 12 - short.shape[1]), 17)
    padded = torch.cat([short, padding], dim=1)
    torch.testing.assert_close(
        unit(model.encode_text(padded)), unit(model.encode_text(short)), atol=ROUNDING, rtol=0
    )


@torch.inference_mode()
def test_eight_threads_get_what_one_gets(model: DualEncoder) -> None:
    grids = [(32, 32), (16, 48), (64, 32), (16, 16)]
    inputs = [torch.from_numpy(formula.pixels(1 + i % 3, *grids[i % 4], seed=i)) for i in range(32)]
    serial = [model.encode_image(pixels) for pixels in inputs]

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return model.encode_image(pixels)

    with ThreadPoolExecutor(8) as pool:
        parallel = list(pool.map(encode, inputs))
    for one, other in zip(serial, parallel, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_calling_a_model_leaves_no_trace(model: DualEncoder) -> None:
    before = {name: (id(value), value.clone()) for name, value in model.state_dict().items()}
    attributes = {id(module): set(vars(module)) for module in model.modules()}
    with torch.inference_mode():
        model.encode_image(torch.from_numpy(formula.pixels(1, 64, 32)))
        model.encode_text(token_rows(1, 4))
    assert attributes == {id(module): set(vars(module)) for module in model.modules()}
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name][1])


@torch.inference_mode()
def test_features_are_the_patches_without_the_class_token(model: DualEncoder) -> None:
    patch, width = model.config.vision.patch_size, model.config.vision.width
    features = model.vision.features(torch.from_numpy(formula.pixels(2, 32, 64)))
    assert features.shape == (2, (32 // patch) * (64 // patch), width)


@torch.inference_mode()
def test_a_layer_counted_from_the_end_is_the_same_layer(model: DualEncoder) -> None:
    pixels = torch.from_numpy(formula.pixels(1, 32, 32))
    depth = model.config.vision.depth
    for layer in range(depth):
        from_start = model.vision.features(pixels, layer=layer)
        assert torch.equal(from_start, model.vision.features(pixels, layer=layer - depth))
    for wrong in (depth, -depth - 1):
        with pytest.raises(ValueError, match=f"layer {wrong} is out of range"):
            model.vision.features(pixels, layer=wrong)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 4, 32, 32), (1, 3, 32, 30)])
def test_pixels_of_another_shape_are_refused(model: DualEncoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"pixels must be|multiples of"):
        model.encode_image(torch.zeros(shape))


def test_patches_as_rows_give_what_the_convolution_gives(model: DualEncoder) -> None:
    """Which a GPU computes, where a convolution would be rounded."""
    patch = model.config.vision.patch_size
    pixels = torch.from_numpy(formula.pixels(3, 2 * patch, 5 * patch))
    weight = model.vision.patch_embed.weight
    rows = patch_rows(pixels, patch) @ weight.flatten(1).T
    assert rows.shape == (3, 10, model.config.vision.width)
    expected = model.vision.patch_embed(pixels).flatten(2).transpose(1, 2)
    torch.testing.assert_close(rows, expected, atol=1e-5, rtol=0)


def test_text_past_the_context_is_refused(model: DualEncoder) -> None:
    with pytest.raises(ValueError, match="L <= 12"):
        model.encode_text(token_rows(1, 11))


@pytest.mark.parametrize(("grid_h", "grid_w"), [(1, 1), (2, 5), (14, 14)])
def test_rope_turns_x_first_and_starts_behind_the_class_token(grid_h: int, grid_w: int) -> None:
    head_dim = 16
    bare = rope_table(grid_h, grid_w, head_dim, has_class_token=False)
    assert bare.shape == (grid_h * grid_w, head_dim // 2)
    first_pair_x, first_pair_y = bare[:, 0], bare[:, head_dim // 4]  # frequency 1: the position
    assert first_pair_x.tolist() == [x for _ in range(grid_h) for x in range(grid_w)]
    assert first_pair_y.tolist() == [y for y in range(grid_h) for _ in range(grid_w)]
    with_class = rope_table(grid_h, grid_w, head_dim, has_class_token=True)
    assert with_class[0].abs().max() == 0
    assert (with_class[1:, 0] - bare[:, 0]).unique().tolist() == [1.0]
