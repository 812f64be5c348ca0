"""`ImageIndex`, as a Python user meets it, on the bundled gallery with pe-nano."""

import shutil
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_models import CLIP, CORE, drawing, open_tiny, save_drawings

from perception_encoder import AutoModel, FewShotClassifier, ImageIndex
from perception_encoder.errors import (
    ImagesMissingError,
    IndexMismatchError,
    IndexNotFoundError,
    QueryError,
    SourceNotFoundError,
    UnknownModelError,
)

NAMES = (
    "cat", "dog", "horse", "cow", "sheep", "lion", "tiger", "wolf", "fox", "bear", "red-heart",
    "blue-heart", "green-heart", "yellow-heart", "purple-heart", "banana", "pear", "lemon",
    "grapes", "cherries", "red-car", "taxi", "bus", "ambulance", "umbrella-above-cat",
    "umbrella-above-dog", "house", "tree",
)  # fmt: skip


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gallery")
    with as_file(files("perception_encoder").joinpath("data/gallery")) as source:
        for name in NAMES:
            shutil.copy(source / f"{name}.webp", folder)
    shutil.copy(folder / "cat.webp", folder / "copy of cat.webp")
    (folder / "broken.png").write_bytes(b"\x89PNG and nothing else")
    return folder


@pytest.fixture(scope="module")
def index(gallery: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    index = ImageIndex(tmp_path_factory.mktemp("index") / "photos.lance", model="pe-nano")
    report = index.add(gallery)
    assert report.counts == {"embedded": len(NAMES), "reused": 1, "failed": 1}
    assert [Path(one.uri).name for one in report.failed] == ["broken.png"]
    assert "broken.png" in repr(report)
    return index


def stems(found: object) -> list[str]:
    return [Path(one.uri).stem for one in found]  # type: ignore[attr-defined]


def test_an_index_is_found_again_without_naming_the_model(index, gallery):
    again = ImageIndex(index.path)
    assert len(again) == len(index) == len(NAMES) + 1
    assert stems(again.search("a red heart", k=1)) == ["red-heart"]
    assert again.add(gallery).counts["skipped"] == len(NAMES) + 1
    assert repr(again) == f"ImageIndex({index.path!r}, model='pe-nano', {len(NAMES) + 1} images)"
    assert [one.reason for one in again.errors()] == ["ImageDecodeError"]


def test_hits_say_where_and_how_well(index, gallery, tmp_path):
    hits = index.search("a red heart", k=3)
    assert hits[0].uri == str(gallery / "red-heart.webp")
    assert hits[0].score > hits[1].score > 0
    assert hits[0].label == "strong"
    assert hits[0].metadata == {}
    assert hits[0].image().mode == "RGB"
    assert hits[0].image().size == (hits[0].hit.width, hits[0].hit.height)
    assert len(hits[:2]) == 2
    assert stems(hits[1:]) == stems(hits)[1:]
    table = hits.to_arrow()
    assert table["uri"].to_pylist() == [hit.uri for hit in hits]
    assert {"score", "label", "width", "height"} <= set(table.column_names)
    (sheet,) = hits.sheet(tmp_path / "hits.png")
    with Image.open(sheet) as drawn:
        assert drawn.width > 500
    page = hits._repr_html_()
    assert page.count("data:image/webp") == 3
    assert "red-heart" in page


def test_hits_become_a_data_frame(index):
    pytest.importorskip("pandas")
    hits = index.search("a red heart", k=3)
    assert list(hits.to_pandas()["score"]) == [hit.score for hit in hits]


@pytest.mark.parametrize("kind", ["text", "path", "name", "Path", "PIL", "array", "embedding"])
def test_a_query_may_be_of_any_kind(index, gallery, kind):
    path = gallery / "banana.webp"
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    queries = {
        "text": "a banana",
        "path": str(path),
        "name": "@banana.webp",
        "Path": path,
        "PIL": rgb,
        "array": np.asarray(rgb)[..., ::-1],
        "embedding": index.model.embed_image(path),
    }
    (hit,) = index.search(queries[kind], k=1)
    assert Path(hit.uri).stem == "banana"
    assert (hit.label is None) == (kind == "embedding")


def test_sums_follow_the_grammar_of_the_command_line_or_are_pairs(index, gallery):
    written = index.search("@blue-heart.webp + 2:yellow - blue", k=5)
    assert stems(written)[0] == "yellow-heart"
    path = gallery / "blue-heart.webp"
    pairs = index.search([(1, path), (2, "yellow"), (-1, "blue")], k=5)
    assert stems(pairs) == stems(written)
    assert [hit.score for hit in pairs] == pytest.approx([hit.score for hit in written], abs=1e-3)
    with pytest.raises(TypeError, match="weight, query"):
        index.search(["yellow", "blue"])
    with pytest.raises(QueryError, match="empty"):
        index.search([])


def test_similar_leaves_the_image_itself_out_and_unique_folds_copies(index, gallery):
    assert stems(index.similar("@cat.webp", k=1)) == ["copy of cat"]
    assert "cat" not in stems(index.similar(gallery / "cat.webp"))
    first = index.search("a cat", unique=True)[0]
    assert {Path(one.uri).stem for one in (first, *first.also)} == {"cat", "copy of cat"}
    assert len(index.search("a cat", k=3, offset=2)) == 3


def test_conditions_and_thresholds_leave_rows_out(index):
    hits = index.search("an animal", where="uri LIKE '%heart%'")
    assert {name.split("-")[1] for name in stems(hits)} == {"heart"}
    assert all(hit.label == "strong" for hit in index.search("a red heart", threshold="strong"))
    assert stems(index.rows(where="uri LIKE '%/taxi.webp'")) == ["taxi"]
    with pytest.raises(QueryError, match="colour"):
        index.search("a cat", where="colour = 'red'")
    with pytest.raises(QueryError, match="no item"):
        index.search("@unicorn.webp")
    with pytest.raises(QueryError, match="no such file"):
        index.search(Path("nowhere.png"))
    with pytest.raises(ValueError, match="k must be"):
        index.search("a cat", k=0)


def test_texts_are_found_in_names_alone_or_fused(index):
    by_text = index.search("heart", k=50, mode="text")
    assert by_text
    assert all("heart" in hit.uri and hit.kind == "bm25" for hit in by_text)
    assert stems(index.search(text='"red heart"', k=1)) == ["red-heart"]
    fused = index.search("a red heart", k=3, mode="hybrid")
    assert stems(fused)[0] == "red-heart"
    assert [hit.kind for hit in fused] == ["fusion"] * 3
    assert fused.to_arrow()["text_score"][0].as_py() > 0
    image = index.search(Path(index.search("a cat", k=1)[0].uri), text="umbrella", k=5)
    assert any("umbrella" in stem for stem in stems(image))
    for wrong in (
        lambda: index.search(),
        lambda: index.search(Path("cat.webp"), mode="text"),
        lambda: index.search("a cat", text="cat", mode="image"),
        lambda: index.search("a cat", mode="words"),
        lambda: index.search("a cat", text="cat", text_weight=2),
    ):
        with pytest.raises(ValueError, match="text"):
            wrong()


def test_images_are_classified_by_texts_and_by_examples(index, gallery, tmp_path):
    found = index.classify(["a heart", "an animal", "a vehicle"], where="uri LIKE '%-heart%'")
    assert found.counts == {"a heart": 5}
    assert {one.fit for one in found} <= {"strong", "weak"}
    assert found[0].probability > 0.5
    assert found.to_arrow()["label"].to_pylist() == ["a heart"] * 5
    assert found.sheet(tmp_path / "labels.html")
    examples = {
        "heart": [gallery / "red-heart.webp", gallery / "blue-heart.webp"],
        "animal": [gallery / "cat.webp", gallery / "horse.webp", gallery / "bear.webp"],
    }
    classifier = FewShotClassifier.from_model(index.model, examples)
    names = ("green-heart", "purple-heart", "dog", "cow")
    images = [gallery / f"{name}.webp" for name in names]
    assert classifier.predict(images) == ["heart", "heart", "animal", "animal"]
    assert classifier.predict_proba(images).sum(axis=1) == pytest.approx(1)
    by_examples = index.classify(classifier)
    labels = dict(zip(stems(by_examples), (one.label for one in by_examples), strict=True))
    assert (labels["yellow-heart"], labels["sheep"]) == ("heart", "animal")
    assert by_examples[0].fit is None


def test_duplicates_and_clusters(index):
    (group,) = index.duplicates().groups
    assert {Path(group.kept.uri).stem, Path(group.others[0].row.uri).stem} == {"cat", "copy of cat"}
    groups = index.cluster(4, names=["heart", "animal", "fruit", "car"])
    assert sum(len(group.images) for group in groups) == len(index)
    hearts = next(group for group in groups if "red-heart" in stems(group.images))
    assert set(hearts.name.split(", ")) <= {"heart", "animal", "fruit", "car"}
    assert hearts.scores == sorted(hearts.scores, reverse=True)
    assert [group.name for group in index.cluster(2)] == ["cluster 1", "cluster 2"]
    assert repr(index.cluster(4)) == "<4 clusters: cluster 1, cluster 2, cluster 3, …>"
    with pytest.raises(ValueError, match="everyday"):
        index.cluster(names="words.txt")


def test_what_is_wrong_is_found_and_some_images_are_chosen(index, tmp_path):
    report = index.clean()
    assert report.num_images == len(index)
    assert report.duplicates == (1, 0)
    assert not report.findings["blank"]
    report.save(tmp_path / "report.html")
    assert "cleaning" in (tmp_path / "report.html").read_text(encoding="utf-8").lower()
    with pytest.raises(ValueError, match="unknown kind"):
        index.clean(kinds=["ugly"])
    assert len(set(stems(index.select(6)))) == 6
    hearts = index.select(4, "representative", where="uri LIKE '%heart%'")
    assert all("heart" in stem for stem in stems(hearts))
    unsure = index.select(3, "uncertain", labels=["a heart", "an animal"])
    assert len(unsure) == 3
    assert repr(unsure).startswith(f"<Selection: 3 of {len(index)} images, uncertain")
    with pytest.raises(QueryError, match="no labels"):
        index.select(3, per_class=True)


def test_maps_and_exports_are_written(index, tmp_path):
    pytest.importorskip("openTSNE")
    shown = index.map(tmp_path / "map.html", names="everyday")
    assert (shown.num_shown, shown.num_unreadable) == (len(index), 0)
    assert "red-heart" in (tmp_path / "map.html").read_text()
    with pytest.raises(ValueError, match=r"\.png, \.html or \.parquet"):
        index.map(tmp_path / "map.gif")
    assert index.export(tmp_path / "out.parquet", where="uri LIKE '%heart%'") == 5


def test_a_notebook_shows_thumbnails(index):
    page = index._repr_html_()
    assert page.count("<img") == 12
    assert "ImageIndex(" in page


def test_rows_are_removed_by_name_or_condition(gallery, tmp_path):
    index = ImageIndex(tmp_path / "i.lance", model="pe-nano")
    index.add(gallery / "cat.webp", gallery / "dog.webp", gallery / "red-heart.webp")
    assert index.remove("@cat.webp") == 1
    assert index.remove(where="uri LIKE '%heart%'") == 1
    assert stems(index) == ["dog"]
    assert (gallery / "cat.webp").exists()
    with pytest.raises(QueryError, match="no item"):
        index.remove("cat.webp")


def test_a_missing_index_needs_a_model_and_a_source_images(tmp_path):
    path = tmp_path / "none.lance"
    with pytest.raises(IndexNotFoundError, match=r'ImageIndex\(.*none\.lance.*model="PE-Core'):
        ImageIndex(path)
    with pytest.raises(UnknownModelError):
        ImageIndex(path, model="pe-nanometer")
    index = ImageIndex(path, model=open_tiny())
    assert len(index) == 0
    assert list(index.search(drawing(1))) == []
    assert list(index.classify(["cat"])) == []
    assert list(index.cluster()) == []
    with pytest.raises(SourceNotFoundError):
        index.add(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="name a source"):
        index.add()
    (tmp_path / "empty").mkdir()
    assert index.add(tmp_path / "empty").counts == {}
    assert "no images found" in repr(index.add(tmp_path / "empty"))
    assert not path.exists()


def test_another_model_is_refused_unless_the_index_is_empty(tmp_path):
    (tmp_path / "in").mkdir()
    save_drawings(tmp_path / "in", 2)
    path = tmp_path / "t.lance"
    with ImageIndex(path, model=open_tiny()) as index:
        index.add(tmp_path / "in")
        with pytest.raises(IndexMismatchError):
            ImageIndex(path, model="pe-nano")
        index.remove(where="true")
    other = ImageIndex(path, model="pe-nano")
    assert other.add(tmp_path / "in").counts == {"embedded": 2}
    assert ImageIndex(path).model.identity.model_id == "pe-nano"


def test_names_in_any_script_and_images_of_any_size(tmp_path):
    folder = tmp_path / "Été à Łódź 写真"
    folder.mkdir()
    Image.new("RGB", (3, 500), "red").save(folder / "ünïcödé'\".png")
    Image.new("RGB", (640, 2), "blue").save(folder / "дом 🏠.png")
    index = ImageIndex(tmp_path / "індекс.lance", model=open_tiny())
    assert index.add(folder).counts == {"embedded": 2}
    (hit,) = index.search("@дом 🏠.png", k=1)
    assert (hit.hit.width, hit.hit.height) == (640, 2)
    assert "&quot;" in index._repr_html_()
    assert index.remove("ünïcödé'\".png") == 1


def test_another_process_adds_rows_that_refresh_shows(tmp_path):
    save_drawings(tmp_path, 3)
    model = open_tiny(CORE)
    first = ImageIndex(tmp_path / "t.lance", model=model)
    second = ImageIndex(tmp_path / "t.lance", model=model)
    first.add(tmp_path / "*.png")
    assert len(second) == 0
    second.refresh()
    assert len(second) == len(list(second)) == 3


def test_a_failed_image_is_tried_again(tmp_path):
    path, _ = save_drawings(tmp_path, 2)
    content = path.read_bytes()
    path.write_bytes(content[:100])
    index = ImageIndex(tmp_path / "t.lance", model=open_tiny())
    (failure,) = index.add(tmp_path / "*.png").failed
    assert failure.reason == "ImageTruncatedError"
    path.write_bytes(content)
    assert index.add(retry_failed=True).counts == {"embedded": 1}
    assert index.errors() == []


def test_a_closed_index_opens_its_model_again(index):
    model = index.model
    index.close()
    assert stems(index.search("a red heart", k=1)) == ["red-heart"]
    assert index.model is not model
    given = AutoModel.from_pretrained("pe-nano")
    with ImageIndex(index.path, given) as other:
        assert other.model is given
    assert given.embed_text("a cat").shape == (1, 192)  # not closed: it was given open


def test_the_model_of_an_index_is_changed(tmp_path: Path) -> None:
    files = save_drawings(tmp_path, 3)
    first, second = open_tiny(), open_tiny(CLIP)
    index = ImageIndex(tmp_path / "t.lance", model=first)
    index.add(str(tmp_path))
    reader = ImageIndex(tmp_path / "t.lance", model=first)
    report = index.reembed(second, show_progress=False)
    assert (report.counts["embedded"], report.num_images, report.num_left) == (3, 3, 0)
    assert repr(report).startswith("<ReembedReport: 3 embedded; 3 images, 0 left out;")
    assert index.model is second
    assert index.search(files[1], k=1)[0].uri == str(files[1])
    assert reader.search(files[1], k=1)[0].uri == str(files[1])  # the version that it opened
    with pytest.raises(IndexMismatchError, match="open it again"):
        reader.refresh()
    assert index.reembed(second).counts == {}
    files[0].unlink()
    with pytest.raises(ImagesMissingError, match="leave_missing"):
        index.reembed(first)
    left = index.reembed(first, leave_missing=tmp_path / "left.jsonl")
    assert (left.num_left, len(index)) == (1, 2)
    assert str(files[0]) in (tmp_path / "left.jsonl").read_text()
