"""Names of clusters, where images and words lie apart, as those of real models do."""

import numpy as np
from analysis.duplicate_samples import unit

from perception_encoder.analysis.cluster_names import name_clusters

CAT, DOG, CAR, IMAGE, WORD, HUB = np.eye(6, dtype=np.float32)


def test_a_word_near_to_everything_names_nothing():
    # All images, and all words, have far more in common than what tells them apart.
    centers = unit(np.stack([3 * IMAGE + it for it in (CAT, DOG, CAR)]))
    words = ["thing", "dog", "car", "cat"]
    vectors = unit(np.stack([3 * WORD + it for it in (4 * IMAGE, DOG, CAR, CAT)]))
    assert [words[best] for best in (centers @ vectors.T).argmax(axis=1)] == ["thing"] * 3
    named = name_clusters(centers, words, vectors)
    assert [name.text for name in named] == ["cat", "dog", "car"]
    assert all(name.scores[0] > 0.3 > name.scores[1] for name in named)


def test_clusters_that_share_a_word_are_told_apart_by_the_next():
    centers = unit(np.stack([CAT + 0.4 * DOG, CAT + 0.4 * CAR, 5 * HUB - CAT]))
    named = name_clusters(centers, ["cat", "dog", "car"], unit(np.stack([CAT, DOG, CAR])))
    assert [name.text for name in named[:2]] == ["cat, dog", "cat, car"]


def test_one_cluster_and_one_word_have_nothing_to_differ_from():
    center = unit(np.stack([IMAGE + CAT]))
    (name,) = name_clusters(center, ["dog", "cat"], np.stack([DOG, CAT]))
    assert name.text == "cat"
    (only,) = name_clusters(center, ["dog"], DOG[None])
    assert (only.text, len(only.scores)) == ("dog", 1)
