"""Recall of captions and images, counted by hand and beside the definition of CLIP_benchmark."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_encoder.analysis.evaluation import CaptionPairs, measure_retrieval


def test_equal_captions_and_identical_images_are_one() -> None:
    pairs = CaptionPairs.of(
        ["sha-1", "sha-2", "sha-1", "sha-3", "sha-4"],
        [["A dog", "a cat"], ["a  DOG "], ["a pet", "a dog"], [], ["", "a fish"]],
    )
    assert pairs.places == (0, 1, 4)
    assert pairs.texts == ("A dog", "a cat", "a pet", "a fish")
    assert pairs.texts_of == ((0, 1, 2), (0,), (3,))
    assert pairs.images_of == ((0, 1), (0,), (0,), (2,))


def unit(rows: list[list[float]]) -> np.ndarray:
    vectors = np.array(rows, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_recall_counted_by_hand() -> None:
    """Of three images the third is nearer to the captions of the second than to its own."""
    pairs = CaptionPairs.of(["p", "q", "r"], [["p1", "p2"], ["q1"], ["r1"]])
    images = unit([[1, 0, 0], [0, 1, 0], [0, 0.9, 0.5]])
    texts = unit([[1, 0, 0], [0, 1, 0.1], [0, 1, 0.2], [0, 0, 1]])  # p2 fits q best
    found = measure_retrieval(pairs, images, texts)
    assert (found.num_images, found.num_texts) == (3, 4)
    # p1 finds p. p2 finds q. q1 finds q. r1 finds r.
    assert found.text_to_image[1].value == 3 / 4
    # p finds p1. q finds p2 before q1. r finds q1 first.
    assert found.image_to_text[1].value == 1 / 3
    assert found.text_to_image[5].value == found.image_to_text[10].value == 1
    assert found.image_to_text[1].low < 1 / 3 < found.image_to_text[1].high


def test_a_model_that_tells_nothing_apart_finds_nothing() -> None:
    pairs = CaptionPairs.of([str(n) for n in range(12)], [[f"text {n}"] for n in range(12)])
    same = unit([[1, 2, 3]] * 12)
    found = measure_retrieval(pairs, same, same)
    assert [share.value for share in found.text_to_image.values()] == [0, 0, 0]
    assert [share.value for share in found.image_to_text.values()] == [0, 0, 0]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=25), st.integers(0, 999))
def test_without_ties_recall_is_that_of_clip_benchmark(num_captions: list[int], seed: int) -> None:
    """The share of queries with at least one right result among the first k of a sorted list."""
    count = len(num_captions)
    captions = [[f"{n} {m}" for m in range(num)] for n, num in enumerate(num_captions)]
    pairs = CaptionPairs.of([str(n) for n in range(count)], captions)
    generator = np.random.default_rng(seed)
    images = unit(generator.normal(size=(count, 16)))
    texts = unit(generator.normal(size=(len(pairs.texts), 16)))
    owner = np.repeat(np.arange(count), num_captions)
    found = measure_retrieval(pairs, images, texts)
    scores = texts @ images.T
    for k in (1, 5, 10):
        first = np.argsort(-scores, axis=1)[:, :k]
        hits = (first == owner[:, None]).any(axis=1)
        assert found.text_to_image[k].value == pytest.approx(hits.mean())
        first = np.argsort(-scores.T, axis=1)[:, :k]
        hits = (owner[first] == np.arange(count)[:, None]).any(axis=1)
        assert found.image_to_text[k].value == pytest.approx(hits.mean())
