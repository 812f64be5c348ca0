"""Silhouettes against scikit-learn's, which compares every pair."""

import numpy as np
from analysis.duplicate_samples import unit
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import silhouette_samples

from perception_encoder.analysis.cluster_centers import (
    choose_cluster_count,
    compute_silhouettes,
    iter_merges,
    merge_labels,
    sum_groups,
)


@given(
    count=st.integers(5, 60),
    num_groups=st.integers(2, 4),
    embed_dim=st.integers(2, 20),
    seed=st.integers(0, 99),
)
@settings(max_examples=30)
def test_silhouettes_are_those_of_all_pairs(count, num_groups, embed_dim, seed):
    rng = np.random.default_rng(seed)
    vectors = unit(rng.normal(size=(count, embed_dim)) + 0.5)
    labels = np.concatenate([np.arange(num_groups), rng.integers(0, num_groups, count)])[:count]
    products = vectors @ sum_groups(vectors, labels, num_groups).T
    counts = np.bincount(labels, minlength=num_groups).astype(np.float32)
    found = compute_silhouettes(products, counts, labels)
    np.testing.assert_allclose(
        found, silhouette_samples(vectors, labels, metric="cosine"), atol=2e-3
    )


def test_the_fewest_groups_win_among_equals_and_one_where_there_are_none():
    east, north, up = np.eye(3, dtype=np.float32)
    vectors = unit(np.stack([east] * 4 + [north] * 4 + [up] * 4))
    labels = np.arange(12)
    steps = list(iter_merges(vectors))
    choice = choose_cluster_count(vectors, labels, steps, 12)
    assert (choice.num_groups, round(choice.silhouette, 3)) == (3, 1)
    groups = merge_labels(labels, steps[: 12 - 3])
    assert [set(groups[start : start + 4]) for start in (0, 4, 8)] == [{0}, {1}, {2}]
    assert choose_cluster_count(vectors, labels, steps, 2).num_groups == 2
    alike = unit(np.ones((6, 3)))
    assert choose_cluster_count(alike, np.arange(6), list(iter_merges(alike)), 6).num_groups == 1


def test_what_has_no_groups_is_not_cut_in_two():
    rng = np.random.default_rng(0)
    long = rng.normal(size=(900, 64)) * np.linspace(4, 0.5, 64)
    vectors = unit(long + 9)
    steps = list(iter_merges(vectors[:200]))
    choice = choose_cluster_count(vectors[:200], np.arange(200), steps, 15)
    assert choice.num_groups == 15
    assert choice.silhouette < 0.25
    steps = list(iter_merges(vectors))
    assert choose_cluster_count(vectors, np.arange(900), steps, 30).num_groups == 25
