"""Runs store what image files say of photos; a refresh reads it again without embedding."""

from __future__ import annotations

import datetime
import json
import os
import pickle
import shutil
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_models import drawing

from perception_encoder.backends import ComputeOptions
from perception_encoder.distributed.worker import Worker
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.index import Index, Row
from perception_encoder.index.schema import MetadataChoice
from perception_encoder.indexing import Run, RunOptions, refresh, sidecars
from perception_encoder.indexing.photo_metadata import read_file_columns
from perception_encoder.indexing.prepare import ListedItem, PreparedImage
from perception_encoder.indexing.refresh import MetadataRefresh
from perception_encoder.sources import SourceOptions, open_sources

MAY = datetime.datetime(2023, 5, 4, 10, 11, 12)
JUNE = datetime.datetime(2023, 6, 1)
_IFD, _TAKEN, _MAKER, _MODEL, _RATING = 0x8769, 0x9003, 0x010F, 0x0110, 0x4746


def save_photo(
    path: Path, seed: int = 0, taken: datetime.datetime | None = MAY, rating: int | None = None
) -> Path:
    """Save a drawing as a camera would."""
    exif = Image.Exif()
    exif[_MAKER], exif[_MODEL] = "Canon", "Canon EOS R5"
    if rating is not None:
        exif[_RATING] = rating
    if taken is not None:
        exif.get_ifd(_IFD)[_TAKEN] = f"{taken:%Y:%m:%d %H:%M:%S}"
    drawing(seed).save(path, exif=exif)
    return path


def save_xmp(photo: Path, rating: int) -> None:
    photo.with_name(f"{photo.name}.xmp").write_text(
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        f'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="{rating}"/></rdf:RDF></x:xmpmeta>'
    )


def add(model: EmbeddingModel, index: Index, *names: Path, metadata: bool | None = None) -> Run:
    sources = open_sources([str(name) for name in names], SourceOptions())
    run = Run(model, index, sources, RunOptions(metadata=metadata))
    assert not [one for one in run.outcomes() if one.status == "failed"]
    return run


def refreshed(index: Index) -> MetadataRefresh:
    refreshing = MetadataRefresh(index)
    for _ in refreshing.unread():
        pass
    return refreshing


def column(index: Index, name: str) -> dict[str, object]:
    return {Path(row.name).name: row.metadata.get(name) for row in index.rows()}


def test_a_run_stores_what_files_and_sidecars_say(
    model: EmbeddingModel, index: Index, folder: Path
) -> None:
    save_xmp(save_photo(folder / "a.jpg"), 4)
    drawing(1).save(folder / "plain.png")
    (folder / "a.jpg.json").write_text("no JSON")
    add(model, index, folder)
    assert column(index, "taken_at") == {"a.jpg": MAY, "plain.png": None}
    assert column(index, "camera") == {"a.jpg": "Canon EOS R5", "plain.png": None}
    assert column(index, "rating") == {"a.jpg": 4, "plain.png": None}
    assert index.schema.field("taken_at").type == pa.timestamp("us")


def test_sidecars_that_cannot_be_read_cost_nothing(
    model: EmbeddingModel, index: Index, folder: Path
) -> None:
    save_photo(folder / "a.jpg")
    os.mkfifo(folder / "a.jpg.xmp")  # opening it would wait for a writer
    (folder / "a.jpg.json").mkdir()
    add(model, index, folder)
    assert column(index, "camera") == {"a.jpg": "Canon EOS R5"}


def test_a_copy_that_reuses_an_embedding_has_its_metadata(
    model: EmbeddingModel, index: Index, folder: Path, tmp_path: Path
) -> None:
    photo = save_photo(folder / "a.jpg")
    add(model, index, folder)
    save_xmp(shutil.copyfile(photo, tmp_path / "copy.jpg"), 5)
    run = add(model, index, tmp_path / "copy.jpg")
    assert run.progress.counts == {"reused": 1}
    assert column(index, "taken_at") == {"a.jpg": MAY, "copy.jpg": MAY}
    assert column(index, "rating") == {"a.jpg": None, "copy.jpg": 5}


