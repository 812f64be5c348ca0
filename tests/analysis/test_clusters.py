"""Clusters of made vectors, in which the right answer was planted, and of the odd indexes."""

import numpy as np
import pytest
from analysis.duplicate_samples import index_of, remote_rows, unit
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score

from perception_encoder.analysis import clusters
from perception_encoder.analysis.clusters import Clusters, find_clusters, find_typical_members
from perception_encoder.index import Index
from perception_encoder.types import Embeddings


def planted(
    sizes: list[int], embed_dim: int, seed: int = 0
) -> tuple[Embeddings, NDArray[np.int64]]:
    """Vectors about some directions, all of them with something in common, as images have."""
    rng = np.random.default_rng(seed)
    common, apart = rng.normal(size=embed_dim), rng.normal(size=(len(sizes), embed_dim))
    labels = np.repeat(np.arange(len(sizes)), sizes)
    labels = rng.permutation(labels)
    noise = rng.normal(size=(len(labels), embed_dim))
    return unit(common + apart[labels] + noise), labels


def groups(found: Clusters) -> set[frozenset[str]]:
    return {frozenset(row.uri for row in found.rows(cluster.members)) for cluster in found.clusters}


def planted_groups(labels: NDArray[np.int64]) -> set[frozenset[str]]:
    rows = remote_rows(len(labels))
    return {
        frozenset(rows[place].uri for place in np.flatnonzero(labels == label).tolist())
        for label in set(labels.tolist())
    }


@pytest.mark.parametrize(
    ("sizes", "embed_dim"),
    [([200, 90, 60, 31, 30, 20, 19], 96), ([5, 4, 4], 512), ([62] * 60, 96)],
)
def test_planted_groups_are_found_and_counted(tmp_path, sizes, embed_dim):
    vectors, labels = planted(sizes, embed_dim)
    found = find_clusters(index_of(tmp_path, remote_rows(len(vectors)), vectors))
    assert groups(found) == planted_groups(labels)
    assert [cluster.size for cluster in found.clusters] == sizes
    assert found.silhouette is not None
    assert found.silhouette > 0.1


def test_members_are_sorted_by_their_cosine_with_the_center_that_is_nearest(tmp_path):
    vectors, _ = planted([30, 20], 32)
    found = find_clusters(index_of(tmp_path, remote_rows(50), vectors), num_clusters=4)
    assert found.silhouette is None
    products = vectors @ found.centers.T  # the rows are in the order of their paths
    np.testing.assert_array_equal(found.labels, products.argmax(axis=1))
    np.testing.assert_allclose(found.scores, products.max(axis=1), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found.centers, axis=1), 1, atol=1e-6)
    for cluster in found.clusters:
        scores = found.scores[cluster.members]
        assert (np.diff(scores) <= 0).all()
        assert cluster.tightness == pytest.approx(scores.mean(), abs=1e-6)


def test_the_order_of_the_rows_and_the_size_of_the_sample_do_not_matter(tmp_path, monkeypatch):
    vectors, labels = planted([300, 200, 100], 64)
    rows = remote_rows(600)
    before = find_clusters(index_of(tmp_path / "a", rows, vectors))
    turned = index_of(tmp_path / "b", rows[::-1], vectors[::-1])
    again = find_clusters(turned)
    np.testing.assert_array_equal(before.labels, again.labels)
    np.testing.assert_array_equal(before.centers, again.centers)
    monkeypatch.setattr(clusters, "SAMPLE_BYTES", 4 * 64 * 280)  # more are than join singly
    blocks = iter_blocks(turned, 70)
    monkeypatch.setattr(Index, "scan", blocks)
    assert groups(find_clusters(turned)) == planted_groups(labels)


def iter_blocks(index, size):
    """Give an index's rows out in small blocks."""
    whole = type(index).scan

    def scan(self, columns, *, where=None):
        for batch in whole(self, columns, where=where):
            for start in range(0, len(batch), size):
                yield batch.slice(start, size)

    return scan


@pytest.mark.parametrize("wanted", [None, 1, 2, 7])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_indexes_of_one_to_three_images(tmp_path, count, wanted):
    vectors = np.eye(4, dtype=np.float32)[:count]
    found = find_clusters(index_of(tmp_path, remote_rows(count), vectors), num_clusters=wanted)
    assert sum(cluster.size for cluster in found.clusters) == count
    if wanted is not None:
        assert len(found.clusters) == min(wanted, count)


def test_equal_images_are_one_cluster_however_many_are_asked_for(tmp_path):
    vectors = unit(np.ones((40, 16)))
    index = index_of(tmp_path, remote_rows(40), vectors)
    (cluster,) = find_clusters(index).clusters
    assert cluster.size == 40
    assert cluster.tightness == pytest.approx(1)
    assert sum(one.size for one in find_clusters(index, num_clusters=5).clusters) == 40


def test_of_handwritten_digits_about_ten_groups_are_found(tmp_path):
    digits = load_digits()
    index = index_of(tmp_path, remote_rows(len(digits.data)), unit(digits.data))
    found = find_clusters(index)
    assert 9 <= len(found.clusters) <= 11
    assert adjusted_rand_score(digits.target, found.labels) > 0.55


def test_more_groups_than_are_joined_two_by_two(tmp_path):
    vectors = unit(np.random.default_rng(0).normal(size=(700, 8)))
    found = find_clusters(index_of(tmp_path, remote_rows(700), vectors), num_clusters=600)
    assert 400 < len(found.clusters) <= 600
    assert sum(cluster.size for cluster in found.clusters) == 700


def test_copies_are_not_told_apart_by_their_rounding(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), (7, 5, 4))
    vectors = unit(rng.normal(size=(3, 192))[labels] + 0.004 * rng.normal(size=(16, 192)))
    index = index_of(tmp_path, remote_rows(16), vectors, vector_dtype="float16")
    assert groups(find_clusters(index)) == planted_groups(labels)


def test_an_index_without_images_has_no_clusters(tmp_path):
    index = index_of(tmp_path, [], np.empty((0, 8), np.float32))
    assert find_clusters(index).clusters == ()
    with pytest.raises(ValueError, match="must be at least 1"):
        find_clusters(index, num_clusters=0)


def test_typical_images_are_central_and_not_the_same_again_and_again(tmp_path):
    burst = np.array([1, 0.2, 0, 0, 0])
    others = [[1, 0, 1, 0, 0], [1, 0, 0, 1, 0], [1, 0, 0, 0, 1.4]]
    vectors = unit(np.concatenate([np.tile(burst, (20, 1)), others]))
    index = index_of(tmp_path, remote_rows(23), vectors)
    found = find_clusters(index, num_clusters=1)
    assert set(found.clusters[0].members[:20]) == set(range(20))
    (typical,) = find_typical_members(index, found, 3)
    assert [found.images.row(number).uri for number in typical] == [
        row.uri for row in np.array(remote_rows(23), object)[[0, 20, 21]]
    ]
    (more,) = find_typical_members(index, found, 6)
    assert len(more) == 6
    assert {20, 21, 22} < set(more.tolist())


def test_a_condition_leaves_rows_out(tmp_path):
    vectors, labels = planted([20, 20], 32)
    index = index_of(tmp_path, remote_rows(40), vectors)
    found = find_clusters(index, where="width > 20", num_clusters=2)
    assert len(found.images) == 20
    assert groups(found) == {
        group & frozenset(row.uri for row in remote_rows(40)[:20])
        for group in planted_groups(labels)
    }
