"""Few-shot classification: what is learned, what is said of it, and its files."""

import io
import json
import zipfile
from contextlib import suppress
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_encoder import AutoModel, ClassifierError, FewShotClassifier
from perception_encoder.analysis.classifier_file import (
    dump_classifier,
    find_classifier,
    load_classifier,
    parse_classifier,
)
from perception_encoder.types import ModelIdentity

GALLERY = Path(str(files("perception_encoder"))) / "data" / "gallery"
IDENTITY = ModelIdentity("some-model", "0" * 16, "standard", 16)


def _examples(counts, *, spread=0.3, seed=0, dim=16):
    """Return embeddings around one center for each label, and a set of one label for each."""
    generator = np.random.default_rng(seed)
    centers = generator.normal(size=(len(counts), dim))
    numbers = np.repeat(np.arange(len(counts)), counts)
    embeddings = centers[numbers] + spread * generator.normal(size=(len(numbers), dim))
    return embeddings.astype(np.float32), [(f"label {n}",) for n in numbers]


def _fit(counts, **options):
    embeddings, labels = _examples(counts, spread=options.pop("spread", 0.3))
    return FewShotClassifier.fit(embeddings, labels, identity=IDENTITY, **options)


@pytest.fixture(scope="module")
def taught():
    return _fit([20, 20, 20], spread=1.0)


def test_probabilities_are_calibrated():
    embeddings, labels = _examples([400] * 3, spread=2.5)
    classifier = FewShotClassifier.fit(embeddings[::2], labels[::2], identity=IDENTITY)
    found = classifier.classify(embeddings[1::2])
    right = [found.labels[n] for n in found.probabilities.argmax(axis=1)]
    share = np.mean([one == label for one, (label,) in zip(right, labels[1::2], strict=True)])
    assert 0.5 < share < 0.95  # hard enough to be sure of nothing
    assert found.probabilities.max(axis=1).mean() == pytest.approx(share, abs=0.05)


def test_probabilities_are_of_the_probe_that_answers():
    embeddings, labels = _examples([200] * 3, spread=1.0)
    few = np.concatenate([np.arange(200 * n, 200 * n + 5) for n in range(3)])  # folds have 4
    classifier = FewShotClassifier.fit(embeddings[few], [labels[n] for n in few], identity=IDENTITY)
    found = classifier.classify(np.delete(embeddings, few, axis=0))
    assert found.probabilities.max(axis=1).mean() > 0.7


def test_it_abstains_where_it_is_not_sure():
    embeddings, labels = _examples([300] * 3, spread=2.5)
    classifier = FewShotClassifier.fit(embeddings[::2], labels[::2], identity=IDENTITY)
    quality = classifier.quality
    assert 0.3 < classifier.cutoff < 1
    assert quality.answered.value < 1
    assert quality.right.value < 0.9 <= quality.right_if_answered.value
    found = classifier.classify(embeddings[1::2])
    given_labels = found.given()
    answered = [
        one[0] == label for one, (label,) in zip(given_labels, labels[1::2], strict=True) if one
    ]
    assert np.mean(answered) > 0.8
    assert len(answered) / len(given_labels) == pytest.approx(quality.answered.value, abs=0.15)


def test_scores_have_intervals_and_count_copies_once():
    embeddings, labels = _examples([6, 6])
    copies, contents = np.repeat(embeddings, 3, axis=0), np.repeat(np.arange(12), 3).astype(str)
    once = FewShotClassifier.fit(embeddings, labels, identity=IDENTITY).quality
    thrice = FewShotClassifier.fit(
        copies, [one for one in labels for _ in range(3)], identity=IDENTITY, contents=contents
    ).quality
    assert (once.num_examples, thrice.num_examples) == (12, 36)
    assert thrice.num_different == once.num_different == 12
    assert thrice.right == once.right
    assert once.right.low < once.right.value <= once.right.high
    assert [one.num_different for one in thrice.labels] == [6, 6]


def test_too_few_examples_say_nothing():
    quality = _fit([3, 2]).quality
    assert quality.right is quality.answered is quality.labels[0].recall is None
    assert quality.num_folds > 0
    assert _fit([1, 1]).quality.num_folds == 0
    few = _fit([20, 3]).quality
    assert few.labels[0].recall is not None
    assert few.labels[1].recall is None


def test_images_of_none_of_the_labels_get_none():
    embeddings, labels = _examples([12, 12, 12])
    labels = [() if one == ("label 2",) else one for one in labels]
    classifier = FewShotClassifier.fit(embeddings, labels, identity=IDENTITY)
    assert classifier.labels == ("label 0", "label 1")
    found = classifier.classify(embeddings)
    assert found.given() == labels
    assert found.probabilities.shape == (36, 2)
    assert (found.probabilities[24:].sum(axis=1) < 0.5).all()


def test_one_label_is_told_from_none():
    embeddings, labels = _examples([8, 8])
    labels = [() if one == ("label 1",) else one for one in labels]
    classifier = FewShotClassifier.fit(embeddings, labels, identity=IDENTITY)
    assert classifier.classify(embeddings).given() == labels