def test_an_index_remembers_that_it_stores_no_metadata(
    model: EmbeddingModel, tmp_path: Path, folder: Path
) -> None:
    save_photo(folder / "a.jpg")
    index = Index.open_or_prepare(tmp_path / "new.lance", model.identity)
    add(model, index, folder, metadata=False)
    save_photo(folder / "b.jpg", 1)
    index = Index.open(tmp_path / "new.lance")
    add(model, index, folder)
    assert not {"taken_at", "camera"} & set(index.schema.names)
    assert not index.metadata_choice.reads
    save_photo(folder / "c.jpg", 2)
    add(model, index, folder, metadata=True)
    assert Index.open(tmp_path / "new.lance").metadata_choice.reads
    assert column(index, "taken_at") == {"a.jpg": None, "b.jpg": None, "c.jpg": MAY}
    run = add(model, index, folder, metadata=False)
    assert any("keeps the metadata" in note for note in run.progress.notes)


def test_the_columns_of_a_table_win(
    model: EmbeddingModel, index: Index, folder: Path, tmp_path: Path
) -> None:
    save_photo(folder / "a.jpg", 1)
    save_photo(folder / "b.jpg", 2)
    save_photo(folder / "c.jpg", 3)
    table = tmp_path / "t.csv"
    lines = ["path,taken_at,camera", "in/a.jpg,2023-06-01,film", "in/b.jpg,,", "in/c.jpg,,"]
    table.write_text("\n".join(lines))
    add(model, index, table)
    assert column(index, "taken_at") == {"a.jpg": JUNE, "b.jpg": MAY, "c.jpg": MAY}
    assert column(index, "camera")["a.jpg"] == "film"
    save_photo(folder / "b.jpg", 2, taken=JUNE)
    refreshed(index)
    assert column(index, "camera")["a.jpg"] == "film"
    assert index.metadata_choice.source_columns == {"taken_at", "camera"}


def test_a_tag_that_does_not_fit_a_users_column_is_left_out_and_counted(
    model: EmbeddingModel, index: Index, folder: Path, tmp_path: Path
) -> None:
    drawing(5).save(tmp_path / "first.png")
    values = {
        "image": ["first.png"],
        "rating": ["great"],
        "taken_at": ["last summer"],
        "iso": [2.5],
    }
    pq.write_table(pa.table(values), tmp_path / "t.parquet")
    add(model, index, tmp_path / "t.parquet")
    save_photo(folder / "a.jpg", rating=3)
    run = add(model, index, folder)
    assert column(index, "taken_at") == {"first.png": "last summer", "a.jpg": None}
    assert column(index, "rating") == {"first.png": "great", "a.jpg": None}
    assert column(index, "camera")["a.jpg"] == "Canon EOS R5"
    noted = " ".join(run.progress.notes)
    assert "'rating': 1 values" in noted
    assert "'taken_at': 1 values" in noted
    assert refreshed(index).progress.left_out == {"rating": 1, "taken_at": 1}


def test_workers_of_a_cluster_read_metadata(folder: Path) -> None:
    save_xmp(save_photo(folder / "a.jpg"), 2)
    worker = Worker("pe-nano", ComputeOptions(device="cpu"), None, 1)
    (source,) = open_sources([str(folder)], SourceOptions())
    chunk = pickle.loads(pickle.dumps([ListedItem(one, True, True) for one in source.items()]))
    _, contents = worker.read([listed.item for listed in chunk])
    (found,) = worker.embed(chunk, contents, {})
    assert isinstance(found, PreparedImage)
    assert found.file_columns["taken_at"] == MAY
    assert found.file_columns["rating"] == 2


def make_old(index: Index, model: EmbeddingModel, files: list[Path]) -> None:
    """Fill an index as a version did that read no metadata."""
    vectors = model.embed_images(files)
    index.append([Row(str(path), bytes=path.stat().st_size) for path in files], vectors)


def test_a_refresh_fills_an_old_index_without_embedding(
    model: EmbeddingModel, index: Index, folder: Path
) -> None:
    photos = [save_photo(folder / f"{n}.jpg", n) for n in range(4)]
    make_old(index, model, photos[:3])
    make_old(index, model, photos[3:])
    index.delete([next(index.rows()).id])
    index.optimize()
    vectors = index.vectors()
    photos[1].unlink()
    refreshing = refreshed(index)
    progress = refreshing.progress
    assert (progress.num_rows, progress.num_done, progress.num_changed) == (3, 3, 2)
    assert progress.num_failed == 1
    assert column(index, "taken_at") == {"1.jpg": None, "2.jpg": MAY, "3.jpg": MAY}
    assert (index.vectors() == vectors).all()
    assert [row.uri for row in Index.open(index.path).rows(where="camera LIKE 'Canon%'")] == [
        str(path) for path in photos[2:]
    ]
    (hit,) = index.search(vectors[1:2], k=1)[0]
    assert hit.metadata["taken_at"] == MAY


