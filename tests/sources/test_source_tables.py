"""Parquet, CSV and JSON lines as sources: which column, what becomes metadata, damage."""

import base64
import datetime
import decimal
import json
import os
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sources.source_samples import listed, open_one, write

from perception_encoder.errors import (
    ImageNotFoundError,
    ImageUnreadableError,
    SourceError,
    SourceNotFoundError,
)
from perception_encoder.sources import SourceOptions, open_sources, read_image


def write_parquet(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return path


def write_rows(path, rows):
    """Write rows of text and numbers in the format that the path's ending says."""
    if path.suffix == ".parquet":
        return write_parquet(path, {name: [row[name] for row in rows] for name in rows[0]})
    if path.suffix == ".jsonl":
        lines = [json.dumps(row) for row in rows]
    else:
        separator = "\t" if path.suffix == ".tsv" else ","
        cells = [list(rows[0]), *(["" if v is None else v for v in row.values()] for row in rows)]
        lines = [separator.join(str(cell) for cell in line) for line in cells]
    return write(path, "\n".join(lines).encode())


every_format = pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])


@every_format
def test_paths_and_urls_in_a_table_are_the_images_themselves(tmp_path, ending):
    image = write(tmp_path / "data" / "images" / "a.png", b"12345")
    rows = [
        {"file_name": "images/a.png", "label": "cat", "price": 1.5, "count": 3},
        {"file_name": str(image), "label": "dog", "price": 2.0, "count": 4},
        {"file_name": "https://x.example/b.png", "label": None, "price": 2.5, "count": 5},
    ]
    first, second, third = listed(write_rows(tmp_path / "data" / f"t.{ending}", rows))
    assert (first.uri, first.member, first.bytes) == (str(image), None, 5)
    assert first.mtime == image.stat().st_mtime_ns
    assert first.read() == b"12345"
    assert second.uri == str(image)
    assert (third.uri, third.is_remote) == ("https://x.example/b.png", True)
    assert first.metadata == {"label": "cat", "price": 1.5, "count": 3}
    assert second.metadata == {"label": "dog", "price": 2.0, "count": 4}
    assert third.metadata == {"label": None, "price": 2.5, "count": 5}
    assert [type(value) for value in second.metadata.values()] == [str, float, int]


@every_format
def test_relative_paths_may_also_begin_at_the_current_folder(tmp_path, monkeypatch, ending):
    monkeypatch.chdir(tmp_path)
    image = write(tmp_path / "images" / "a.png")
    table = write(tmp_path / "tables" / "x", b"").with_name(f"t.{ending}")
    found, missing = listed(write_rows(table, [{"path": "images/a.png"}, {"path": "no.png"}]))
    assert found.uri == str(image)
    assert missing.uri == str(table.with_name("no.png"))
    with pytest.raises(ImageNotFoundError, match=r"tables/no\.png: there is no file"):
        missing.read()


@every_format
def test_columns_of_our_own_names_get_another_one(tmp_path, ending):
    reserved = (
        "id", "uri", "member", "offset", "width", "height", "bytes", "mtime", "sha256", "vector",
    )  # fmt: skip
    row = {"path": "/a.png"} | dict.fromkeys(reserved, 1) | {"Width": 2, "_x": 3, "a.b": 4}
    (item,) = listed(write_rows(tmp_path / f"t.{ending}", [row]), column="path")
    expected = {f"{name}_": 1 for name in reserved} | {"Width_": 2, "x": 3, "a_b": 4}
    assert item.metadata == expected


@every_format
def test_the_column_can_be_named(tmp_path, ending):
    table = write_rows(tmp_path / f"t.{ending}", [{"path": "/a.png", "thumbnail": "/b.png"}])
    assert [item.uri for item in listed(table)] == ["/a.png"]
    (item,) = listed(table, column="thumbnail")
    assert (item.uri, item.metadata) == ("/b.png", {"path": "/a.png"})
    with pytest.raises(SourceError, match="no column 'x'; its columns: path, thumbnail"):
        open_one(table, column="x")


@every_format
def test_a_table_without_images_is_refused_with_its_columns(tmp_path, ending):
    table = write_rows(tmp_path / f"t.{ending}", [{"name": "x", "age": 3}])
    with pytest.raises(SourceError, match=r"\(--column\); its columns: name, age"):
        open_one(table)
    with pytest.raises(SourceNotFoundError):
        open_one(tmp_path / f"other.{ending}")


