"""Cleaning an index of vectors in which faults were planted, and odd indexes."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pyarrow as pa
import pytest
from analysis.duplicate_samples import index_of, refuse, remote_rows, unit
from PIL import Image

from perception_encoder.analysis.cleaning import CleaningOptions, clean_index
from perception_encoder.analysis.cleaning import neighbors as neighbors_module
from perception_encoder.analysis.cleaning.classes import read_groups
from perception_encoder.analysis.ranked_images import rank_images
from perception_encoder.errors import QueryError
from perception_encoder.index import Row

EMBEDDED = ("leak", "wrong label", "outlier", "odd aspect ratio")


def clean(index, read=refuse, **options):
    """Clean by embeddings only; no image is read."""
    return clean_index(index, read, CleaningOptions(kinds=EMBEDDED, **options))


def labeled(count, *, seed=0, embed_dim=64, classes=("cat", "犬", "müll")):
    """Rows of images that nobody has, with labels that fit their vectors."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(len(classes), embed_dim))
    labels = rng.integers(len(classes), size=count)
    common = rng.normal(size=embed_dim)
    noise = rng.normal(size=(count, embed_dim))
    vectors = unit(common + 1.2 * directions[labels] + noise)
    rows = [
        replace(row, width=100, height=80, metadata={"label": classes[label]})
        for row, label in zip(remote_rows(count), labels, strict=True)
    ]
    return rows, vectors


def relabel(rows, numbers, classes):
    for number in numbers:
        own = rows[number].metadata["label"]
        other = classes[(classes.index(own) + 1) % len(classes)]
        rows[number] = replace(rows[number], metadata={"label": other})


def uris(found):
    return {one.row.uri for one in found}


