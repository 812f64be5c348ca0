"""K-means against scikit-learn's, and where points are few or equal."""

import numpy as np
import pytest
from sklearn.cluster import KMeans

from perception_encoder.kmeans import find_centers, find_means
from perception_encoder.vectors import normalize_rows


def groups(num_groups: int, width: int, size: int, spread: float) -> np.ndarray:
    """Return points around some random directions."""
    random = np.random.default_rng(3)
    centers = random.standard_normal((num_groups, width))
    noise = spread * random.standard_normal((num_groups * size, width))
    return (np.repeat(centers, size, axis=0) + noise).astype(np.float32)


def squares(points: np.ndarray, centers: np.ndarray) -> float:
    """Return the sum of the squared distances from the nearest center."""
    return float(((points[:, None] - centers) ** 2).sum(axis=2).min(axis=1).sum())


@pytest.mark.parametrize(("num_centers", "width", "size"), [(4, 3, 50), (30, 17, 40)])
def test_means_are_as_good_as_those_of_scikit_learn(num_centers, width, size):
    points = groups(num_centers, width, size, spread=0.7)
    own = squares(points, find_means(points, num_centers, rounds=50, seed=0))
    theirs = [
        KMeans(num_centers, init="random", n_init=1, random_state=seed).fit(points).inertia_
        for seed in range(5)
    ]
    assert own < 1.05 * max(theirs)


@pytest.mark.parametrize(("num_centers", "width"), [(3, 5), (20, 32)])
def test_directions_are_found_from_near_ones(num_centers, width):
    points = normalize_rows(groups(num_centers, width, 60, spread=0.1))
    wanted = normalize_rows(points.reshape(num_centers, 60, width).mean(axis=1))
    found = find_centers(points, num_centers, rounds=20, initial=points[::60])
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_directions_have_unit_length_and_depend_on_the_seed_alone():
    points = groups(5, 8, 30, spread=0.5)
    found = find_centers(points, 12, rounds=3, seed=7)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(found, find_centers(points, 12, rounds=3, seed=7))


def test_a_center_far_from_all_points_moves_to_one():
    points = groups(2, 4, 20, spread=0.01)
    away = -normalize_rows(points.mean(axis=0, keepdims=True))
    initial = np.concatenate([normalize_rows(points[:1]), away])
    found = find_centers(points, 2, rounds=10, initial=initial)
    assert (normalize_rows(points) @ found.T).max(axis=1).min() > 0.99


@pytest.mark.parametrize("find", [find_centers, find_means])
def test_equal_points_and_as_many_centers_as_points(find):
    equal = np.tile(np.float32([0.6, 0.8]), (6, 1))
    np.testing.assert_allclose(find(equal, 3, rounds=4, seed=0), equal[:3], atol=1e-6)
    points = np.eye(5, dtype=np.float32)
    found = find(points, 5, rounds=4, seed=0)
    assert sorted(found.argmax(axis=1)) == list(range(5))