def test_a_column_of_numbers_cannot_hold_images(tmp_path):
    table = write_parquet(tmp_path / "t.parquet", {"path": ["/a"], "age": [3]})
    with pytest.raises(SourceError, match="'age' holds neither paths, URLs nor bytes"):
        open_one(table, column="age")


@every_format
def test_an_empty_cell_is_an_item_that_says_so(tmp_path, ending):
    rows = [{"path": "/a.png", "n": 1}, {"path": None, "n": 2}, {"path": "/b.png", "n": 3}]
    table = write_rows(tmp_path / f"t.{ending}", rows)
    first, empty, last = listed(table)
    assert (first.uri, last.uri) == ("/a.png", "/b.png")
    assert (empty.uri, empty.member) == (str(table), "path:1")
    with pytest.raises(ImageUnreadableError, match="path:1: the cell holds no path, URL or bytes"):
        empty.read()


images = st.lists(st.binary(min_size=1, max_size=400), min_size=1, max_size=60)


@settings(max_examples=25, deadline=None)
@given(data=images, row_group_size=st.integers(1, 40), is_struct=st.booleans())
def test_bytes_in_parquet_come_back_whatever_the_row_groups(
    tmp_path_factory, data, row_group_size, is_struct
):
    path = tmp_path_factory.mktemp("parquet") / "t.parquet"
    cells = [{"bytes": cell, "path": None} for cell in data] if is_struct else data
    columns = {"image": cells, "n": list(range(len(data)))}
    write_parquet(path, columns, row_group_size=row_group_size)
    items = listed(path)
    assert [item.read() for item in items] == data
    assert [item.metadata for item in items] == [{"n": number} for number in range(len(data))]
    assert [item.member for item in items] == [f"image:{number}" for number in range(len(data))]
    assert {item.mtime for item in items} == {path.stat().st_mtime_ns}
    for number in {0, len(data) // 2, len(data) - 1}:
        assert read_image(str(path), f"image:{number}") == data[number]


json_values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.binary(min_size=1, max_size=50),
            st.dictionaries(st.text(min_size=1), json_values, max_size=4),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_json_lines_come_back_with_one_type_a_column(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("jsonl") / "t.jsonl"
    lines = [{**more, "bytes": base64.b64encode(data).decode()} for data, more in rows]
    write(path, "\n".join(json.dumps(line) for line in lines).encode())
    items = listed(path, column="bytes")
    assert [item.read() for item in items] == [data for data, _ in rows]
    assert [read_image(item.uri, item.member) for item in items] == [data for data, _ in rows]
    types: dict[str, set[type]] = {}
    for item in items:
        for name, value in item.metadata.items():
            name.encode()
            if value is not None:
                types.setdefault(name, set()).add(type(value))
    for name in {name for _, more in rows for name in more}:
        # Arrow takes every column as it is, if two names did not become one.
        pa.array([more.get(name) for more in (item.metadata for item in items)])


def test_data_sets_of_hugging_face_are_read_as_they_lie(tmp_path):
    beside = write(tmp_path / "away.png", b"beside")
    cells = [{"bytes": b"one", "path": "1.png"}, {"bytes": None, "path": "away.png"}]
    write_parquet(tmp_path / "t.parquet", {"label": [0, 1], "image": cells})
    first, second = listed(tmp_path / "t.parquet")
    assert (first.read(), second.read()) == (b"one", b"beside")
    assert first.metadata == {"label": 0}
    beside.unlink()
    with pytest.raises(ImageNotFoundError, match=r"away\.png"):
        second.read()


def test_a_lone_column_of_bytes_needs_no_name(tmp_path):
    table = write_parquet(tmp_path / "t.parquet", {"x": ["a"], "scan": [b"abc"]})
    assert [item.read() for item in listed(table)] == [b"abc"]


def test_json_lines_hold_images_as_base64_too(tmp_path):
    text = base64.b64encode(b"image").decode()
    rows = [
        {"image": {"bytes": text, "path": None}},
        {"image": f"data:image/png;base64,{text}"},
        {"image": {"path": "/a.png"}},
        {"image": 5},
        {"image": {"bytes": "no base64!"}},
    ]
    table = write_rows(tmp_path / "t.jsonl", rows)
    first, second, third, fourth, fifth = listed(table)
    assert first.read() == second.read() == b"image"
    assert third.uri == "/a.png"
    with pytest.raises(ImageUnreadableError, match="image:3: the cell holds no path"):
        fourth.read()
    with pytest.raises(ImageUnreadableError, match="image:4: the text is not base64"):
        fifth.read()
    assert read_image(str(table), "image:1") == b"image"


def test_types_of_parquet_become_types_that_conditions_can_compare(tmp_path):
    columns = {
        "path": ["/a.png"],
        "day": [datetime.date(2024, 5, 1)],
        "at": [datetime.datetime(2024, 5, 1, 12)],
        "price": [decimal.Decimal("1.25")],
        "half": pa.array([0.5], pa.float16()),
        "big": pa.array([2**64 - 1], pa.uint64()),
        "kind": pa.array(["x"]).dictionary_encode(),
        "flag": [True],
        "nothing": pa.array([None], pa.null()),
        "captions": [["a dog", None, "two dogs"]],
        "none": pa.array([[]], pa.list_(pa.string())),
        "sizes": [[1, 2]],
        "raw": [b"x"],
        "more": [{"x": 1}],
    }
    (item,) = listed(write_parquet(tmp_path / "t.parquet", columns))
    assert item.metadata == {
        "day": "2024-05-01", "at": "2024-05-01 12:00:00.000000", "price": 1.25, "half": 0.5,
        "big": float(2**64 - 1), "kind": "x", "flag": True,
        "captions": "a dog\ntwo dogs", "none": None,
    }  # fmt: skip


def test_a_csv_column_is_numeric_only_if_all_of_it_is(tmp_path):
    text = "path,zip,mixed,price,whole,sign\n/a,007,1,1,1,-3\n/b,12,x,2.50,22,4\n/c,,2,,,\n"
    table = write(tmp_path / "t.csv", text.encode())
    assert [item.metadata for item in listed(table)] == [
        {"zip": "007", "mixed": "1", "price": 1.0, "whole": 1, "sign": -3},
        {"zip": "12", "mixed": "x", "price": 2.5, "whole": 22, "sign": 4},
        {"zip": None, "mixed": "2", "price": None, "whole": None, "sign": None},
    ]


def test_csv_as_spreadsheets_write_it(tmp_path):
    text = '\ufeffpath;note\r\n/a.png;"two\r\nlines; ""quoted"""\r\n\r\n/b.png;ü\r\n'
    table = write(tmp_path / "t.csv", text.encode())
    assert [(item.uri, item.metadata) for item in listed(table)] == [
        ("/a.png", {"note": 'two\r\nlines; "quoted"'}),
        ("/b.png", {"note": "ü"}),
    ]


def test_lines_that_cannot_be_read_cost_only_themselves(tmp_path):
    csv = write(tmp_path / "t.csv", b"path,n\n/a,1\n/b\n/c,3,4\n/caf\xe9,5\n/d," + b"x" * 200_000)
    first, short, long, old, large = listed(csv)
    assert (first.uri, large.uri) == ("/a", "/d")
    assert large.metadata == {"n": "x" * 200_000}  # more than the csv module's own limit
    for item, message in (
        (short, "path:1: the line has 1 cells where the first line has 2"),
        (long, "path:2: the line has 3 cells"),
        (old, "not valid Unicode"),
    ):
        with pytest.raises(ImageUnreadableError, match=message):
            item.read()
    lines = write(tmp_path / "t.jsonl", b'{"path": "/a"}\n\n{"path":\n[1]\n{"path": "/b"}\n')
    first, broken, array, last = listed(lines)
    assert (first.uri, last.uri) == ("/a", "/b")
    assert [item.member for item in (broken, array)] == ["path:1", "path:2"]
    with pytest.raises(ImageUnreadableError, match="path:1: the line is not JSON"):
        broken.read()
    with pytest.raises(ImageUnreadableError, match="path:2: the line is not a JSON object"):
        array.read()


def test_a_table_cut_off_is_one_item(tmp_path):
    path = write_parquet(tmp_path / "t.parquet", {"image": [b"x" * 100] * 50})
    path.write_bytes(path.read_bytes()[:-20])
    source = open_one(path)
    (bad,) = source.items()
    assert (bad.uri, bad.member) == (str(path), None)
    with pytest.raises(ImageUnreadableError, match=r"t\.parquet: the table is damaged: .*fetch"):
        bad.read()
    assert not source.covers(str(path), "image:3")


def damage(path, column, group):
    """Overwrite the data of a column in one row group."""
    chunk = pq.read_metadata(path).row_group(group).column(column)
    start = min(filter(None, (chunk.dictionary_page_offset, chunk.data_page_offset)))
    data = bytearray(path.read_bytes())
    data[start : start + 24] = b"\xff" * 24
    path.write_bytes(data)


def test_rows_of_a_damaged_row_group_are_told_and_the_others_come(tmp_path):
    columns = {"label": [f"l{n}" for n in range(40)], "image": [os.urandom(50) for _ in range(40)]}
    path = write_parquet(tmp_path / "t.parquet", columns, row_group_size=10)
    damage(path, 0, 1)
    source = open_one(path)
    *good, bad = source.items()
    expected = [*range(10), *range(20, 40)]
    assert [item.member for item in good] == [f"image:{number}" for number in expected]
    assert [item.read() for item in good] == [columns["image"][number] for number in expected]
    assert bad.member is None
    with pytest.raises(ImageUnreadableError, match=r"t\.parquet: damaged: rows from 10 on"):
        bad.read()
    assert not source.covers(str(path), "image:12")


def test_images_of_a_damaged_row_group_fail_one_by_one(tmp_path):
    data = [os.urandom(50) for _ in range(40)]
    path = write_parquet(tmp_path / "t.parquet", {"image": data}, row_group_size=10)
    damage(path, 0, 1)
    for number, item in enumerate(listed(path)):
        if 10 <= number < 20:
            with pytest.raises(ImageUnreadableError, match=f"image:{number}: cannot be read"):
                item.read()
        else:
            assert item.read() == data[number]


def test_rows_are_read_by_many_threads_at_once(tmp_path):
    data = [os.urandom(100 + number) for number in range(500)]
    path = write_parquet(tmp_path / "t.parquet", {"image": data}, row_group_size=90)
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda item: item.read(), listed(path))) == data