def test_a_refresh_sees_changed_sidecars_and_writes_only_then(
    model: EmbeddingModel, index: Index, folder: Path
) -> None:
    photo = save_photo(folder / "a.jpg")
    save_photo(folder / "b.jpg", 1)
    save_xmp(photo, 2)
    add(model, index, folder)
    before = index.state
    assert refreshed(index).progress.num_changed == 0
    assert index.state == before
    save_xmp(photo, 5)
    assert refreshed(index).progress.num_changed == 1
    assert column(index, "rating") == {"a.jpg": 5, "b.jpg": None}
    photo.with_name("a.jpg.xmp").unlink()
    refreshed(index)
    assert column(index, "rating") == {"a.jpg": None, "b.jpg": None}


def test_a_run_reads_changed_sidecars_without_embedding(
    model: EmbeddingModel, index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sidecars, "_TICK", 0)
    photo = save_photo(folder / "a.jpg")
    save_photo(folder / "b.jpg", 1)
    add(model, index, folder)
    assert index.search(model.embed_images([photo]), k=1)[0][0].metadata.get("rating") is None
    before = index.state
    assert add(model, index, folder).progress.notes == []
    assert index.state == before
    save_xmp(photo, 3)
    old = 1_000_000_000  # as a copy has that keeps the time
    os.utime(photo.with_name("a.jpg.xmp"), (old, old))
    run = add(model, index, folder)
    assert run.progress.counts == {"skipped": 2}
    assert any("the sidecars of 1 file changed" in note for note in run.progress.notes)
    assert column(index, "rating") == {"a.jpg": 3, "b.jpg": None}
    assert column(index, "camera") == dict.fromkeys(("a.jpg", "b.jpg"), "Canon EOS R5")
    (hit,) = index.search(model.embed_images([photo]), k=1)[0]
    assert hit.metadata["rating"] == 3
    assert add(model, index, folder).progress.notes == []


def test_columns_of_other_programs_survive_a_changed_sidecar(
    model: EmbeddingModel, index: Index, folder: Path
) -> None:
    import lance
    import pyarrow.compute as pc

    photo = save_photo(folder / "a.jpg")
    add(model, index, folder)
    dataset = lance.dataset(index.path)
    dataset.add_columns({"mine": "'kept'"})
    assert pc.all(pc.equal(dataset.to_table(columns=["mine"])["mine"], "kept")).as_py()
    save_xmp(photo, 3)
    add(model, index, folder)
    assert column(index, "rating") == {"a.jpg": 3}
    assert column(index, "mine") == {"a.jpg": "kept"}


def test_a_run_over_a_part_of_a_folder_sees_changed_sidecars(
    model: EmbeddingModel, index: Index, folder: Path
) -> None:
    (folder / "part").mkdir()
    photo = save_photo(folder / "part" / "a.jpg")
    add(model, index, folder)
    save_xmp(photo, 3)
    add(model, index, folder / "part")
    assert column(index, "rating") == {"a.jpg": 3}


def test_sidecars_in_a_bucket_are_read_and_followed(
    model: EmbeddingModel, index: Index, folder: Path
) -> None:
    bucket = fsspec.filesystem("memory")
    photo = save_photo(folder / "a.jpg")
    save_xmp(photo, 3)

    def upload(*names: str) -> None:
        for name in names:
            bucket.pipe_file(f"/sidecars/{name}", (folder / name).read_bytes())

    def rating() -> object:
        run = Run(model, index, open_sources(["memory://sidecars"], SourceOptions()), RunOptions())
        assert not [one for one in run.outcomes() if one.status == "failed"]
        return column(index, "rating")

    upload("a.jpg", "a.jpg.xmp")
    assert rating() == {"a.jpg": 3}
    save_xmp(photo, 5)
    upload("a.jpg.xmp")
    assert rating() == {"a.jpg": 5}
    save_xmp(photo, 4)
    upload("a.jpg.xmp")
    assert refreshed(index).progress.num_changed == 1
    assert column(index, "rating") == {"a.jpg": 4}
    (folder / "a.jpg.xmp").write_bytes(bytes(2**20 + 1))
    upload("a.jpg.xmp")
    save_photo(folder / "a.jpg", 1)
    upload("a.jpg")
    assert rating() == {"a.jpg": None}  # too large
    bucket.rm("/sidecars", recursive=True)


