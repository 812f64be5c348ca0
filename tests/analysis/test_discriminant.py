"""The cross-validated linear probe: it predicts what it was not shown, and nothing else."""

import numpy as np
import pytest
from analysis.duplicate_samples import unit
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from perception_encoder.analysis.discriminant import (
    MAX_CLASSES,
    NUM_FOLDS,
    Discriminant,
    DiscriminantSums,
    divide_into_folds,
)


def planted(num_images, num_classes, embed_dim, apart=1.5, seed=0):
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(num_classes, embed_dim))
    labels = rng.integers(num_classes, size=num_images)
    return unit(apart * directions[labels] + rng.normal(size=(num_images, embed_dim))), labels


def fitted(vectors, labels, num_classes):
    folds = divide_into_folds(np.arange(len(vectors)))
    sums = DiscriminantSums(num_classes, vectors.shape[1])
    for start in range(0, len(vectors), 97):  # block by block, as an index is read
        block = slice(start, start + 97)
        sums.add(vectors[block], labels[block], folds[block])
    return sums.fit(vectors, labels, folds), folds


@pytest.mark.parametrize(("num_images", "embed_dim"), [(60, 256), (2000, 32)])
def test_classes_are_recognized_out_of_sample(num_images, embed_dim):
    vectors, labels = planted(num_images, 4, embed_dim)
    probe, folds = fitted(vectors, labels, 4)
    found = probe.predict(vectors, folds)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert (found.argmax(axis=1) == labels).mean() > 0.95


def test_random_labels_are_not_learned_by_heart():
    vectors, _ = planted(300, 4, 256)
    labels = np.random.default_rng(1).integers(4, size=300)
    probe, folds = fitted(vectors, labels, 4)
    assert (probe.predict(vectors, folds).argmax(axis=1) == labels).mean() < 0.4
    assert probe.predict(vectors, folds).max(axis=1).mean() < 0.5  # and it knows that


def test_it_is_scikit_learns_discriminant_analysis():
    vectors, labels = planted(1000, 3, 16, apart=0.6)
    probe, _ = fitted(vectors, labels, 3)
    given = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=probe.shrinkage)
    theirs = given.fit(vectors, labels).predict(vectors)
    assert (probe.predict(vectors).argmax(axis=1) == theirs).mean() > 0.99


def test_equal_embeddings_give_the_shares_of_the_classes():
    vectors = unit(np.ones((40, 8)))
    labels = np.repeat([0, 1], [30, 10])
    probe, folds = fitted(vectors, labels, 2)
    found = probe.predict(vectors, folds)
    assert np.isfinite(found).all()
    assert (found[:, 0] > found[:, 1]).all()


def test_copies_share_a_fold_and_folds_are_about_equal():
    groups = np.repeat(np.arange(500), 3)
    folds = divide_into_folds(groups)
    assert (folds.reshape(-1, 3) == folds[::3, None]).all()
    counts = np.bincount(folds)
    assert len(counts) == NUM_FOLDS
    assert counts.min() > 0.9 * counts.max()
    assert not len(divide_into_folds(np.empty(0, np.int64)))


def test_too_many_classes_are_refused():
    with pytest.raises(ValueError, match="classes"):
        DiscriminantSums(MAX_CLASSES + 1, 8)


def test_a_class_that_a_fold_lacks_is_not_predicted_by_it():
    vectors, labels = planted(40, 2, 8)
    vectors = np.concatenate([vectors, vectors[:1]])
    labels = np.append(labels, 2)  # a single example
    probe, folds = fitted(vectors, labels, 3)
    assert isinstance(probe, Discriminant)
    assert probe.predict(vectors, folds)[-1, 2] < 1e-6