def test_listing_a_table_does_not_read_its_images(tmp_path):
    data = [os.urandom(100_000) for _ in range(100)]
    path = write_parquet(tmp_path / "t.parquet", {"image": data, "n": range(100)})
    before = pa.total_allocated_bytes()
    items = open_one(path).items()
    peak = 0
    for _ in items:
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert peak < 1_000_000


def test_rows_that_have_gone_are_an_error_that_says_so(tmp_path):
    parquet = write_parquet(tmp_path / "t.parquet", {"image": [b"x"] * 20})
    lines = write_rows(tmp_path / "t.jsonl", [{"bytes": "eHg="}])
    for path, column in ((parquet, "image"), (lines, "bytes")):
        with pytest.raises(ImageNotFoundError, match=f"{column}:20: the table has no such row"):
            read_image(str(path), f"{column}:20")
    with pytest.raises(ImageNotFoundError, match="other:0: the table has no such row or column"):
        read_image(str(parquet), "other:0")
    with pytest.raises(ImageNotFoundError, match="no image of a row is named so"):
        read_image(str(parquet), "what")


def test_several_tables_are_one_source_and_each_may_have_its_own_columns(tmp_path):
    write_parquet(tmp_path / "0.parquet", {"image": [b"a"]})
    write(tmp_path / "1.parquet", b"nothing")
    write_rows(tmp_path / "2.parquet", [{"age": 3}])
    write_rows(tmp_path / "3.parquet", [{"path": "/b.png"}])
    source = open_one(f"{tmp_path}/{{0..3}}.parquet")
    first, damaged, without, last = source.items()
    assert (first.read(), last.uri) == (b"a", "/b.png")
    with pytest.raises(ImageUnreadableError, match=r"1\.parquet: the table is damaged"):
        damaged.read()
    with pytest.raises(ImageUnreadableError, match=r"2\.parquet: no column looks like images"):
        without.read()
    assert source.covers(f"{tmp_path}/0.parquet", "image:7")
    assert not source.covers(f"{tmp_path}/1.parquet", "image:7")
    assert not source.covers("/b.png", None)


def test_a_glob_of_tables(tmp_path):
    for name in "ab":
        write_parquet(tmp_path / f"{name}.parquet", {"image": [name.encode()]})
    (source,) = open_sources([f"{tmp_path}/*.parquet"], SourceOptions())
    assert [item.read() for item in source.items()] == [b"a", b"b"]
    assert source.covers(f"{tmp_path}/gone.parquet", "image:0")
