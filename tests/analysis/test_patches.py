"""Colors, foreground and matches of patch features."""

import io
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image

from perception_encoder.analysis.patch_drawings import (
    ColoredImage,
    draw_colored_images,
    draw_matches,
)
from perception_encoder.analysis.patches import (
    PatchMatches,
    color_patches,
    find_foreground,
    match_patches,
)
from perception_encoder.auto import AutoModel
from perception_encoder.embedder.patch_features import PatchFeatures

WIDTH = 16


def features(values, grid, image_size=None):
    image_size = image_size or (grid[1] * 10, grid[0] * 10)
    return PatchFeatures(np.asarray(values, np.float32).reshape(-1, WIDTH), grid, image_size)


def two_parts(grid, inside, seed=0):
    """Background of one direction, a subject in the rows and columns `inside` of another."""
    generator = np.random.default_rng(seed)
    values = np.zeros((*grid, WIDTH), np.float32)
    values[..., 0] = 1
    values[inside] = np.eye(WIDTH)[1]
    return features(values + 0.02 * generator.standard_normal(values.shape), grid)


INSIDE = (slice(2, 6), slice(3, 8))


def test_the_foreground_is_the_part_away_from_the_border():
    images = [two_parts((8, 12), INSIDE), two_parts((9, 9), (slice(4, 6), slice(4, 8)), seed=1)]
    for image, mask in zip(images, find_foreground(images), strict=True):
        expected = image.as_map()[..., 1] > 0.5
        assert (mask.reshape(image.grid) == expected).all()


def test_alike_patches_have_one_color_in_all_images():
    images = [two_parts((8, 12), INSIDE), two_parts((5, 6), (slice(1, 3), slice(2, 4)), seed=1)]
    colors = color_patches(images)
    assert [each.shape for each in colors] == [(8, 12, 3), (5, 6, 3)]
    assert colors[0].dtype == np.uint8
    subjects = [
        each[image.as_map()[..., 1] > 0.5].astype(int)
        for each, image in zip(colors, images, strict=True)
    ]
    grounds = [
        each[image.as_map()[..., 0] > 0.5].astype(int)
        for each, image in zip(colors, images, strict=True)
    ]
    first = 0  # the component that tells the parts apart; the others are noise here
    assert abs(subjects[0][:, first].mean() - subjects[1][:, first].mean()) < 25
    assert abs(subjects[0][:, first].mean() - grounds[0][:, first].mean()) > 150


def test_what_is_masked_is_black_and_does_not_count():
    image = two_parts((8, 12), INSIDE)
    (mask,) = find_foreground([image])
    (colors,) = color_patches([image], [mask])
    assert (colors.reshape(-1, 3)[~mask] == 0).all()
    assert colors.reshape(-1, 3)[mask].max() == 255
    changed = features(np.where(mask[:, None], image.values, 9), image.grid)
    np.testing.assert_array_equal(color_patches([changed], [mask])[0], colors)


def test_the_scale_of_features_changes_no_color():
    image = two_parts((8, 12), INSIDE)
    scaled = features(image.values * 50, image.grid)
    np.testing.assert_allclose(
        color_patches([scaled])[0].astype(int), color_patches([image])[0], atol=1
    )


def test_one_patch_and_equal_patches_have_colors():
    (colors,) = color_patches([features(np.ones(WIDTH), (1, 1))])
    assert colors.shape == (1, 1, 3)
    (mask,) = find_foreground([features(np.ones((4, WIDTH)), (2, 2))])
    assert mask.shape == (4,)


def test_nothing_to_color_is_an_error():
    with pytest.raises(ValueError, match="no patches"):
        color_patches([])
    image = two_parts((8, 12), INSIDE)
    with pytest.raises(ValueError, match="no patches"):
        color_patches([image], [np.zeros(96, bool)])


def test_moved_patches_are_found_again():
    generator = np.random.default_rng(0)
    values = generator.standard_normal((6, 7, WIDTH))
    a = features(values, (6, 7), (70, 60))
    b = features(np.roll(values, (2, 3), axis=(0, 1)), (6, 7), (700, 600))
    matches = match_patches(a, b)
    assert len(matches) == 42
    np.testing.assert_allclose(matches.scores, 1, atol=1e-5)
    x, y = matches.points_a.T
    expected = np.stack([(x * 10 + 300) % 700, (y * 10 + 200) % 600], axis=-1)
    np.testing.assert_allclose(matches.points_b, expected, atol=1e-3)


