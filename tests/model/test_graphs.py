"""What backends run from end to end: levels and token ids in."""

import numpy as np
import pytest
import torch
from small_models import CLIP, CORE, WITHOUT_POOLING

from perception_encoder.checkpoints.load import random_model
from perception_encoder.model.dual_encoder import (
    FeatureGraph,
    ImageGraph,
    Normalize,
    PoolInputGraph,
    TextGraph,
    VisionGraph,
)
from perception_encoder.registry import find

MODELS = pytest.mark.parametrize("name", ["PE-Core-B16-224", "clip/ViT-B-32"])


def levels(config, batch=3):
    side = config.vision.image_size
    values = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
    return torch.from_numpy(values)


@MODELS
def test_normalize_is_totensor_and_normalize_bit_for_bit(name):
    config = find(name).config.image
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    images = torch.from_numpy(np.stack([np.stack([ramp, ramp.T, ramp[::-1]], axis=-1)] * 2))
    pixels = Normalize(config.mean, config.std)(images)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
    expected = images.permute(0, 3, 1, 2).float().div(255).sub(mean).div(std)
    assert (pixels.shape, pixels.dtype) == ((2, 3, 16, 16), torch.float32)
    assert torch.equal(pixels, expected)
    exact = (images.numpy() / 255 - config.mean) / config.std  # float64
    assert np.abs(pixels.numpy() - exact.transpose(0, 3, 1, 2)).max() < 3e-7


def test_normalize_maps_the_range_of_pe_to_minus_one_and_one():
    config = find("PE-Core-B16-224").config.image
    pixels = Normalize(config.mean, config.std)(torch.tensor([[[[0] * 3, [255] * 3]]]))
    assert torch.equal(pixels[0, :, 0], torch.tensor([[-1.0, 1.0]] * 3))


@pytest.mark.parametrize("config", [CORE, CLIP], ids=lambda config: config.id)
def test_graphs_are_the_towers_after_normalizing(config):
    model = random_model(config)
    normalized = Normalize(config.image.mean, config.image.std)(levels(config))
    assert torch.equal(ImageGraph(model)(levels(config)), model.encode_image(normalized))
    features = FeatureGraph(model)(levels(config), layer=0)
    assert torch.equal(features, model.vision.features(normalized, layer=0))
    token_ids = torch.tensor([[1, 2, config.text.vocab_size - 1]])
    assert torch.equal(TextGraph(model)(token_ids), model.encode_text(token_ids))


def test_a_lower_precision_normalizes_in_float32_and_gives_float32():
    model = random_model(WITHOUT_POOLING).to(torch.bfloat16)
    graph = FeatureGraph(model)
    features = graph(levels(WITHOUT_POOLING))
    assert features.dtype == torch.float32
    assert graph.normalize.mean.dtype == torch.float32


@pytest.mark.parametrize("config", [CORE, CLIP, WITHOUT_POOLING], ids=lambda config: config.id)
def test_one_graph_gives_what_two_give(config):
    model = random_model(config)
    graph = VisionGraph(model)
    outputs = dict(zip(graph.output_names, graph(levels(config)), strict=True))
    assert torch.equal(outputs["features"], FeatureGraph(model)(levels(config)))
    expected = ["embeddings", "features", "pool_inputs"] if config.embed_dim else ["features"]
    assert list(outputs) == expected
    if config.embed_dim:
        assert torch.equal(outputs["embeddings"], ImageGraph(model)(levels(config)))
        assert torch.equal(outputs["pool_inputs"], PoolInputGraph(model)(levels(config)))
