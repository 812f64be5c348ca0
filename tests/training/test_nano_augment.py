"""Placing, tinting and disturbing drawings."""

import numpy as np
import pytest
from numpy.typing import NDArray

from training.pe_nano.augment import Augmenter

WHOLE = (0.0, 0.0, 1.0, 1.0)
LEFT = (0.0, 0.2, 0.5, 0.6)
BELOW = (0.2, 0.5, 0.6, 0.5)


def disc(side: int = 72) -> NDArray[np.uint8]:
    """An orange disc on nothing; its transparent pixels hold a color that must not be seen."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    inside = np.hypot(x, y) < 0.45 * side
    drawing = np.full((side, side, 4), (0, 255, 0, 0), np.uint8)
    drawing[inside] = (240, 140, 30, 255)
    return drawing


def center_of(layer: NDArray[np.float32]) -> tuple[float, float]:
    alpha = layer[..., 3]
    y, x = np.mgrid[: alpha.shape[0], : alpha.shape[1]]
    return float((alpha * x).sum() / alpha.sum()), float((alpha * y).sum() / alpha.sum())


@pytest.mark.parametrize("size", [32, 48, 49])
@pytest.mark.parametrize("side", [72, 40])
def test_a_placed_drawing_is_premultiplied_and_fills_the_canvas_size(size: int, side: int) -> None:
    for seed in range(8):
        layer = Augmenter(seed).place(disc(side), size, WHOLE, flip=False)

        assert layer.shape == (size, size, 4)
        assert layer.dtype == np.float32
        assert layer.min() >= 0
        assert layer.max() <= 255.5
        # Premultiplied: no color is brighter than the pixel is opaque.
        assert (layer[..., :3] <= layer[..., 3:] + 0.5).all()
        assert layer[..., 3].max() > 250


def test_placing_leaves_the_drawing_as_it_was() -> None:
    drawing = disc()
    before = drawing.copy()

    Augmenter(0).place(drawing, 48, WHOLE, flip=True)

    np.testing.assert_array_equal(drawing, before)


@pytest.mark.parametrize(("box", "center"), [(LEFT, (0.25, 0.5)), (BELOW, (0.5, 0.75))])
def test_a_drawing_lands_in_its_box(
    box: tuple[float, float, float, float], center: tuple[float, float]
) -> None:
    places = [center_of(Augmenter(seed).place(disc(), 64, box, flip=False)) for seed in range(30)]

    mean = np.mean(places, axis=0) / 64
    np.testing.assert_allclose(mean, center, atol=0.04)


def test_a_flip_mirrors_the_drawing() -> None:
    half = disc()
    half[:, 36:] = 0  # only the left half is left

    plain = Augmenter(4).place(half, 48, WHOLE, flip=False)
    flipped = Augmenter(4).place(half, 48, WHOLE, flip=True)

    assert center_of(plain)[0] < center_of(flipped)[0] - 5


def test_the_same_seed_makes_the_same_image() -> None:
    def made(seed: int) -> NDArray[np.uint8]:
        augmenter = Augmenter(seed)
        layer = augmenter.place(disc(), 48, WHOLE, flip=False)
        return augmenter.compose([layer], augmenter.background(48, (52, 110, 210)))

    np.testing.assert_array_equal(made(7), made(7))
    assert (made(7) != made(8)).any()


def test_a_named_background_shows_its_color_where_nothing_is_drawn() -> None:
    blue = (52, 110, 210)
    corners = []
    for seed in range(20):
        augmenter = Augmenter(seed)
        layer = augmenter.place(disc(), 48, WHOLE, flip=False)
        image = augmenter.compose([layer], augmenter.background(48, blue))
        assert image.shape == (48, 48, 3)
        assert image.dtype == np.uint8
        corners.append(np.median(image[layer[..., 3] == 0], axis=0))

    np.testing.assert_allclose(np.median(corners, axis=0), blue, atol=12)


def test_later_layers_cover_earlier_ones() -> None:
    def square(color: tuple[int, int, int], alpha: float) -> NDArray[np.float32]:
        layer = np.empty((48, 48, 4), np.float32)
        layer[..., :3] = np.array(color, np.float32) * alpha
        layer[..., 3] = 255 * alpha
        return layer

    red, blue = square((200, 0, 0), 1.0), square((0, 0, 200), 0.5)
    images = [
        Augmenter(seed).compose([red, blue], np.full((48, 48, 3), 255, np.float32))
        for seed in range(9)
    ]

    middle = np.median(images, axis=(0, 1, 2))
    np.testing.assert_allclose(middle, (100, 0, 100), atol=3)
