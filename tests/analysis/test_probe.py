"""Probes and their cross-validation."""

import numpy as np
import pytest

from perception_encoder.analysis.probe import (
    assign_folds,
    cross_validate,
    find_copies,
    fit_probe,
    softmax,
)


def _clouds(counts, spread=0.3, dim=16, seed=0):
    """Return embeddings around one center for each label, and the labels."""
    generator = np.random.default_rng(seed)
    centers = generator.normal(size=(len(counts), dim))
    labels = [f"label {n}" for n, count in enumerate(counts) for _ in range(count)]
    numbers = np.repeat(np.arange(len(counts)), counts)
    noise = spread * generator.normal(size=(len(labels), dim))
    return (centers[numbers] + noise).astype(np.float32), labels


def _share_right(found, labels):
    return np.mean([found.labels[n] for n in found.logits.argmax(axis=1)] == np.array(labels))


@pytest.mark.parametrize("count", [3, 20], ids=["means", "regression"])
def test_separate_labels_are_predicted_from_the_other_folds(count):
    embeddings, labels = _clouds([count] * 4)
    found = cross_validate(embeddings, labels)
    assert found.labels == tuple(sorted(set(labels)))
    assert found.probabilities.shape == (4 * count, 4)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, rtol=1e-5)
    assert [found.labels[n] for n in found.probabilities.argmax(axis=1)] == labels


def test_a_wrong_label_is_improbable():
    embeddings, labels = _clouds([30, 30])
    labels[4] = "label 1"
    found = cross_validate(embeddings, labels)
    assert found.probabilities[4, 1] < 0.1


def test_random_labels_are_not_predicted():
    embeddings = np.random.default_rng(1).normal(size=(300, 16)).astype(np.float32)
    labels = ["yes", "no"] * 150
    found = cross_validate(embeddings, labels)
    assert 0.35 < _share_right(found, labels) < 0.65


def test_copies_share_a_fold_so_that_scores_do_not_lie():
    generator = np.random.default_rng(2)
    noise = generator.normal(size=(40, 64)).astype(np.float32)  # nothing to learn but themselves
    embeddings, labels = np.concatenate([noise, noise]), ["yes", "no"] * 40
    labels = [*labels[:40], *labels[:40]]
    honest = cross_validate(embeddings, labels)
    assert (honest.groups[:40] == honest.groups[40:]).all()
    assert (honest.folds[:40] == honest.folds[40:]).all()
    lying = cross_validate(embeddings, labels, groups=np.arange(80), num_folds=10)
    assert _share_right(honest, labels) < 0.7 < 0.85 < _share_right(lying, labels)


def test_copies_are_found_by_embedding_and_by_content():
    embeddings = np.eye(5, dtype=np.float32)
    embeddings[3] = 2 * embeddings[1]
    assert find_copies(embeddings).tolist() == [0, 1, 2, 1, 4]
    assert find_copies(embeddings, ["a", None, "b", "b", "a"]).tolist() == [0, 1, 1, 1, 0]


def test_folds_have_equal_shares_of_each_label():
    targets = np.repeat(np.eye(3, dtype=bool), [50, 20, 5], axis=0)
    folds = assign_folds(targets, np.arange(75))
    counts = np.stack([targets[folds == fold].sum(axis=0) for fold in range(5)])
    assert counts.tolist() == [[10, 4, 1]] * 5


def test_a_label_with_one_example_is_never_predicted():
    embeddings, labels = _clouds([10, 10, 1])
    found = cross_validate(embeddings, labels)
    assert found.probabilities[20, 2] == 0


def test_labels_of_one_kind_are_refused():
    with pytest.raises(ValueError, match="at least two labels"):
        cross_validate(np.eye(3, dtype=np.float32), ["one"] * 3)
    with pytest.raises(ValueError, match="2 labels for 3 embeddings"):
        cross_validate(np.eye(3, dtype=np.float32), ["one", "two"])
    with pytest.raises(ValueError, match="at least two folds"):
        cross_validate(np.ones((3, 4), np.float32), ["one", "two", "two"])


@pytest.mark.parametrize("count", [2, 20], ids=["means", "regression"])
def test_labels_of_one_image_are_independent_questions(count):
    generator = np.random.default_rng(3)
    targets = np.tile(np.array([[0, 0], [1, 0], [0, 1], [1, 1]], bool), (count, 1))
    embeddings = targets @ generator.normal(size=(2, 32)) + generator.normal(size=32)
    embeddings += 0.05 * generator.normal(size=embeddings.shape)
    probe = fit_probe(embeddings.astype(np.float32), targets, is_multi_label=True)
    scores = probe.logits(embeddings.astype(np.float32))
    for label in range(2):
        assert scores[targets[:, label], label].min() > scores[~targets[:, label], label].max()


def test_a_prompt_stands_for_examples_that_are_missing():
    embeddings, labels = _clouds([3, 3, 3])
    centers = np.stack([embeddings[3 * n : 3 * n + 3].mean(axis=0) for n in range(3)])
    targets = np.array([[one == f"label {n}" for n in range(3)] for one in labels])
    unseen = np.arange(9) < 6
    targets[6:] = False
    probe = fit_probe(embeddings[unseen], targets[unseen], prompts=centers)
    assert probe.logits(embeddings[6:]).argmax(axis=1).tolist() == [2, 2, 2]


def test_softmax_of_labels_that_were_not_learned():
    logits = np.array([[-np.inf, 0, 0], [-np.inf] * 3], np.float32)
    np.testing.assert_allclose(softmax(logits), [[0, 0.5, 0.5], [1 / 3] * 3], rtol=1e-6)
