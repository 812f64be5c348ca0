"""Retrieval scores: the arithmetic, with a model whose vectors are known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.pe_nano.evaluate import on_white, retrieval

NAMES = ["red", "green", "blue"]
COLORS = np.eye(3, dtype=np.uint8) * 255


class ByColor(nn.Module):
    """Embeds an image as its mean color, and the text i as color `meaning[i]`."""

    def __init__(self, meaning: list[int]) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))
        self.meaning = meaning
        self.config = SimpleNamespace(vision=SimpleNamespace(image_size=8))

    def encode_image(self, pixels: Tensor) -> Tensor:
        return pixels.mean((2, 3)) + 1

    def encode_text(self, token_ids: Tensor) -> Tensor:
        return torch.eye(3)[[self.meaning[i] for i in token_ids[:, 0].tolist()]]


def tokens(names: list[str]) -> np.ndarray:
    return np.array([[NAMES.index(name)] for name in names], np.int32)


def drawings() -> list[np.ndarray]:
    plain = np.full((3, 16, 16, 4), 255, np.uint8)
    plain[..., :3] = COLORS[:, None, None]
    return list(plain)


def test_a_model_that_knows_every_name_scores_one_and_confuses_nothing() -> None:
    score = retrieval(ByColor([0, 1, 2]), tokens, drawings(), NAMES)

    assert score["drawings"] == 3
    assert score["top1"] == score["top5"] == 1
    assert score["confusions"] == []


def test_names_taken_for_each_other_are_counted_and_listed() -> None:
    score = retrieval(ByColor([0, 2, 1]), tokens, drawings(), NAMES)

    assert (
        score["image_to_text_top1"] == score["text_to_image_top1"] == pytest.approx(1 / 3, abs=1e-4)
    )
    assert score["confusions"] == [
        {"drawing": "green", "taken_for": "blue"},
        {"drawing": "blue", "taken_for": "green"},
    ]


@pytest.mark.parametrize(("side", "size"), [(72, 48), (16, 8)])
def test_a_transparent_drawing_is_laid_on_white(side: int, size: int) -> None:
    nothing = np.zeros((side, side, 4), np.uint8)
    half = nothing.copy()
    half[..., 3] = 128

    assert on_white(nothing, size).shape == (size, size, 3)
    assert (on_white(nothing, size) == 255).all()
    assert np.abs(on_white(half, size).astype(int) - 127).max() <= 1