def test_an_index_without_metadata_follows_no_sidecars(
    model: EmbeddingModel, index: Index, folder: Path
) -> None:
    photo = save_photo(folder / "a.jpg")
    add(model, index, folder, metadata=False)
    save_xmp(photo, 3)
    assert add(model, index, folder).progress.notes == []
    assert "rating" not in index.schema.names


def test_an_old_column_of_a_table_is_never_replaced(
    model: EmbeddingModel, tmp_path: Path, folder: Path
) -> None:
    photos = [save_photo(folder / f"{n}.jpg", n) for n in range(2)]
    index = Index.create(tmp_path / "old.lance", model.identity)
    rows = [Row(str(photos[0]), metadata={"camera": "film"}), Row(str(photos[1]))]
    index.append(rows, model.embed_images(photos))
    import lance  # as an index was that remembered nothing of metadata

    dataset = lance.dataset(index.path)
    kept = {k: v for k, v in dataset.schema.metadata.items() if b"_metadata" not in k}
    dataset.update_schema_metadata({k.decode(): v.decode() for k, v in kept.items()}, replace=True)
    index = Index.open(index.path)
    assert index.metadata_choice == MetadataChoice(True, frozenset({"camera"}))
    refreshed(index)
    assert column(index, "camera") == {"0.jpg": "film", "1.jpg": "Canon EOS R5"}
    assert column(index, "taken_at") == {"0.jpg": MAY, "1.jpg": MAY}


def test_an_interrupted_refresh_goes_on_where_it_was(
    model: EmbeddingModel, index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh, "_ROWS_AT_ONCE", 2)
    monkeypatch.setattr(refresh, "_ROWS_OF_A_COMMIT", 2)
    photos = [save_photo(folder / f"{n}.jpg", n) for n in range(9)]
    make_old(index, model, photos[:3])
    make_old(index, model, photos[3:])
    interrupted = MetadataRefresh(index).unread()
    for _ in range(4):  # two blocks of the first fragment, two of the second
        next(interrupted)
    interrupted.close()
    assert sum(value is not None for value in column(index, "taken_at").values()) == 7
    assert json.loads((Path(index.path) / "_pe/refresh.json").read_text())
    read = []
    monkeypatch.setattr(refresh, "_read_bytes", lambda row: read.append(row.uri) or b"")
    progress = refreshed(Index.open(index.path)).progress
    assert sorted(read) == sorted(map(str, photos[7:]))
    assert progress.num_done == 9
    assert not (Path(index.path) / "_pe/refresh.json").exists()
    monkeypatch.undo()
    assert refreshed(index).progress.num_changed == 2


@pytest.mark.parametrize("padding", [0, 100_000, 600_000])
def test_of_a_large_jpeg_only_the_header_is_read(
    model: EmbeddingModel,
    index: Index,
    folder: Path,
    padding: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exif = Image.Exif()
    exif.get_ifd(_IFD)[_TAKEN] = f"{MAY:%Y:%m:%d %H:%M:%S}"
    photo = folder / "large.jpg"
    noise = Image.effect_noise((1500, 1500), 90).convert("RGB")
    noise.save(photo, quality=95, exif=exif)
    data = photo.read_bytes()
    segments = b"".join(
        b"\xff\xef" + (2 + size).to_bytes(2, "big") + bytes(size)
        for size in [60_000] * (padding // 60_000)
    )
    photo.write_bytes(data[:2] + segments + data[2:])
    make_old(index, model, [photo])
    sizes: list[int] = []

    def count(uri: str, member: str | None, content: bytes, _: object) -> dict[str, object]:
        sizes.append(len(content))
        return dict(read_file_columns(uri, member, content))

    monkeypatch.setattr(refresh, "read_file_columns", count)
    refreshed(index)
    assert column(index, "taken_at") == {"large.jpg": MAY}
    is_whole = padding > 2**18
    assert sizes == [photo.stat().st_size if is_whole else 2**18]
