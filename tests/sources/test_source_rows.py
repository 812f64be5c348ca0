"""Rows of text tables that are written badly: read rightly or reported with their line."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sources.source_samples import open_one

from perception_encoder.errors import ImageError, ImageUnreadableError, SourceError
from perception_encoder.sources import Item, SourceOptions, open_sources, read_image
from perception_encoder.sources import columns as metadata_module
from perception_encoder.sources import text_rows as text_lines
from perception_encoder.sources.item import collect_notes


def listed(path: Path, **options: str) -> tuple[list[Item], str]:
    source = open_one(path, **options)
    items = list(source.items())
    return items, " ".join(collect_notes([source]))


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def outcomes(items: Sequence[Item]) -> list[object]:
    """What became of each row: its name and values, or why it was refused."""
    found: list[object] = []
    for item in items:
        try:
            item.read()
        except ImageUnreadableError as err:
            found.append(str(err).rpartition(": ")[2])
        except ImageError:
            found.append((item.uri, *item.metadata.values()))
    return found


NEVER = "a quote is opened and never closed (line {})"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["/a,x", '/b,"never', "/c,y"], [("/a", "x"), NEVER.format(3), ("/c", "y")]),
        (['/a,"x', "/b,y"], [NEVER.format(2), ("/b", "y")]),
        (["/a,x", '/b,"'], [("/a", "x"), NEVER.format(3)]),
        (['/a,"two', 'lines"', "/b,y"], [("/a", "two\nlines"), ("/b", "y")]),
        (["", "/a,x", "", '/b,"y', "", "/c,z"], [("/a", "x"), NEVER.format(5), ("/c", "z")]),
        (['/a,5" disk', '/b,"5"" disk"'], [("/a", '5" disk'), ("/b", '5" disk')]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_quote_that_is_never_closed_costs_its_line_only(
    tmp_path: Path, rows: list[str], expected: list[object], encoding: str, end: str
) -> None:
    path = write(tmp_path / "t.csv", end.join(["path,note", *rows]), encoding)
    items, _ = listed(path)
    found = [tuple(str(part).replace(end, "\n") for part in one) if isinstance(one, tuple) else one
             for one in outcomes(items)]  # fmt: skip
    assert found == expected


def test_a_quote_that_a_later_row_closes_swallows_no_rows(tmp_path: Path) -> None:
    text = 'path,note\n/a,"open\n/b,x\n/c,"good"\n/d,y\n'
    items, _ = listed(write(tmp_path / "t.csv", text))
    first, *rest = outcomes(items)
    assert str(first).endswith("(line 2)")
    assert rest == [("/b", "x"), ("/c", "good"), ("/d", "y")]


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_files_of_old_macs_end_their_lines_with_cr(tmp_path: Path, name: str) -> None:
    separator = "," if name == "t.csv" else "\t"
    rows = [["path", "note"], ["/a", "x"], ["/b", "y"]]
    path = write(tmp_path / name, "\r".join(separator.join(row) for row in rows))
    assert outcomes(listed(path)[0]) == [("/a", "x"), ("/b", "y")]


def test_rows_of_too_few_and_too_many_cells_are_named_by_their_line(tmp_path: Path) -> None:
    text = "path,note\n/a,x\n\n/b\n/c,y,z\n/d;w\n/e,v\n"
    assert outcomes(listed(write(tmp_path / "t.csv", text))[0]) == [
        ("/a", "x"),
        "the line has 1 cells where the first line has 2 (line 4)",
        "the line has 3 cells where the first line has 2 (line 5)",
        "the line has 1 cells where the first line has 2 (line 6)",
        ("/e", "v"),
    ]


@pytest.mark.parametrize(
    ("header", "separator"),
    [
        ('"a;b;c;d",path', ","),
        ('path;"x,y,z"', ";"),
        ('path\t"x,y,z"', "\t"),
        ("path\tx,y,z", "\t"),
    ],
)
def test_separators_in_quoted_names_do_not_count(
    tmp_path: Path, header: str, separator: str
) -> None:
    name = "t.csv" if '"' in header else "t.tsv"
    cells = ["/a.png"] * 2
    items, _ = listed(write(tmp_path / name, f"{header}\n{separator.join(cells)}\n"))
    assert [item.uri for item in items] == ["/a.png"]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_column_name_twice_is_refused_by_its_name(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"t.{ending}"
    if ending == "parquet":
        columns = [pa.array(["/a.png"])] * 3
        pq.write_table(pa.Table.from_arrays(columns, names=["path", "tag", "tag"]), path)
    elif ending == "csv":
        write(path, "path,tag,tag\n/a.png,x,y\n")
    else:
        write(path, '{"path": "/a.png", "tag": 1, "tag": 2}\n{"path": "/b.png", "tag": 3}\n')
        bad, good = listed(path)[0]
        assert good.uri == "/b.png"
        with pytest.raises(ImageUnreadableError, match="the key 'tag' is there twice"):
            bad.read()
        return
    with pytest.raises(SourceError, match=f"t.{ending}: the column 'tag' is there twice"):
        open_sources([str(path)], SourceOptions())


def test_columns_without_a_name_are_no_column_twice(tmp_path: Path) -> None:
    items, _ = listed(write(tmp_path / "t.csv", "path,x,,\n/a,1,2,3\n"))
    assert items[0].metadata == {"x": 1, "column": 2, "column 4": 3}


def test_cells_of_an_old_encoding_are_left_out_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "path,note,n\n/a,größe,1\n/b,x,2\n/c,ü,3\n", "latin-1")
    items, notes = listed(path)
    assert [item.metadata for item in items] == [
        {"note": None, "n": 1}, {"note": "x", "n": 2}, {"note": None, "n": 3},
    ]  # fmt: skip
    assert "2 cells are not UTF-8 and were left out" in notes


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_json_lines_of_other_encodings_are_read_and_read_again(
    tmp_path: Path, encoding: str
) -> None:
    rows = [
        {"bytes": base64.b64encode(name.encode()).decode(), "note": name} for name in ("ü", "日")
    ]
    path = write(
        tmp_path / "t.jsonl",
        "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
        encoding,
    )
    items, _ = listed(path)
    assert [item.metadata["note"] for item in items] == ["ü", "日"]
    assert [item.read().decode() for item in items] == ["ü", "日"]
    assert read_image(str(path), "bytes:1").decode() == "日"


def test_one_bad_json_line_costs_itself_only(tmp_path: Path) -> None:
    lines = [b'{"path": "/a"}', b"{", b'{"path": "/\xe9"}', b"\0\0", b"[" * 100_000,
             b'{"path": ' + b"1" * 5000 + b"}", b'{"path": "/b"}', b'{"path": "\\ud800"}',
             b'{"path": "a\\u0000b"}', b'{"path": "/c"}']  # fmt: skip
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"\n".join(lines))
    items, _ = listed(path)
    good = [item.uri for item in items if item.uri in ("/a", "/b", "/c")]
    assert good == ["/a", "/b", "/c"]
    assert len(items) == len(lines) - 1  # a line of nothing but NULs is blank
    for item in items:
        item.uri.encode()
        with pytest.raises(ImageError):
            item.read()


def test_a_line_larger_than_the_limit_costs_itself_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_lines, "MAX_ROW_BYTES", 1000)
    monkeypatch.setattr(text_lines, "_MAX_PIECE", 64)
    for encoding in ("utf-8", "utf-16"):
        csv = write(tmp_path / "t.csv", f"path,n\n/a,1\n/b,{'x' * 5000}\n/c,3\n", encoding)
        lines = [{"path": "/a"}, {"path": "/b", "x": "x" * 5000}, {"path": "/c"}]
        jsonl = write(tmp_path / "t.jsonl", "\n".join(map(json.dumps, lines)), encoding)
        for path in (csv, jsonl):
            first, large, last = listed(path)[0]
            assert (first.uri, last.uri) == ("/a", "/c")
            with pytest.raises(ImageUnreadableError, match="the line is larger than"):
                large.read()


def test_images_in_a_csv_are_read_and_read_again(tmp_path: Path) -> None:
    uri = f"data:image/png;base64,{base64.b64encode(b'image').decode()}"
    path = write(tmp_path / "t.csv", f'image,note\n"{uri}","two\nlines"\n/b.png,x\n"{uri}",z\n')
    first, second, third = listed(path)[0]
    assert (first.read(), second.uri, third.read()) == (b"image", "/b.png", b"image")
    assert read_image(str(path), "image:2") == b"image"


def test_numbers_are_only_numbers_where_they_stay_the_same(tmp_path: Path) -> None:
    digits = "9" * 5000
    text = f"path,key,big,n,e\n/a,1234567890123456789,99999999999999999999,{digits},1e999\n"
    (item,) = listed(write(tmp_path / "t.csv", text))[0]
    assert item.metadata == {
        "key": 1234567890123456789, "big": "99999999999999999999", "n": digits, "e": "1e999",
    }  # fmt: skip


def test_a_column_keeps_its_name_whatever_keys_a_row_has(tmp_path: Path) -> None:
    rows = [{"path": "/a", "a.b": 1, "a_b": 2}, {"path": "/b", "a_b": 3}, {"path": "/c", "a.b": 4}]
    items, _ = listed(write(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows))))
    assert [item.metadata for item in items] == [{"a_b": 1, "a_b_": 2}, {"a_b_": 3}, {"a_b": 4}]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_columns_beyond_the_limit_are_left_out_and_counted(tmp_path: Path, ending: str) -> None:
    limit = metadata_module.MAX_COLUMNS
    row = {"path": "/a.png"} | {f"c{number}": number for number in range(limit + 10)}
    path = tmp_path / f"t.{ending}"
    if ending == "parquet":
        pq.write_table(pa.table({name: [value] for name, value in row.items()}), path)
    elif ending == "jsonl":
        write(path, json.dumps(row))
    else:
        write(path, f"{','.join(row)}\n{','.join(map(str, row.values()))}")
    (item,), notes = listed(path)
    assert item.metadata == {f"c{number}": number for number in range(limit)}
    assert "10 columns of metadata were left out" in notes
    assert f"the limit is {limit}" in notes


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_texts_beyond_the_limit_are_left_out_and_counted(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata_module, "MAX_TEXT", 100)
    rows = [{"path": f"/{n}.png", "note": "x" * n} for n in (99, 100, 101)]
    path = tmp_path / f"t.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif ending == "jsonl":
        write(path, "\n".join(map(json.dumps, rows)))
    else:
        write(path, "path,note\n" + "\n".join(",".join(row.values()) for row in rows))
    items, notes = listed(path)
    assert [len(str(item.metadata["note"] or "")) for item in items] == [99, 100, 0]
    assert "1 texts of metadata are longer than 100 characters" in notes


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_cell_too_long_for_a_name_is_said_not_shown(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"t.{ending}"
    name = "x" * 70_000
    if ending == "parquet":
        pq.write_table(pa.table({"path": [name]}), path)
    else:
        write(path, f"path\n{name}\n" if ending == "csv" else json.dumps({"path": name}))
    (item,) = listed(path)[0]
    with pytest.raises(ImageUnreadableError, match="a text of 70,000 characters, which is no path"):
        item.read()
