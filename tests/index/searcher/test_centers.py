"""Rows get the list of the nearest center, or of one that is nearly as near."""

import numpy as np
import pytest
from index.searcher.searcher_indexes import clustered

from perception_encoder.index.searcher.centers import CenterSearch


@pytest.mark.parametrize(("num_centers", "width"), [(1, 5), (90, 16), (700, 24)])
def test_few_centers_are_all_compared(num_centers: int, width: int) -> None:
    centers, rows = clustered(num_centers, width), clustered(500, width, seed=1)
    nearest = CenterSearch(centers).nearest(rows)
    assert np.array_equal(nearest, (rows @ centers.T).argmax(axis=1))


@pytest.mark.parametrize(("num_centers", "width"), [(300, 16), (2000, 24)])
def test_many_centers_are_nearly_as_good(num_centers: int, width: int) -> None:
    centers, rows = clustered(num_centers, width), clustered(1000, width, seed=1)
    scores = rows @ centers.T
    nearest = CenterSearch(centers, few=10).nearest(rows)
    assert nearest.shape == (1000,)
    assert np.mean(nearest == scores.argmax(axis=1)) > 0.9
    lost = scores.max(axis=1) - scores[np.arange(1000), nearest]
    assert lost.max() < 0.2


def test_a_single_row_and_equal_centers() -> None:
    centers = np.repeat(clustered(3, 8), 50, axis=0)
    rows = clustered(1, 8, seed=2)
    (place,) = CenterSearch(centers, few=10).nearest(rows).tolist()
    assert (rows @ centers.T).max() == pytest.approx((rows @ centers[place]).item())
