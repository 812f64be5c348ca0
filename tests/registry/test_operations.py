"""Counted operations against those that torch counts while a model runs."""

import pytest
import small_models
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from perception_encoder.checkpoints.load import random_model
from perception_encoder.registry import ModelConfig, find
from perception_encoder.registry.config import image_operations, text_operations


def counted(run) -> int:
    # Torch does not count its fused attention on the CPU; the plain one is products, which it does.
    with (
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
        torch.inference_mode(),
    ):
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("config", [small_models.CORE, small_models.CLIP], ids=lambda c: c.id)
def test_an_image_costs_what_torch_counts(config: ModelConfig) -> None:
    model = random_model(config)
    side = config.vision.image_size
    expected = counted(lambda: model.encode_image(torch.zeros(1, 3, side, side)))
    assert image_operations(config.vision, config.embed_dim) == expected


def test_an_image_without_pooling_costs_what_torch_counts() -> None:
    config = small_models.WITHOUT_POOLING
    model = random_model(config)
    side = config.vision.image_size
    expected = counted(lambda: model.vision.features(torch.zeros(1, 3, side, side)))
    assert image_operations(config.vision, config.embed_dim) == expected


@pytest.mark.parametrize("length", [3, 12])
def test_a_text_costs_what_torch_counts(length: int) -> None:
    config = small_models.CORE
    model = random_model(config)
    expected = counted(lambda: model.encode_text(torch.ones(1, length, dtype=torch.int64)))
    assert config.text is not None
    assert config.embed_dim is not None
    assert text_operations(config.text, config.embed_dim, length) == expected


def test_an_image_of_b16_costs_35_billion() -> None:
    config = find("PE-Core-B16-224").config
    assert image_operations(config.vision, config.embed_dim) == pytest.approx(35e9, rel=0.03)
