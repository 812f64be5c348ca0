"""Shares of right labels, counted by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_encoder.analysis.classifiers import LabelScores
from perception_encoder.analysis.evaluation import Accuracy, AccuracyTally, compare_accuracies


def accuracy_of(scores: np.ndarray, truth: list[int], *, parts: int = 1) -> Accuracy:
    labels = tuple("abcdefghij"[: scores.shape[1]])
    tally = AccuracyTally(labels)
    numbers = np.array(truth, np.int64)
    for rows in np.array_split(np.arange(len(truth)), parts):
        tally.add(LabelScores(labels, scores[rows], scores[rows]), numbers[rows])
    return tally.accuracy()


def test_three_classes_counted_by_hand() -> None:
    scores = np.array(
        [[9, 1, 2], [9, 1, 2], [1, 9, 2], [9, 1, 2], [3, 9, 1], [1, 2, 9], [5, 4, 4]], np.float32
    )
    found = accuracy_of(scores, [0, 0, 0, 1, 1, 1, 0], parts=3)
    assert (found.num_images, found.num_labels) == (7, 3)
    assert found.top1.value == pytest.approx(4 / 7)
    assert found.top5 is None  # of three labels
    assert found.mean_recall.value == pytest.approx((3 / 4 + 1 / 3) / 2)
    assert [(one.label, one.num_images, round(one.recall, 3)) for one in found.classes] == [
        ("b", 3, 0.333), ("a", 4, 0.75)
    ]  # fmt: skip
    assert [(one.label, one.taken_for, one.count) for one in found.confusions] == [
        ("a", "b", 1), ("b", "a", 1), ("b", "c", 1)
    ]  # fmt: skip


def test_labels_that_cannot_be_told_apart_are_both_wrong() -> None:
    scores = np.array([[0.7, 0.7, 0.1]] * 2, np.float32)
    found = accuracy_of(scores, [0, 1])
    assert found.top1.value == 0
    assert [(one.label, one.taken_for) for one in found.confusions] == [("a", "b"), ("b", "a")]


@given(st.integers(2, 9), st.integers(1, 40), st.integers(1, 4), st.integers(0, 999))
def test_without_ties_shares_are_those_of_a_sorted_list(
    num: int, count: int, parts: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=(count, num)).astype(np.float32)  # no ties
    truth = generator.integers(0, num, count).tolist()
    before = scores.copy()
    found = accuracy_of(scores, truth, parts=parts)
    np.testing.assert_array_equal(scores, before)
    predicted = scores.argmax(axis=1)
    assert found.top1.value == pytest.approx(np.mean(predicted == truth))
    recalls = [np.mean(predicted[np.equal(truth, n)] == n) for n in sorted(set(truth))]
    assert found.mean_recall.value == pytest.approx(np.mean(recalls))
    if num > 5:
        first = np.argsort(-scores, axis=1)[:, :5]
        assert found.top5 is not None
        assert found.top5.value == pytest.approx((truth == first.T).any(axis=0).mean())
    wrong = sum(one.count for one in found.confusions)
    assert wrong == count - round(found.top1.value * count)


def test_two_models_are_compared_image_by_image() -> None:
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    one = accuracy_of(np.array([right, right, right, wrong, right], np.float32), [0] * 5)
    other = accuracy_of(np.array([right, wrong, wrong, right, right], np.float32), [0] * 5, parts=2)
    found = compare_accuracies(one, other)
    assert (found.num_only_one, found.num_only_other) == (2, 1)
    assert found.difference.value == pytest.approx(one.top1.value - other.top1.value)
    assert found.difference.low < 0 < found.difference.high
    with pytest.raises(ValueError, match="4 and 5 images: measure"):
        compare_accuracies(accuracy_of(np.array([right] * 4, np.float32), [0] * 4), other)


def test_nothing_has_no_accuracy() -> None:
    with pytest.raises(ValueError, match="no cases"):
        AccuracyTally(["a"]).accuracy()
