"""Lists are searched whose best row is likely to be near, not those with the nearest centers."""

from pathlib import Path

import numpy as np
import pytest
from index.searcher.searcher_indexes import clustered

from perception_encoder.index.searcher.candidates import CoarseSearch
from perception_encoder.index.searcher.train import TrainedLists, choose_queries, choose_sample


def trained(num_lists: int, width: int, num_directions: int) -> TrainedLists:
    """Lists whose centers are shorter, the farther their rows are apart."""
    random = np.random.default_rng(2)
    directions = clustered(num_lists, width)
    projection = np.linalg.eigh(directions.T @ directions)[1][:, ::-1][:, :num_directions]
    centers = directions * random.uniform(0.5, 0.95, (num_lists, 1)).astype(np.float32)
    return TrainedLists(projection, directions, centers, centers.mean(axis=0))


@pytest.mark.parametrize(("num_lists", "width"), [(7, 5), (300, 32)])
def test_without_reach_the_centers_with_the_largest_products_come_first(num_lists, width):
    coarse = trained(num_lists, width, width).coarse(0)
    for query in clustered(5, width, seed=1):
        expected = np.argsort(-(coarse.centers @ query))[:3]
        assert coarse.nearest(query, 3).tolist() == expected.tolist()
        assert sorted(coarse.nearest(query, num_lists + 1)) == list(range(num_lists))


def test_a_wide_list_comes_before_a_narrow_one_that_is_a_little_nearer():
    centers = np.float32([[0.9, 0.1, 0], [0.5, 0, 0.1]])  # rows 0.42 and 0.86 from their centers
    lists = TrainedLists(np.eye(3, dtype=np.float32), centers, centers, centers.mean(axis=0))
    query = np.float32([0.2, 0.9, 0.4])
    assert lists.coarse(0).nearest(query, 1).tolist() == [0]
    assert lists.coarse(0.5).nearest(query, 1).tolist() == [1]


def test_few_directions_find_nearly_the_same_lists(tmp_path: Path):
    found = trained(400, 64, 32).coarse(0.3)
    queries = clustered(50, 64, seed=3)
    order = np.argsort(-(queries @ found.centers.T + found.reach), axis=1)[:, :20]
    shares = [
        np.isin(found.nearest(query, 20), best).mean()
        for query, best in zip(queries, order, strict=True)
    ]
    assert np.mean(shares) > 0.95
    found.save(str(tmp_path / "coarse"))
    again = CoarseSearch.load(str(tmp_path / "coarse"), found.centers)
    assert again.nearest(queries[0], 20).tolist() == found.nearest(queries[0], 20).tolist()


def test_recall_is_measured_with_rows_that_centers_were_not_trained_with():
    rows = np.arange(5, 3005)
    trained_with = choose_sample(rows)[:1000]
    found = choose_queries(rows, trained_with)
    assert len(found) == 2000
    assert not np.isin(found, trained_with).any()
    assert np.isin(found, rows).all()
    assert np.array_equal(choose_queries(rows, rows), rows)  # of few rows all were trained with