def test_an_image_may_have_several_labels():
    generator = np.random.default_rng(3)
    targets = np.tile(np.array([[0, 0], [1, 0], [0, 1], [1, 1]], bool), (12, 1))
    embeddings = targets @ generator.normal(size=(2, 16)) + generator.normal(size=16)
    embeddings = (2 * embeddings + 0.5 * generator.normal(size=embeddings.shape)).astype(np.float32)
    labels = [tuple(np.array(["a", "b"])[one].tolist()) for one in targets]
    classifier = FewShotClassifier.fit(embeddings, labels, identity=IDENTITY, is_multi_label=True)
    assert [set(one) for one in classifier.classify(embeddings).given()] == list(map(set, labels))
    assert classifier.quality.right.value > 0.9
    with pytest.raises(ValueError, match="several"):
        FewShotClassifier.fit(embeddings, labels, identity=IDENTITY)


def test_texts_help_where_examples_are_few():
    model = AutoModel.from_pretrained("pe-nano")
    with_texts = FewShotClassifier.from_model(
        model, {"heart": [GALLERY / "red-heart.webp"], "circle": [GALLERY / "red-circle.webp"]}
    )
    images = [GALLERY / f"{name}.webp" for name in ("blue-heart", "green-circle")]
    assert with_texts.predict(images) == ["heart", "circle"]


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ([("a",)] * 4, "nothing to tell 'a' from"),
        ([()] * 4, "nothing to tell"),
        ([("a",)] * 3, "labels of 3 examples for 4"),
    ],
)
def test_what_cannot_be_learned_is_refused(labels, why):
    with pytest.raises(ValueError, match=why):
        FewShotClassifier.fit(np.eye(4, dtype=np.float32), labels, identity=IDENTITY)


def test_embeddings_of_another_length_are_refused(taught):
    with pytest.raises(ValueError, match=r"\(N, 16\)"):
        taught.classify(np.zeros((2, 8), np.float32))


def test_a_file_holds_all_of_it(taught, tmp_path):
    taught.save(tmp_path / "a.npz")
    read = FewShotClassifier.load(tmp_path / "a.npz")
    embeddings, _ = _examples([5, 5, 5], seed=2)
    before, after = taught.classify(embeddings), read.classify(embeddings)
    np.testing.assert_array_equal(before.probabilities, after.probabilities)
    np.testing.assert_array_equal(before.applies, after.applies)
    assert (read.labels, read.cutoff, read.quality) == (
        taught.labels, taught.cutoff, taught.quality,
    )  # fmt: skip
    assert read.identity == IDENTITY
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert json.loads(arrays["about"].tobytes())["model"]["model_id"] == "some-model"


def test_another_model_is_refused_with_what_to_do(taught):
    other = replace(IDENTITY, fingerprint="1" * 16)
    with pytest.raises(ClassifierError, match="teach it again"):
        taught.check(other)
    taught.check(IDENTITY)


def _change(data, **changes):
    """Return a classifier's file with other values in its JSON."""
    with np.load(io.BytesIO(data)) as found:
        arrays = dict(found)
    about = json.loads(arrays["about"].tobytes()) | changes
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"format": 2}, "newer"),
        ({"labels": []}, "no labels"),
        ({"labels": ["a", "a", "b"]}, "twice"),
        ({"labels": ["a", "b", 3]}, "no texts"),
        ({"cutoff": 2}, "no probability"),
        ({"cutoff": None}, "damaged"),
        ({"labels": ["a"]}, "another shape"),
        ({"model": {"model_id": "x"}}, "damaged"),
        ({"quality": {"labels": 3}}, "damaged"),
    ],
)
def test_a_file_with_wrong_values_is_refused(taught, changes, why):
    with pytest.raises(ClassifierError, match=why):
        parse_classifier(_change(dump_classifier(taught), **changes))


def test_a_file_that_would_take_memory_is_refused(taught):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights.npy", b"\0" * 10_000_000)
    with pytest.raises(ClassifierError, match="unexpected member"):
        parse_classifier(file.getvalue())
    data = dump_classifier(taught)
    with pytest.raises(ClassifierError, match="damaged"):
        parse_classifier(data.replace(b"(3, 16)", b"(9, 99)"))
    pickled = io.BytesIO()
    np.savez(pickled, about=np.array([{}], object), weights=np.zeros(3), biases=np.zeros(3))
    with pytest.raises(ClassifierError, match="another type"):
        parse_classifier(pickled.getvalue())


@given(st.data())
def test_a_damaged_file_is_refused_or_read(data):
    content = bytearray(_DUMPED)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    for damaged in (bytes(content), bytes(content[:cut])):
        with suppress(ClassifierError):
            assert parse_classifier(damaged).labels


_DUMPED = dump_classifier(_fit([3, 3]))


def test_names_and_paths(tmp_path):
    assert find_classifier("pets", tmp_path) == tmp_path / "pets.npz"
    assert find_classifier("pets.npz", tmp_path).name == "pets.npz"
    assert find_classifier("pets.npz", tmp_path).parent != tmp_path
    assert str(find_classifier("a/pets", tmp_path)) == "a/pets"
    for name in ("", ".pets", "a\0"):
        with pytest.raises(ClassifierError, match="name"):
            find_classifier(name, tmp_path)
    with pytest.raises(ClassifierError, match="No such file"):
        load_classifier(tmp_path / "none.npz")