@pytest.mark.parametrize("count", [120, 3000])
def test_planted_wrong_labels_are_found(tmp_path, count):
    classes = ("cat", "犬", "müll")
    rows, vectors = labeled(count, classes=classes)
    wrong = np.random.default_rng(1).choice(count, count // 20, replace=False).tolist()
    truth = {rows[number].uri: rows[number].metadata["label"] for number in wrong}
    relabel(rows, wrong, classes)
    found = clean(index_of(tmp_path, rows, vectors)).findings["wrong label"]
    assert len(uris(found) & set(truth)) >= 0.8 * len(truth)
    assert len(uris(found) - set(truth)) <= 0.02 * count
    assert all(one.suggested == truth[one.row.uri] for one in found if one.row.uri in truth)
    margins = [one.score for one in found]
    assert margins == sorted(margins, reverse=True)
    assert 0 < margins[-1] <= margins[0] <= 1


@pytest.mark.parametrize("limit", [20_000, 500])
def test_planted_outliers_are_found_and_few_others(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(neighbors_module, "MAX_REFERENCES", limit)
    rows, vectors = labeled(2000)
    vectors[:10] = unit(np.random.default_rng(2).normal(size=(10, 64)))  # without the common part
    report = clean(index_of(tmp_path, rows, vectors))
    found = report.findings["outlier"]
    planted = {row.uri for row in rows[:10]}
    assert uris(found[:10]) == planted
    assert len(found) <= 10 + 0.005 * 2000
    assert report.findings["wrong label"] is not None


def test_the_rate_of_outliers_holds_for_ordinary_images(tmp_path):
    rows, vectors = labeled(4000)
    index = index_of(tmp_path, rows, vectors)
    for rate in (0.001, 0.01):
        found = clean(index, outlier_rate=rate).findings["outlier"]
        assert len(found) <= 3 * rate * 4000 + 3


def test_leaks_name_the_image_outside_train_and_its_nearest_partner(tmp_path):
    rows, vectors = labeled(200)
    splits = ["train"] * 150 + ["val"] * 20 + ["test"] * 30
    near = unit(vectors[:3] + 0.01 * np.random.default_rng(0).normal(size=(3, 64)))
    vectors[150:153] = near  # val images of train
    vectors[170] = vectors[150]  # and a test image of both
    vectors[8] = vectors[9]  # within train: a duplicate, not a leak
    rows = [
        replace(row, metadata={"split": split}) for row, split in zip(rows, splits, strict=True)
    ]
    rows[171] = replace(rows[171], sha256=rows[20].sha256)  # the same file
    vectors[171] = vectors[20]
    report = clean(index_of(tmp_path, rows, vectors))
    found = {one.row.uri: one for one in report.findings["leak"]}
    assert set(found) == {rows[n].uri for n in (150, 151, 152, 170, 171)}
    assert found[rows[151].uri].other.uri == rows[1].uri
    assert found[rows[151].uri].other_split == "train"
    # Of two splits other than train, the smaller one's image is named.
    assert found[rows[150].uri].other.uri == rows[170].uri
    assert found[rows[150].uri].score == pytest.approx(1, abs=1e-5)
    assert found[rows[171].uri].detail == "identical bytes in train"
    assert report.duplicates == (1, 5)
    assert report.sizes_of_splits == {"test": 30, "train": 150, "val": 20}


def test_dark_images_that_only_look_alike_are_no_leaks(tmp_path):
    vectors = unit(np.random.default_rng(0).normal(size=(6, 64)))
    vectors[4] = unit(vectors[0] + 0.01 * vectors[1])  # as near as a copy that was saved again
    vectors[5] = vectors[2]
    splits = ["train", "train", "train", "train", "test", "test"]
    rows = [
        replace(row, metadata={"split": split})
        for row, split in zip(remote_rows(6), splits, strict=True)
    ]

    def leaks(level):
        image = Image.effect_noise((64, 64), 20).point(lambda value: value * level // 255)
        stream = BytesIO()
        image.save(stream, "PNG")
        folder = tmp_path / str(level)
        folder.mkdir()
        report = clean_index(
            index_of(folder, rows, vectors), lambda *_: stream.getvalue(), CleaningOptions()
        )
        said = [note for note in report.notes if "not called leaks" in note]
        return uris(report.findings["leak"]), len(said)

    assert leaks(255) == ({rows[4].uri, rows[5].uri}, 0)
    vectors[4] = unit(vectors[0] + 0.08 * vectors[1])
    assert leaks(60) == ({rows[5].uri}, 1)
    assert leaks(250) == ({rows[4].uri, rows[5].uri}, 0)


def test_folders_are_splits_and_classes(tmp_path):
    names = ["train/cat/1", "train/dog/1", "test/cat/2", "Validation/dog/2", "test/3"]
    rows = [
        replace(row, uri=f"/d/{name}.jpg") for row, name in zip(remote_rows(5), names, strict=True)
    ]
    rows.append(Row(uri="/d/pack.tar", member="train/dog/9.jpg"))
    index = index_of(tmp_path, rows, unit(np.eye(6)))
    images = rank_images(index, "first", None)
    labels, splits = read_groups(index, images, None)
    found = {images.row(n).name: (splits.name_of(n), labels.name_of(n)) for n in range(len(images))}
    assert found == {
        "/d/train/cat/1.jpg": ("train", "cat"),
        "/d/train/dog/1.jpg": ("train", "dog"),
        "/d/test/cat/2.jpg": ("test", "cat"),
        "/d/Validation/dog/2.jpg": ("val", "dog"),
        "/d/test/3.jpg": ("test", None),
        "/d/pack.tar/train/dog/9.jpg": ("train", "dog"),
    }


def test_albums_are_no_classes_unless_asked(tmp_path):
    rows = [replace(row, uri=f"/p/{2020 + n}/a.jpg") for n, row in enumerate(remote_rows(4))]
    index = index_of(tmp_path, rows, unit(np.eye(4)))
    images = rank_images(index, "first", None)
    labels, splits = read_groups(index, images, None)
    assert not labels
    assert not splits
    labels, _ = read_groups(index, images, None, label_folders=True)
    assert labels.names == ["2020", "2021", "2022", "2023"]


def test_a_missing_column_is_an_error_that_lists_the_others(tmp_path):
    rows, vectors = labeled(5)
    index = index_of(tmp_path, rows, vectors)
    with pytest.raises(QueryError, match=r"no column 'species'; it has .*label"):
        clean(index, label_column="species")
    with pytest.raises(QueryError, match="no column"):
        clean(index, split_column="vector")


def test_numbers_are_labels_and_gaps_are_none(tmp_path):
    values = [1.0, None, 2.0, 1.0, float("nan")]
    rows = [
        replace(row, metadata={"kind": value})
        for row, value in zip(remote_rows(5), values, strict=True)
    ]
    index = index_of(tmp_path, rows, unit(np.eye(5)))
    labels, _ = read_groups(index, rank_images(index, "first", None), None, label_column="kind")
    assert labels.names == ["1", "2"]
    assert sorted(labels.numbers.tolist()) == [-1, -1, 0, 0, 1]


def test_the_balance_of_the_classes(tmp_path):
    rows = [
        replace(row, metadata={"label": "many" if n < 50 else "few" if n < 53 else None})
        for n, row in enumerate(remote_rows(60))
    ]
    index = index_of(tmp_path, rows, unit(np.random.default_rng(0).normal(size=(60, 8))))
    classes = clean(index).classes
    assert classes.sizes == {"many": 50, "few": 3}
    assert classes.rare == ("few",)
    assert classes.num_unlabeled == 7
    assert classes.ratio == pytest.approx(50 / 3)


@pytest.mark.parametrize("count", [0, 1, 2, 29])
def test_small_indexes_have_no_outliers_and_say_so(tmp_path, count):
    rows, vectors = labeled(count or 1)
    index = index_of(tmp_path, rows, vectors)
    if not count:
        index.delete([rows[0].id])
    report = clean(index)
    assert report.num_images == count
    assert not report.findings["outlier"]
    assert any("outliers need" in note for note in report.notes)


@pytest.mark.parametrize("classes", [("one",), ("one", "two")])
def test_equal_embeddings_have_no_faults(tmp_path, classes):
    rows, _ = labeled(64, classes=classes)
    report = clean(index_of(tmp_path, rows, unit(np.ones((64, 16)))))
    assert len(report) == 0
    assert report.duplicates == (0, 63)


def test_a_single_class_is_not_checked(tmp_path):
    rows, vectors = labeled(40, classes=("only",))
    report = clean(index_of(tmp_path, rows, vectors))
    assert not report.findings["wrong label"]
    assert any("labels were not checked" in note for note in report.notes)


def test_tiny_classes_are_left_out_and_counted(tmp_path):
    rows, vectors = labeled(80)
    rows[:2] = [replace(row, metadata={"label": "rare"}) for row in rows[:2]]
    report = clean(index_of(tmp_path, rows, vectors))
    assert any(note.startswith("labels of 2 images") for note in report.notes)


def test_sizes_that_are_odd_or_unknown(tmp_path):
    shapes = [(300, 100), (100, 299), (None, None), (0, 5), (10, 100)]
    rows = [
        replace(row, width=width, height=height)
        for row, (width, height) in zip(remote_rows(5), shapes, strict=True)
    ]
    found = clean(index_of(tmp_path, rows, unit(np.eye(5)))).findings["odd aspect ratio"]
    assert [(one.detail, one.score) for one in found] == [("10 × 100", 10.0), ("300 × 100", 3.0)]


def test_a_condition_chooses_the_images(tmp_path):
    rows, vectors = labeled(60)
    index = index_of(tmp_path, rows, vectors)
    options = CleaningOptions(kinds=("outlier",))
    assert clean_index(index, refuse, options, where="label = 'cat'").num_images < 40


@pytest.mark.parametrize(
    "options",
    [{"kinds": ("ugly",)}, {"threshold": 0.0}, {"threshold": np.nan}, {"outlier_rate": 0.5}],
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match=r"kind|threshold|rate"):
        CleaningOptions(**options)


def test_the_table_has_a_row_for_each_finding(tmp_path):
    rows, vectors = labeled(200)
    relabel(rows, range(8), ("cat", "犬", "müll"))
    report = clean(index_of(tmp_path, rows, vectors))
    frame = report.to_pandas()
    assert len(frame) == len(report) > 0
    assert set(frame[frame.kind == "wrong label"].suggested) <= {"cat", "犬", "müll"}
    assert pa.Table.from_pandas(frame).num_rows == len(report)
    assert f"{len(report.findings['wrong label'])} wrong label" in repr(report)
