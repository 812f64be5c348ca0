"""Classes and captions that data gives its images."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_models import drawing

from perception_encoder.analysis.labels import (
    find_caption_columns,
    iter_unlisted,
    read_captions,
    read_class_names,
    read_classes,
)
from perception_encoder.errors import SourceError
from perception_encoder.sources import Item, SourceOptions, open_sources


def items_at(*names: Path | str) -> list[Item]:
    sources = open_sources([str(name) for name in names], SourceOptions())
    return [item for source in sources for item in source.items()]


def classes_by_name(items: list[Item], column: str | None = None) -> dict[str, str | None]:
    classes = read_classes(items, column)
    return {Path(item.member or item.uri).name: classes.get(item.id) for item in items}


def draw(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing(1).save(path)
    return path


def test_a_class_is_the_folder_unless_it_holds_folders_of_images(tmp_path: Path) -> None:
    for name in ("a.png", "cat/b.png", "red_car/c.png", "red_car/more/d.png"):
        draw(tmp_path / "set" / name)
    (tmp_path / "set" / "empty").mkdir()
    expected = {"a.png": None, "b.png": "cat", "c.png": None, "d.png": "more"}
    assert classes_by_name(items_at(tmp_path / "set")) == expected
    folders = items_at(tmp_path / "set" / "cat", tmp_path / "set" / "red_car" / "more")
    assert classes_by_name(folders) == {"b.png": "cat", "d.png": "more"}


def test_an_archive_says_its_classes_by_members_or_by_folders(tmp_path: Path) -> None:
    data = draw(tmp_path / "x.png").read_bytes()
    members = {
        "0.png": data, "0.cls": b"3", "0.json": b'{"kind": "bird"}', "0.txt": b"a jay\n\n a bird ",
        "1.png": data, "val/cat/2.png": data,
    }  # fmt: skip
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    items = items_at(tmp_path / "set.tar")
    assert classes_by_name(items) == {"0.png": "3", "1.png": None, "2.png": "cat"}
    assert classes_by_name(items, "kind") == {"0.png": "bird", "1.png": None, "2.png": None}
    assert read_captions(items[0], find_caption_columns(items, [])) == ["a jay", "a bird"]
    assert read_captions(items[1], ["caption"]) == []


def test_an_index_says_them_in_columns(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    index = tmp_path / "set.csv"
    index.write_text("image,label,first,second\na.png,7,one,\na.png,,two,2\n", encoding="utf-8")
    items = items_at(index)
    assert [item.metadata["label"] for item in items] == [7, None]
    assert [read_captions(item, ["first", "second"]) for item in items] == [["one"], ["two", "2"]]
    with pytest.raises(SourceError, match=r"'caption'.*label, first, second"):
        find_caption_columns(items, [])
    lines = tmp_path / "set.jsonl"
    lines.write_text('{"image": "a.png", "caption": ["a jay", "a bird"]}\n', encoding="utf-8")
    assert read_captions(items_at(lines)[0], ["caption"]) == ["a jay", "a bird"]


def test_a_parquet_file_of_the_hub_names_its_numbers(tmp_path: Path) -> None:
    data = draw(tmp_path / "a.png").read_bytes()
    index = pa.table({"image": [{"bytes": data, "path": "a.png"}] * 2, "label": [1, 0]})
    features = {"image": {"_type": "Image"}, "label": {"names": ["cat", "red_car"]}}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    for name, metadata in (("named", about), ("plain", None), ("odd", {"huggingface": "[1]"})):
        pq.write_table(index.replace_schema_metadata(metadata), tmp_path / f"{name}.parquet")
    items = items_at(tmp_path / "named.parquet")
    assert list(read_classes(items).values()) == ["1", "0"]
    assert read_class_names(items) == ["cat", "red_car"]
    files = [tmp_path / name for name in ("plain.parquet", "odd.parquet", "a.png")]
    for others in (
        read_class_names(items, "image"), read_class_names(items, "kind"), read_class_names([]),
        *(read_class_names(items_at(file)) for file in files),
    ):  # fmt: skip
        assert others == []


def test_what_could_not_be_listed_is_said(tmp_path: Path) -> None:
    draw(tmp_path / "cat" / "a.png")
    (tmp_path / "cut.tar").write_bytes(b"no archive" * 200)
    items = items_at(tmp_path, tmp_path / "cut.tar")
    (error,) = iter_unlisted(items)
    assert "cut.tar: the archive is damaged" in str(error)
