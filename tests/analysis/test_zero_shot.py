"""Labels as vectors: the arithmetic, with vectors that are made, and with a small model."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_models import drawing, open_tiny

from perception_encoder.analysis import ZeroShotClassifier
from perception_encoder.analysis.classifiers import Prompts

LABELS = {"pet": ["cat", "dog"], "car": ["red car"]}
TEMPLATES = ["a {}", "the {} and its {}"]


def test_every_name_comes_in_every_template() -> None:
    prompts = Prompts.of(LABELS, TEMPLATES)
    assert prompts.labels == ("pet", "car")
    assert prompts.texts == (
        "a cat", "the cat and its cat", "a dog", "the dog and its dog",
        "a red car", "the red car and its red car",
    )  # fmt: skip
    assert prompts.starts == (0, 4)


def test_a_label_is_the_mean_of_unit_vectors_however_long_they_were() -> None:
    prompts = Prompts.of({"both": ["x", "y"], "one": ["x"]}, ["{}"])
    vectors = np.array([[3, 0, 0], [0, 0.5, 0], [0, 0, 7]], np.float32)
    classifier = ZeroShotClassifier(prompts, vectors, logit_scale=np.log(3))
    half = np.sqrt(0.5)
    np.testing.assert_allclose(classifier.vectors, [[half, half, 0], [0, 0, 1]], atol=1e-6)
    found = classifier.classify(np.array([[0, 0, 2], [5, 5, 0]], np.float32))
    np.testing.assert_allclose(found.scores, [[0, 1], [1, 0]], atol=1e-6)
    # Cosines of 0 and 1 times ln 3: odds of one to three.
    np.testing.assert_allclose(found.probabilities, [[0.25, 0.75], [0.75, 0.25]], atol=1e-6)
    assert [[one.label for one in of_one] for of_one in found.best(5)] == [
        ["one", "both"], ["both", "one"]
    ]  # fmt: skip
    assert found.best()[0][0].probability == pytest.approx(0.75, abs=1e-6)
    assert classifier.classify(np.empty((0, 3), np.float32)).best() == []


def test_labels_that_fit_equally_well_stay_in_their_order() -> None:
    vectors = np.ones((3, 2), np.float32)
    classifier = ZeroShotClassifier(Prompts.of(["c", "a", "b"], ["{}"]), vectors, logit_scale=50)
    ((first, second),) = classifier.classify(vectors[:1]).best(2)
    assert (first.label, second.label) == ("c", "a")
    assert first.probability == pytest.approx(1 / 3)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(1, 3), st.integers(0, 99))
def test_scores_are_those_of_the_definition(
    num_names: list[int], num_templates: int, seed: int
) -> None:
    labels = {f"{n}": [f"{n}{m}" for m in range(count)] for n, count in enumerate(num_names)}
    prompts = Prompts.of(labels, [f"{n} {{}}" for n in range(num_templates)])
    generator = np.random.default_rng(seed)
    embedded = generator.normal(size=(len(prompts.texts), 8)).astype(np.float32)
    images = generator.normal(size=(3, 8)).astype(np.float32)
    found = ZeroShotClassifier(prompts, embedded, logit_scale=30.0).classify(images)
    vector_of = dict(zip(prompts.texts, embedded, strict=True))
    for label, (name, names) in enumerate(labels.items()):
        texts = [f"{n} {one}" for one in names for n in range(num_templates)]
        mean = np.mean([vector_of[t] / np.linalg.norm(vector_of[t]) for t in texts], axis=0)
        expected = images @ mean / np.linalg.norm(mean) / np.linalg.norm(images, axis=1)
        np.testing.assert_allclose(found.scores[:, label], expected, atol=1e-5)
        assert found.labels[label] == name
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "templates", "message"),
    [
        ([], ["{}"], "at least one label"),
        (["cat"], [], "one template"),
        (["cat"], ["a photo"], "'a photo' needs {}"),
        ({"cat": []}, ["{}"], "'cat'"),
        ({"cat": "kitten"}, ["{}"], "list of names"),
    ],
)
def test_what_cannot_be_put_together_is_refused(labels, templates, message) -> None:
    with pytest.raises(ValueError, match=message):
        Prompts.of(labels, templates)


def test_a_model_makes_its_classifier() -> None:
    with open_tiny() as model:
        classifier = ZeroShotClassifier.from_model(model, LABELS, ["a {}"])
        image = model.embed_image(drawing(1))
        found = classifier.classify(image)
        texts = model.embed_text(["a cat", "a dog", "a red car"])
    expected = [texts[:2].mean(axis=0), texts[2]]
    np.testing.assert_allclose(found.scores, model.similarity(image, expected), atol=1e-6)
    with pytest.raises(ValueError, match="cannot compare"):
        classifier.classify(np.ones((1, 3), np.float32))
