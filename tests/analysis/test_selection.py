"""Choosing images: what is covered, what is typical, what is uncertain, and the odd indexes."""

from dataclasses import replace

import numpy as np
import pytest
from analysis.duplicate_samples import index_of, remote_rows, unit

from perception_encoder.analysis import selection
from perception_encoder.analysis.classifiers import LabelClassifier
from perception_encoder.analysis.selection import SelectOptions, select_images
from perception_encoder.errors import QueryError


def grouped(sizes, embed_dim=32, seed=0, spread=0.3):
    """Vectors about some directions, and the group of each."""
    rng = np.random.default_rng(seed)
    directions = unit(rng.normal(size=(len(sizes), embed_dim)))
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    noise = spread * rng.normal(size=(len(groups), embed_dim)) / embed_dim**0.5
    return unit(directions[groups] + noise), groups


def numbers_of(found):
    return [int(row.uri[-10:-4]) for row in found]


def select(folder, vectors, labels=None, classifier=None, **options):
    rows = remote_rows(len(vectors))
    if labels is not None:
        rows = [
            replace(row, metadata={"label": label}) for row, label in zip(rows, labels, strict=True)
        ]
    index = index_of(folder, rows, vectors)
    return select_images(index, SelectOptions(**options), classifier=classifier)


@pytest.mark.parametrize("by", ["diverse", "representative"])
def test_each_group_is_covered_however_small(tmp_path, by):
    vectors, groups = grouped([500, 100, 20, 5, 5])
    found = select(tmp_path, vectors, count=5, by=by)
    assert set(groups[numbers_of(found)]) == set(range(5))
    assert len(found) == found.num_candidates - 625 == 5
    assert found.radius < 0.3


def test_diverse_images_are_twice_as_near_as_any_choice_at_worst(tmp_path):
    vectors, _ = grouped([300] * 3, spread=2.0)
    found = select(tmp_path, vectors, count=30)
    numbers = numbers_of(found)
    assert len(set(numbers)) == 30
    distances = 1 - vectors @ vectors[numbers].T
    assert found.radius == pytest.approx(distances.min(axis=1).max(), abs=1e-5)
    assert found.mean_distance == pytest.approx(distances.min(axis=1).mean(), abs=1e-5)
    assert list(found.scores[1:]) == sorted(found.scores[1:], reverse=True)
    at_random = np.random.default_rng(0).choice(900, 30, replace=False)
    assert found.radius < (1 - vectors @ vectors[at_random].T).min(axis=1).max()


def test_a_large_index_is_sampled_and_every_class_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(selection, "CANDIDATE_BYTES", 4 * 32 * 100)
    vectors, groups = grouped([400, 100, 3])
    labels = [f"class {group}" for group in groups]
    found = select(tmp_path, vectors, labels, count=2, per_class=True)
    assert found.num_candidates == 100
    assert sorted(found.labels) == [f"class {n}" for n in (0, 0, 1, 1, 2, 2)]
    again = select(tmp_path / "b", vectors, labels, count=2, per_class=True)
    assert numbers_of(again) == numbers_of(found)
    other = select(tmp_path / "c", vectors, labels, count=2, per_class=True, seed=1)
    assert numbers_of(other) != numbers_of(found)


def test_classes_smaller_than_asked_give_all_they_have(tmp_path):
    vectors, groups = grouped([30, 2])
    labels = [None if n < 3 else f"c{group}" for n, group in enumerate(groups)]
    found = select(tmp_path, vectors, labels, count=5, per_class=True, by="representative")
    assert found.labels.count("c0") == 5
    assert 1 <= found.labels.count("c1") <= 2
    assert None not in found.labels


def test_uncertain_images_are_between_the_labels(tmp_path):
    rng = np.random.default_rng(0)
    share = rng.uniform(0, 1, 300)  # from one label to the other
    ends = unit(rng.normal(size=(2, 16)))
    noise = 0.5 * rng.normal(size=(300, 16))  # no two are near-duplicates
    vectors = unit(share[:, None] * ends[0] + (1 - share[:, None]) * ends[1] + 0.2 * noise)
    classifier = LabelClassifier(["a", "b"], ends, 100.0)
    found = select(tmp_path, vectors, classifier=classifier, count=20, by="uncertain")
    assert len(found) == 20
    assert np.abs(share[numbers_of(found)] - 0.5).mean() < 0.2
    assert list(found.scores) == sorted(found.scores)


def test_near_duplicates_are_not_chosen_twice(tmp_path):
    vectors, _ = grouped([40], spread=3.0)
    vectors = np.repeat(vectors, 3, axis=0)
    classifier = LabelClassifier(["a", "b"], unit(np.eye(2, 32)), 1.0)
    found = select(tmp_path, vectors, classifier=classifier, count=5, by="uncertain")
    assert len({number // 3 for number in numbers_of(found)}) == 5


def test_the_labels_of_some_images_choose_among_the_others(tmp_path):
    vectors, groups = grouped([200, 200], spread=1.5)
    labels = [f"c{group}" if n % 2 else None for n, group in enumerate(groups)]
    found = select(tmp_path, vectors, labels, count=10, by="uncertain")
    assert all(number % 2 == 0 for number in numbers_of(found))
    assert found.num_candidates == 200
    full = [f"c{group}" for group in groups]
    assert len(select(tmp_path / "b", vectors, full, count=10, by="uncertain")) == 10


@pytest.mark.parametrize("by", ["diverse", "representative"])
@pytest.mark.parametrize("count", [1, 3, 50])
def test_odd_indexes(tmp_path, by, count):
    equal = unit(np.ones((7, 8)))
    found = select(tmp_path, equal, count=count, by=by)
    assert len(set(numbers_of(found))) == len(found) == min(count, 7)
    assert found.radius == pytest.approx(0, abs=1e-6)
    assert len(found.to_pandas()) == len(found)
    index = index_of(tmp_path / "b", remote_rows(1), equal[:1])
    index.delete([row.id for row in index.rows()])
    nothing = select_images(index, SelectOptions(count, by))
    assert len(nothing) == 0
    assert (nothing.mean_distance, nothing.radius) == (0, 0)


def test_what_needs_labels_says_so(tmp_path):
    vectors, _ = grouped([10])
    for options in ({"per_class": True}, {"by": "uncertain"}):
        with pytest.raises(QueryError, match="no labels"):
            select(tmp_path / str(options), vectors, count=2, **options)
    only = LabelClassifier(["a"], vectors[:1], 1.0)
    with pytest.raises(QueryError, match="two labels"):
        select(tmp_path / "one", vectors, classifier=only, count=2, by="uncertain")


@pytest.mark.parametrize("options", [{"count": 0}, {"count": 3, "by": "best"}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match=r"at least 1|unknown"):
        SelectOptions(**options)