def test_matches_are_mutual_whatever_the_size_of_blocks():
    generator = np.random.default_rng(1)
    a, b = (features(generator.standard_normal((40, 40, WIDTH)), (40, 40)) for _ in range(2))
    matches = match_patches(a, b)
    cosines = np.stack([one.values for one in (a, b)])
    cosines /= np.linalg.norm(cosines, axis=-1, keepdims=True)
    all_pairs = cosines[0] @ cosines[1].T
    mutual = all_pairs.argmax(axis=0)[all_pairs.argmax(axis=1)] == np.arange(1600)
    assert len(matches) == mutual.sum()
    assert (np.diff(matches.scores) <= 0).all()
    np.testing.assert_allclose(matches.scores[0], all_pairs.max(), atol=1e-5)


def test_the_best_matches_are_apart():
    generator = np.random.default_rng(2)
    values = generator.standard_normal((20, 20, WIDTH))
    one = features(values, (20, 20))
    matches = match_patches(one, one, 16)
    assert len(matches) == 16
    gaps = np.linalg.norm(matches.points_a[:, None] - matches.points_a[None], axis=-1)
    assert gaps[~np.eye(16, dtype=bool)].min() >= 20 * 10 / 4 / 2
    assert len(match_patches(one, one, 1000)) == 400


def test_only_the_foreground_is_matched_on_request():
    a, b = two_parts((8, 12), INSIDE), two_parts((8, 12), INSIDE, seed=1)
    matches = match_patches(a, b, only_foreground=True)
    assert 0 < len(matches) < len(match_patches(a, b))
    for points in (matches.points_a, matches.points_b):
        assert ((points > [30, 20]) & (points < [80, 60])).all()


def test_features_of_two_models_cannot_be_matched():
    other = PatchFeatures(np.ones((4, 3), np.float32), (2, 2), (10, 10))
    with pytest.raises(ValueError, match="16 and of 3"):
        match_patches(two_parts((8, 12), INSIDE), other)
    with pytest.raises(ValueError, match="at least 1"):
        match_patches(other, other, 0)


def test_pe_nano_follows_a_drawing_that_has_moved():
    """By two patches in both directions; what has not moved is the position alone."""
    gallery = files("perception_encoder").joinpath("data/gallery")
    with Image.open(io.BytesIO(gallery.joinpath("bus.webp").read_bytes())) as opened:
        bus = opened.convert("RGB").resize((160, 160))
    canvases = []
    for corner in (16, 32):
        canvas = Image.new("RGB", (208, 208), bus.getpixel((0, 0)))
        canvas.paste(bus, (corner, corner))
        canvases.append(canvas)
    a, b = AutoModel.from_pretrained("pe-nano").features(canvases, image_size=208)
    matches = match_patches(a, b, 30, only_foreground=True)
    moved = matches.points_b - matches.points_a
    assert (np.abs(moved - 16).max(axis=1) <= 8).mean() > 0.75


def test_the_figure_shows_images_beside_their_patches():
    image = Image.new("RGB", (448, 300), "red")
    colors = np.zeros((10, 16, 3), np.uint8)
    colors[0, 0] = (0, 255, 0)
    one = draw_colored_images([ColoredImage(image, colors, "red.png, 10 x 16 patches")])
    assert one.width > 2 * 448
    pixels = np.asarray(one)
    assert (pixels == (255, 0, 0)).all(axis=-1).sum() == 448 * 300
    assert (pixels == (0, 255, 0)).all(axis=-1).sum() == 28 * 30  # a patch is a rectangle
    several = draw_colored_images([ColoredImage(image, colors, "x" * 300)] * 7)
    assert several.height > 3 * 300


def test_lines_join_the_matched_points():
    images = (Image.new("RGB", (200, 100), "white"), Image.new("RGB", (100, 200), "white"))
    points = np.array([[100, 50]], np.float32)
    matches = PatchMatches(points, points * 2, np.ones(1, np.float32))
    sheet = np.asarray(draw_matches(images, ((400, 200), (400, 800)), matches))
    assert sheet.shape == (200, 324, 3)
    colored = (sheet != 255).any(axis=-1)
    assert colored[50 + 25, 50]  # the first image stands in the middle of the height
    assert colored[25, 200 + 24 + 50]
    assert not colored[:, :40].any()
