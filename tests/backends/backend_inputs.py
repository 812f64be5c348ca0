"""Prepared images and token rows for tests of backends."""

import numpy as np
from small_models import CORE

END = CORE.text.vocab_size - 1


def pixels(config, batch, seed=0):
    side = config.vision.image_size
    return np.random.default_rng(seed).integers(0, 256, (batch, side, side, 3), np.uint8)


def token_rows(batch, length=8):
    rows = np.random.default_rng(batch).integers(0, END - 1, (batch, length))
    rows[:, -1] = END
    return rows


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
