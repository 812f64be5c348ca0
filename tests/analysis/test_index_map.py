"""Places of a map: groups that were planted stay together, and no two images share a cell."""

import numpy as np
import pytest
from analysis.duplicate_samples import index_of, remote_rows, unit
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from perception_encoder.analysis import index_map
from perception_encoder.analysis.clusters import find_clusters
from perception_encoder.analysis.index_map import map_index
from perception_encoder.analysis.map_files import Caption, build_grid, draw_map
from perception_encoder.analysis.ranked_images import rank_images
from perception_encoder.errors import BackendUnavailableError, ImageWriteError


def placed(tmp_path, vectors, **options):
    index = index_of(tmp_path, remote_rows(len(vectors)), vectors)
    return map_index(index, rank_images(index, "first", None), **options)


def test_a_planted_group_is_together_and_the_same_seed_gives_the_same_map(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), (50, 30, 20))
    vectors = unit(rng.normal(size=(3, 40))[labels] + 0.4 * rng.normal(size=(100, 40)))
    index = index_of(tmp_path, remote_rows(100), vectors)
    images = rank_images(index, "first", None)
    places = map_index(index, images).places
    distances = np.linalg.norm(places[:, None] - places, axis=2)
    np.fill_diagonal(distances, np.inf)
    np.testing.assert_array_equal(labels[distances.argmin(axis=1)], labels)
    assert np.abs(places).max() == pytest.approx(1)
    np.testing.assert_array_equal(places, map_index(index, images).places)
    few = "width > 94"
    part = map_index(index, rank_images(index, "first", few), where=few)
    assert len(part.places) == 6


@pytest.mark.parametrize(
    "vectors", [np.eye(3, 5)[:1], np.eye(3, 5)[:2], np.eye(3, 5), np.ones((20, 5))]
)
def test_few_images_and_equal_ones_have_places_too(tmp_path, vectors):
    found = placed(tmp_path, unit(vectors))
    assert found.places.shape == (len(vectors), 2)
    assert (np.abs(found.places) <= 1).all()
    is_new = np.unique(vectors, axis=0, return_inverse=True)[1]
    assert len(np.unique(found.places.round(4), axis=0)) == len(set(is_new.tolist()))


def test_copies_among_others_do_not_break_the_map(tmp_path):
    vectors = unit(np.repeat(np.random.default_rng(0).normal(size=(4, 8)), 10, axis=0))
    assert np.isfinite(placed(tmp_path, vectors).places).all()


def test_of_an_index_that_is_too_large_some_images_are_placed(tmp_path, monkeypatch):
    monkeypatch.setattr(index_map, "MAX_IMAGES", 12)
    found = placed(tmp_path, unit(np.random.default_rng(0).normal(size=(30, 8))), seed=3)
    assert found.places.shape == (12, 2)
    assert (np.diff(found.numbers) > 0).all()


def test_without_its_package_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(BackendUnavailableError, match=r"perception-encoder\[map\]"):
        placed(tmp_path, np.eye(3, dtype=np.float32))


@given(
    count=st.integers(0, 120),
    spread=st.tuples(st.sampled_from((0.0, 0.01, 1.0)), st.sampled_from((0.0, 0.01, 1.0))),
    max_side=st.integers(1, 14),
    seed=st.integers(0, 9),
)
@settings(max_examples=40)
def test_no_two_images_share_a_cell(count, spread, max_side, seed):
    places = np.random.default_rng(seed).uniform(-1, 1, (count, 2)).astype(np.float32) * spread
    grid = build_grid(places, max_side)
    assert grid.columns <= max_side
    assert grid.rows <= max_side
    assert len(grid.shown) == len(np.unique(grid.cells, axis=0)) == len(set(grid.shown.tolist()))
    if count:
        assert 1 <= len(grid.shown) <= count
        assert (grid.cells >= 0).all()
        assert (grid.cells < [grid.columns, grid.rows]).all()
    if count * 2 <= max_side**2 // 2:
        assert len(grid.shown) == count


def test_of_too_many_images_those_shown_come_from_everywhere():
    rng = np.random.default_rng(0)
    middles = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
    labels = np.repeat(np.arange(4), (3000, 1000, 100, 20))
    places = (middles[labels] + 0.1 * rng.normal(size=(len(labels), 2))).astype(np.float32)
    grid = build_grid(places, 20)
    shown = np.bincount(labels[grid.shown], minlength=4)
    assert 150 <= shown.sum() <= 400 / 1.7
    assert shown.min() >= 10


def test_cells_keep_what_is_left_and_what_is_above():
    x, y = np.meshgrid(np.linspace(-1, 1, 5), np.linspace(-1, 1, 4))
    places = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
    grid = build_grid(places)
    left, right = grid.cells[places[:, 0] < -0.9], grid.cells[places[:, 0] > 0.9]
    assert left[:, 0].max() < right[:, 0].min()
    high, low = grid.cells[places[:, 1] > 0.9], grid.cells[places[:, 1] < -0.9]
    assert high[:, 1].max() < low[:, 1].min()
    assert grid.middles[:, 1].argmax() in np.flatnonzero(places[:, 1] > 0.9)


def test_a_drawn_map_shows_each_image_in_its_cell_and_names_over_groups(tmp_path):
    colors = ["#ff0000", "#00ff00", "#0000ff", "#ffff00"]
    images = [Image.new("RGB", (30, 30), color) for color in colors]
    corners = np.array([[-1, 1], [1, 1], [-1, -1], [1, -1]], np.float32)
    grid = build_grid(corners)
    wide = draw_map(
        [*images[:3], str(tmp_path / "gone.png")], grid, [], tmp_path / "a.png", tile=40
    )
    assert wide == 1
    with Image.open(tmp_path / "a.png") as drawn:
        centers = (grid.cells + 0.5) * 40 + 16
        seen = [drawn.getpixel((int(x), int(y))) for x, y in centers]
    assert seen == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (223, 227, 232)]
    captions = [Caption("a long name of a group", np.array([0])), Caption("hidden", np.array([0]))]
    assert draw_map(images, grid, captions, tmp_path / "b.webp", tile=40) == 0
    with pytest.raises(ImageWriteError):
        draw_map(images, grid, [], tmp_path / "none" / "a.png")


def test_clusters_and_map_number_the_same_images(tmp_path):
    index = index_of(tmp_path, remote_rows(9)[::-1], unit(np.eye(9, 10)))
    found = find_clusters(index, num_clusters=2)
    assert [row.uri for row in found.rows(np.arange(9))] == sorted(row.uri for row in index.rows())
