"""Bringing a table in step with a folder, with the bundled model and real files."""

import os
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_encoder import AutoModel, EmbeddingModel
from perception_encoder.errors import IndexMismatchError
from perception_encoder.index import Index
from perception_encoder.pipeline import Outcome, find_pictures, index_folder, read_query, search


@pytest.fixture(scope="module")
def model() -> EmbeddingModel:
    return AutoModel.from_pretrained("pe-nano", device="cpu", precision="fp32")


def draw(path: Path, shade: int, size: tuple[int, int] = (30, 20)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.full((size[1], size[0], 3), shade, np.uint8)
    levels[: size[1] // 2, :, 0] = 255 - shade
    Image.fromarray(levels).save(path)
    return path


def run(model: EmbeddingModel, table: Index, folder: Path, **options: int) -> list[Outcome]:
    return list(index_folder(model, table, list(find_pictures([folder])), **options))


def statuses(outcomes: list[Outcome]) -> Counter[str]:
    return Counter(outcome.status for outcome in outcomes)


def test_pictures_are_found_below_folders_without_hidden_ones(tmp_path: Path) -> None:
    wanted = [draw(tmp_path / name, 10) for name in ("b.PNG", "deep/er/c.jpg", "deep/a.webp")]
    for name in (".hidden.png", ".folder/d.png"):
        draw(tmp_path / name, 10)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert sorted(find_pictures([tmp_path])) == sorted(wanted)
    assert list(find_pictures([wanted[0]])) == [wanted[0]]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        list(find_pictures([tmp_path / "nowhere"]))


@pytest.mark.parametrize("batch_size", [1, 3, 256])
def test_every_picture_becomes_one_row_with_its_own_vector(
    model: EmbeddingModel, tmp_path: Path, batch_size: int
) -> None:
    files = [draw(tmp_path / "in" / f"{shade}.png", shade) for shade in (0, 60, 120, 180, 240)]
    table = Index.create(tmp_path / "t.lance", model.identity)
    assert statuses(run(model, table, tmp_path / "in", batch_size=batch_size)) == {"embedded": 5}
    for path in files:
        (hit,) = table.search(model.embed_image(path), k=1)[0]
        assert hit.uri == str(path)
        assert hit.score == pytest.approx(1, abs=2e-3)
        assert (hit.width, hit.height) == (30, 20)


def test_only_what_changed_is_embedded_again(model: EmbeddingModel, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for shade in (0, 100, 200):
        draw(folder / f"{shade}.png", shade)
    table = Index.create(tmp_path / "t.lance", model.identity)
    run(model, table, folder)
    draw(folder / "0.png", 50)
    (folder / "100.png").rename(folder / "renamed.png")
    draw(folder / "new.png", 220)
    outcomes = run(model, table, folder)
    assert statuses(outcomes) == {"embedded": 2, "reused": 1, "unchanged": 1}
    assert {Path(o.uri).name for o in outcomes if o.status == "reused"} == {"renamed.png"}
    assert table.count() == 5  # the old name stays until pruning comes
    (hit,) = table.search(model.embed_image(folder / "0.png"), k=1)[0]
    assert hit.uri == str(folder / "0.png")


def test_copies_in_one_run_are_computed_once(model: EmbeddingModel, tmp_path: Path) -> None:
    original = draw(tmp_path / "in" / "a.png", 40)
    (tmp_path / "in" / "b.png").write_bytes(original.read_bytes())
    table = Index.create(tmp_path / "t.lance", model.identity)
    twice = [tmp_path / "in", original]  # the same file given twice is one file
    outcomes = list(index_folder(model, table, list(find_pictures(twice))))
    assert {(Path(o.uri).name, o.status) for o in outcomes} == {
        ("a.png", "embedded"),
        ("b.png", "reused"),
    }
    assert len(outcomes) == table.count() == 2


def test_width_and_height_are_those_a_viewer_shows(model: EmbeddingModel, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (40, 20), "red").save(tmp_path / "in" / "turned.jpg", exif=turned)
    table = Index.create(tmp_path / "t.lance", model.identity)
    run(model, table, tmp_path / "in")
    assert [(row.width, row.height) for row in table.rows()] == [(20, 40)]


def test_the_next_files_are_read_while_the_model_computes(
    model: EmbeddingModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shade in (0, 100, 200):
        draw(tmp_path / "in" / f"{shade}.png", shade)
    table = Index.create(tmp_path / "t.lance", model.identity)
    next_is_read = threading.Event()
    resize, encode = model.processor.__class__.__call__, model.backend.encode_image
    num_read = 0

    def counted(*arguments: object, **options: object) -> object:
        nonlocal num_read
        if str(options.get("item", "")).endswith(".png"):
            num_read += 1
            if num_read == 2:
                next_is_read.set()
        return resize(*arguments, **options)

    def waiting(pixels: np.ndarray) -> np.ndarray:
        assert next_is_read.wait(20), "the second file was not read during the first's computing"
        return encode(pixels)

    monkeypatch.setattr(model.processor.__class__, "__call__", counted)
    monkeypatch.setattr(model.backend, "encode_image", waiting)
    assert statuses(run(model, table, tmp_path / "in", batch_size=1)) == {"embedded": 3}


def test_bad_files_are_reported_and_stop_nothing(model: EmbeddingModel, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    good = draw(folder / "good.png", 90)
    whole = draw(folder / "short.png", 30, size=(200, 200)).read_bytes()
    (folder / "short.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.gif").write_text("this is text")
    os.mkfifo(folder / "pipe.png")
    os.rename(draw(folder / "latin.png", 60), os.fsencode(folder) + b"/caf\xe9.png")
    table = Index.create(tmp_path / "t.lance", model.identity)
    outcomes = run(model, table, folder)
    reasons = {Path(o.uri).name: o.reason.split(":")[0] for o in outcomes if o.status == "failed"}
    assert reasons == {
        "short.png": "ImageTruncatedError",
        "empty.jpg": "ImageEmptyError",
        "text.gif": "ImageDecodeError",
        "pipe.png": "ImageUnreadableError",
        "caf\udce9.png": "ValueError",
    }
    assert [row.uri for row in table.rows()] == [str(good)]
    assert statuses(run(model, table, folder)) == {"unchanged": 1, "failed": 5}


def test_a_table_of_other_preprocessing_is_refused(model: EmbeddingModel, tmp_path: Path) -> None:
    draw(tmp_path / "in" / "a.png", 10)
    other = AutoModel.from_pretrained("pe-nano", device="cpu", preprocess="reference")
    table = Index.create(tmp_path / "t.lance", other.identity)
    with pytest.raises(IndexMismatchError, match="reference"):
        run(model, table, tmp_path / "in")
    assert table.count() == 0


def test_a_sum_lies_between_its_terms(model: EmbeddingModel, tmp_path: Path) -> None:
    for shade in (0, 80, 160, 240):
        draw(tmp_path / "in" / f"{shade}.png", shade)
    table = Index.create(tmp_path / "t.lance", model.identity)
    run(model, table, tmp_path / "in")
    first, last = (str(tmp_path / "in" / name) for name in ("0.png", "240.png"))
    query = read_query(model, [first, "+", last])
    expected = model.embed_images([first, last]).sum(axis=0)
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(query.vector[0], expected, atol=1e-5)
    assert query.image == first
    hits = search(table, query, k=2, leave_out=[first])
    assert len(hits) == 2
    assert first not in [hit.uri for hit in hits]
    away = read_query(model, ["-", first, "+", "3:" + last]).vector
    assert float(away[0] @ model.embed_image(first)[0]) < float(
        query.vector[0] @ model.embed_image(first)[0]
    )


def test_a_query_is_shown_with_its_signs_and_weights(model: EmbeddingModel) -> None:
    assert read_query(model, "dog").text == "dog"
    assert read_query(model, "2:red dog + cat - fish").text == "2:red dog + cat - fish"
