"""Indexes out to other programs' files and back, read by these programs' own libraries."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index.exchange.exchange_samples import IDENTITY, contents, make_index, odd_rows, unit
from numpy.typing import NDArray

from perception_encoder.errors import (
    ExchangeError,
    IndexBusyError,
    IndexMismatchError,
    PerceptionEncoderError,
    QueryError,
)
from perception_encoder.index import Index, Row, VectorDtype
from perception_encoder.index.exchange import (
    LAYOUTS,
    ImportReport,
    Layout,
    export_index,
    import_index,
    open_source,
)
from perception_encoder.index.exchange.vector_files import create_faiss, create_npy
from perception_encoder.index.storage import write_lock
from perception_encoder.types import ModelIdentity

OTHER = ModelIdentity("another", "0" * 16, "standard", 6)


# There and back


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("count", [0, 1, 20])
def test_a_round_trip_gives_equal_rows_and_vectors(
    tmp_path: Path, layout: Layout, count: int
) -> None:
    index = make_index(tmp_path / "a", count)
    assert export_index(index, tmp_path / "out", layout) == count
    source = open_source(tmp_path / "out")
    assert (source.layout, source.num_rows, source.dropped) == (layout, count, ())
    assert import_index(source, tmp_path / "b") == ImportReport(count, 0, 0)
    back = Index.open(tmp_path / "b")
    assert back.identity == IDENTITY
    assert back.vector_dtype == "float16"
    assert contents(back) == contents(index)


@pytest.mark.parametrize("layout", ["parquet", "npy", "faiss"])
def test_float32_indexes_come_back_bit_for_bit(tmp_path: Path, layout: Layout) -> None:
    index = make_index(tmp_path / "a", dtype="float32")
    export_index(index, tmp_path / "out", layout)
    import_index(open_source(tmp_path / "out"), tmp_path / "b")
    back = Index.open(tmp_path / "b")
    assert back.vector_dtype == "float32"
    assert contents(back) == contents(index)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_condition_and_the_index_s_order_are_kept(tmp_path: Path, layout: Layout) -> None:
    index = make_index(tmp_path / "a")
    where = "yes OR member IS NULL"
    expected = list(index.rows(where=where))
    assert 0 < len(expected) < 20
    assert export_index(index, tmp_path / "out", layout, where=where) == len(expected)
    rows, vectors = zip(*open_source(tmp_path / "out").blocks(), strict=True)
    assert [row for block in rows for row in block] == expected
    assert np.concatenate(vectors).astype(np.float32) == pytest.approx(index.vectors(where=where))


@pytest.mark.parametrize("block_bytes", [1, 100, 10**6])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_blocks_of_any_size_keep_rows_and_vectors_together(
    tmp_path: Path, layout: Layout, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perception_encoder.index.snapshot._BLOCK_BYTES", block_bytes)
    monkeypatch.setattr("perception_encoder.index.exchange.streams._BLOCK_BYTES", 2 * block_bytes)
    index = make_index(tmp_path / "a", 11)
    export_index(index, tmp_path / "out", layout, part_rows=4)
    import_index(open_source(tmp_path / "out"), tmp_path / "b")
    assert contents(Index.open(tmp_path / "b")) == contents(index)


def test_progress_is_told_of_every_row(tmp_path: Path) -> None:
    index = make_index(tmp_path / "a")
    written, read = list[int](), list[int]()
    export_index(index, tmp_path / "out", "npy", progress=written.append)
    import_index(open_source(tmp_path / "out"), tmp_path / "b", progress=read.append)
    assert (sum(written), sum(read)) == (20, 20)


# What other programs see


@pytest.mark.parametrize(
    ("part_rows", "names"),
    [(100, ["0"]), (20, ["0"]), (19, ["0", "1"]), (2, [f"{n:02}" for n in range(10)])],
)
def test_clip_retrieval_finds_its_numbered_pairs(
    tmp_path: Path, part_rows: int, names: list[str]
) -> None:
    index = make_index(tmp_path / "a")
    export_index(index, tmp_path / "out", "clip-retrieval", part_rows=part_rows)
    assert sorted(os.listdir(tmp_path / "out" / "img_emb")) == [f"img_emb_{n}.npy" for n in names]
    done = 0
    rows, vectors = odd_rows(20), unit(20).astype(np.float16)
    for name in names:
        part = np.load(tmp_path / "out" / "img_emb" / f"img_emb_{name}.npy")
        described = pq.read_table(tmp_path / "out" / "metadata" / f"metadata_{name}.parquet")
        assert part.dtype == np.float16
        assert (part == vectors[done : done + len(part)]).all()
        expected = [
            row.uri if row.member is None else f"{row.uri}/{row.member}"
            for row in rows[done : done + len(part)]
        ]
        assert described["image_path"].to_pylist() == expected
        done += len(part)
    assert done == 20


def test_a_column_of_that_name_stays_the_user_s(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "a", IDENTITY)
    rows = [Row(uri=f"/p/{n}", metadata={"image_path": f"mine {n}"}) for n in range(3)]
    index.append(rows, unit(3))
    export_index(index, tmp_path / "out", "clip-retrieval")
    described = pq.read_table(tmp_path / "out" / "metadata")
    assert described["image_path"].to_pylist() == ["mine 0", "mine 1", "mine 2"]
    import_index(open_source(tmp_path / "out"), tmp_path / "b")
    assert contents(Index.open(tmp_path / "b")) == contents(index)


def test_the_parquet_file_is_what_embedding_atlas_and_duckdb_read(tmp_path: Path) -> None:
    """embedding-atlas' loader reads with pandas, and wants lists that become float32 vectors."""
    index = make_index(tmp_path / "a")
    path = tmp_path / "out.parquet"
    export_index(index, path, "parquet")
    arrow = pq.read_table(path)
    assert arrow.schema.field("vector").type == pa.list_(pa.float32(), 6)
    found = duckdb.sql(
        "SELECT uri, vector, epoch_ns(mtime) AS ns, whole FROM "
        f"'{path}' WHERE whole IS NOT NULL AND member IS NOT NULL ORDER BY whole DESC LIMIT 1"
    ).fetchall()
    (row,) = [r for r in odd_rows(2) if r.member is not None]
    assert found[0][0] == row.uri
    assert found[0][1] == pytest.approx(unit(20)[1].astype(np.float16).tolist())
    assert found[0][2] == row.mtime
    names = ["model_id", "fingerprint", "preprocess", "version", "embed_dim"]
    assert {f"perception_encoder.{name}".encode() for name in names} <= set(arrow.schema.metadata)


@pytest.mark.parametrize(("count", "embed_dim"), [(0, 3), (1, 1), (7, 5)])
def test_faiss_reads_our_file_as_its_own(tmp_path: Path, count: int, embed_dim: int) -> None:
    vectors = unit(count, embed_dim)
    with create_faiss(str(tmp_path / "ours"), count, embed_dim) as file:
        for vector in vectors:
            file.write(vector[None])
    flat = faiss.IndexFlatIP(embed_dim)
    flat.add(vectors)
    faiss.write_index(flat, str(tmp_path / "theirs"))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(("count", "embed_dim"), [(0, 3), (1, 1), (12, 1024)])
def test_numpy_reads_our_file_as_its_own(
    tmp_path: Path, count: int, embed_dim: int, dtype: VectorDtype
) -> None:
    vectors = unit(count, embed_dim).astype(dtype)
    with create_npy(str(tmp_path / "ours"), count, embed_dim, dtype) as file:
        file.write(vectors)
    np.save(tmp_path / "theirs", vectors)
    read = np.load(tmp_path / "ours")
    assert read.dtype == vectors.dtype
    assert (read == vectors).all()
    assert read.shape == (count, embed_dim)
    ours, theirs = ((tmp_path / n).stat().st_size for n in ("ours", "theirs.npy"))
    assert ours % 64 == theirs % 64  # vectors begin where a cache line does


def test_a_faiss_search_in_the_export_gives_our_hits(tmp_path: Path) -> None:
    index = make_index(tmp_path / "a", 50)
    export_index(index, tmp_path / "out", "faiss")
    query = unit(1, seed=9)
    exported = faiss.read_index(str(tmp_path / "out" / "vectors.faiss"))
    lines = (tmp_path / "out" / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    _, found = exported.search(query, 5)
    ours = [hit.id for hit in index.search(query, k=5)[0]]
    assert [json.loads(lines[number])["id"] for number in found[0]] == ours


# Files of others


def foreign_folder(folder: Path, *, scale: float = 1, **columns: list[object]) -> Path:
    """What clip-retrieval makes: two parts, no word about the model."""
    for name in ("img_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    vectors = (unit(5) * scale).astype(np.float16)
    index = pa.table({"image_path": [f"/i/{n}.jpg" for n in range(5)], **columns})
    for number, (start, end) in enumerate([(0, 3), (3, 5)]):
        np.save(folder / "img_emb" / f"img_emb_{number}.npy", vectors[start:end])
        pq.write_table(
            index.slice(start, end - start), folder / "metadata" / f"metadata_{number}.parquet"
        )
    return folder


def test_a_folder_of_clip_retrieval_becomes_an_index(tmp_path: Path) -> None:
    folder = foreign_folder(
        tmp_path / "f",
        caption=["a", None, "c", "d", "e"],
        similarity=pa.array([0.5] * 5, pa.float32()),
        width=[10, 20, 30, 40, None],
        exif=[{"a": 1}] * 5,
        **{"odd.name": [1] * 5, "height": ["tall"] * 5},
    )
    source = open_source(folder)
    assert set(source.dropped) == {"exif", "odd.name", "height"}
    with pytest.raises(ExchangeError, match=r"does not name the model.*--model"):
        import_index(source, tmp_path / "t")
    assert not (tmp_path / "t").exists()
    assert import_index(source, tmp_path / "t", identity=OTHER) == ImportReport(5, 0, 0)
    index = Index.open(tmp_path / "t")
    assert index.identity == OTHER
    rows = list(index.rows())
    assert rows[0] == Row(uri="/i/0.jpg", width=10, metadata={"caption": "a", "similarity": 0.5})
    assert rows[4].width is None
    assert dict(rows[1].metadata) == {"similarity": 0.5}


def test_vectors_of_other_lengths_are_normalized_and_counted(tmp_path: Path) -> None:
    source = open_source(foreign_folder(tmp_path / "f", scale=3))
    assert import_index(source, tmp_path / "t", identity=OTHER).num_normalized == 5
    assert Index.open(tmp_path / "t").vectors() == pytest.approx(unit(5), abs=2e-3)


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_vector_without_a_direction_is_refused_by_number(tmp_path: Path, bad: float) -> None:
    folder = foreign_folder(tmp_path / "f")
    vectors = np.load(folder / "img_emb" / "img_emb_1.npy")
    vectors[1] = bad
    np.save(folder / "img_emb" / "img_emb_1.npy", vectors)
    with pytest.raises(ExchangeError, match=r"vector number 4, of /i/4.jpg, has length"):
        import_index(open_source(folder), tmp_path / "t", identity=OTHER)
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("scale", [1e-5, 1e25])
def test_very_short_and_very_long_vectors_have_a_direction(tmp_path: Path, scale: float) -> None:
    vectors = (unit(3) * scale).tolist()
    pq.write_table(pa.table({"uri": ["a", "b", "c"], "vector": vectors}), tmp_path / "f.parquet")
    done = import_index(open_source(tmp_path / "f.parquet"), tmp_path / "t", identity=OTHER)
    assert done.num_normalized == 3
    assert Index.open(tmp_path / "t").vectors() == pytest.approx(unit(3), abs=2e-3)


def test_another_length_of_vectors_is_refused_before_an_index_is_made(tmp_path: Path) -> None:
    source = open_source(foreign_folder(tmp_path / "f"))
    wide = ModelIdentity("another", "0" * 16, "standard", 512)
    with pytest.raises(ExchangeError, match="have 6 dimensions, those of another have 512"):
        import_index(source, tmp_path / "t", identity=wide)
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_stated_model_is_checked(tmp_path: Path, layout: Layout) -> None:
    export_index(make_index(tmp_path / "a"), tmp_path / "out", layout)
    source = open_source(tmp_path / "out")
    with pytest.raises(IndexMismatchError, match=r"pe-nano.*another"):
        import_index(source, tmp_path / "b", identity=OTHER)
    vector = np.eye(1, OTHER.embed_dim, dtype=np.float32)
    Index.create(tmp_path / "c", OTHER).append([Row("/i/0.jpg")], vector)
    with pytest.raises(IndexMismatchError, match=r"another.*pe-nano"):
        import_index(source, tmp_path / "c")
    assert import_index(source, tmp_path / "b", identity=IDENTITY).num_added == 20


def test_an_image_that_comes_twice_is_there_once_with_its_last_row(tmp_path: Path) -> None:
    names = pa.array(["/i/0.jpg", "/i/1.jpg", "/i/1.jpg", "/i/0.jpg", "/i/2.jpg"])
    folder = foreign_folder(tmp_path / "f", number=list(range(5)))
    for number, (start, end) in enumerate([(0, 3), (3, 5)]):
        path = folder / "metadata" / f"metadata_{number}.parquet"
        arrow = pq.read_table(path).set_column(0, "image_path", names.slice(start, end - start))
        pq.write_table(arrow, path)
    source = open_source(folder)
    assert import_index(source, tmp_path / "t", identity=OTHER) == ImportReport(3, 2, 0)
    index = Index.open(tmp_path / "t")
    assert {row.uri: row.metadata["number"] for row in index.rows()} == {
        "/i/0.jpg": 3, "/i/1.jpg": 2, "/i/2.jpg": 4,
    }  # fmt: skip
    assert import_index(source, tmp_path / "t", identity=OTHER) == ImportReport(0, 5, 0)
    assert Index.open(tmp_path / "t").count() == 3


def test_a_parquet_file_of_plain_lists_is_taken(tmp_path: Path) -> None:
    vectors = unit(4).astype(np.float64)
    pq.write_table(
        pa.table({"url": [f"https://h/{n}" for n in range(4)], "vector": vectors.tolist()}),
        tmp_path / "f.parquet",
    )
    import_index(open_source(tmp_path / "f.parquet"), tmp_path / "t", identity=OTHER)
    index = Index.open(tmp_path / "t")
    assert [row.uri for row in index.rows()] == [f"https://h/{n}" for n in range(4)]
    assert index.vectors() == pytest.approx(vectors, abs=1e-3)


def test_a_trained_faiss_index_that_keeps_its_vectors_is_taken(tmp_path: Path) -> None:
    export_index(make_index(tmp_path / "a", 50), tmp_path / "out", "faiss")
    vectors = unit(50)
    quantizer = faiss.IndexFlatIP(6)
    index = faiss.IndexIVFFlat(quantizer, 6, 1, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    faiss.write_index(index, str(tmp_path / "out" / "vectors.faiss"))
    import_index(open_source(tmp_path / "out"), tmp_path / "b")
    assert Index.open(tmp_path / "b").vectors() == pytest.approx(vectors, abs=1e-3)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (unit(19), r"19 vectors.*20 lines"),
        (unit(20)[0], r"has to be \(R, E\)"),
        (np.ones((20, 6), np.int64), "of floats"),
    ],
)
def test_arrays_that_do_not_fit_are_named(
    tmp_path: Path, array: NDArray[np.generic], message: str
) -> None:
    export_index(make_index(tmp_path / "a"), tmp_path / "out", "npy")
    np.save(tmp_path / "out" / "vectors.npy", array)
    with pytest.raises(ExchangeError, match=message):
        open_source(tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rows.jsonl", "{\n" * 20, "rows.jsonl, line 1: not JSON"),
        ("rows.jsonl", "[1]\n" * 20, "line 1: a list"),
        ("rows.jsonl", '{"width": 3}\n' * 20, "line 1: no image"),
        ("rows.jsonl", '{"uri": "x", "width": "3"}\n' * 20, "line 1: width is '3'"),
        ("rows.jsonl", '{"uri": "x"}\n' * 19 + "\xff", "line 20: not JSON"),
        ("rows.jsonl", '{"uri": "x"}\n' * 19 + "[" * 90_000, "line 20: not JSON"),
        ("rows.jsonl", '{"uri": "x"}\n' * 19 + r'{"uri": "\ud800"}', "line 20: '.ud800'"),
        ("rows.jsonl", '{"uri": "x", "sha256": "\\udfff"}\n' * 20, "line 1: sha256"),
        ("rows.jsonl", '{"uri": "x", "width": 3000000000}\n' * 20, "line 1: width is 3000000000"),
        ("rows.jsonl", f'{{"uri": "x", "bytes": 1{"0" * 30}}}\n' * 20, "line 1: bytes is 1000"),
        ("perception_encoder.json", '{"model_id": 1}', "cannot be understood"),
        ("perception_encoder.json", "{", "cannot be read"),
        ("vectors.npy", "x", "cannot be read"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    export_index(make_index(tmp_path / "a"), tmp_path / "out", "npy")
    (tmp_path / "out" / name).write_text(text, encoding="latin-1")
    with pytest.raises(ExchangeError, match=message):
        import_index(open_source(tmp_path / "out"), tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("layout", ["npy", "faiss"])
def test_lines_of_rows_are_json_whatever_the_values(
    tmp_path: Path, layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    index = Index.create(tmp_path / "a", IDENTITY)
    scores = [math.nan, math.inf, -math.inf, 1.5, None]
    rows = [Row(f"p{n}", metadata={"score": score}) for n, score in enumerate(scores)]
    index.add(rows, unit(5))
    assert export_index(index, tmp_path / "out", layout) == 5
    lines = (tmp_path / "out" / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [line.get("score") for line in found] == [None, None, None, 1.5, None]
    assert "3 values that JSON cannot hold" in caplog.text
    assert import_index(open_source(tmp_path / "out"), tmp_path / "b").num_added == 5
    again = {row.uri: dict(row.metadata) for row in Index.open(tmp_path / "b").rows()}
    assert again["p3"] == {"score": 1.5}
    assert again["p0"] == {}


@pytest.mark.parametrize("layout", ["parquet", "clip-retrieval"])
def test_parquet_keeps_what_json_cannot_hold(
    tmp_path: Path, layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    index = Index.create(tmp_path / "a", IDENTITY)
    rows = [Row(f"p{n}", metadata={"score": s}) for n, s in enumerate([math.nan, math.inf, 1.0])]
    index.add(rows, unit(3))
    export_index(index, tmp_path / "out", layout)
    import_index(open_source(tmp_path / "out"), tmp_path / "b")
    again = {row.uri: row.metadata["score"] for row in Index.open(tmp_path / "b").rows()}
    assert math.isnan(float(again["p0"] or 0))
    assert again["p1"] == math.inf
    assert caplog.text == ""


def test_values_that_do_not_fit_the_columns_are_left_out_and_counted(tmp_path: Path) -> None:
    Index.create(tmp_path / "t", OTHER).add([Row("old", metadata={"n": 1})], unit(1))
    index = {"uri": ["a", "b"], "vector": unit(2).tolist(), "n": ["one", "two"], "ok": [1, 2]}
    pq.write_table(pa.table(index), tmp_path / "f.parquet")
    done = import_index(open_source(tmp_path / "f.parquet"), tmp_path / "t", identity=OTHER)
    assert done == ImportReport(2, 0, 0, {"n": 2})
    found = {row.uri: dict(row.metadata) for row in Index.open(tmp_path / "t").rows()}
    assert found == {"old": {"n": 1}, "a": {"ok": 1}, "b": {"ok": 2}}


def test_two_columns_of_one_name_are_told_apart_by_nobody(tmp_path: Path) -> None:
    columns = [pa.array(["a"]), pa.array(["b"]), pa.array([[1.0, 0.0]])]
    pq.write_table(pa.table(columns, names=["uri", "uri", "vector"]), tmp_path / "f.parquet")
    with pytest.raises(ExchangeError, match="two columns 'uri'"):
        open_source(tmp_path / "f.parquet")


@settings(max_examples=max(8, settings.default.max_examples // 4))  # each makes two indexes
@given(
    layout=st.sampled_from(LAYOUTS),
    pick=st.integers(0, 9),
    place=st.floats(0, 1, exclude_max=True),
    change=st.integers(1, 255),
)
def test_changed_bytes_of_an_export_are_an_error_or_an_import(
    tmp_path_factory: pytest.TempPathFactory, layout: Layout, pick: int, place: float, change: int
) -> None:
    folder = tmp_path_factory.mktemp("flip")
    export_index(make_index(folder / "a"), folder / "out", layout)
    files = sorted(file for file in folder.glob("out*/**/*") if file.is_file())
    chosen = files[pick % len(files)] if files else folder / "out"
    data = bytearray(chosen.read_bytes())
    data[int(place * len(data))] ^= change
    chosen.write_bytes(data)
    try:
        done = import_index(open_source(folder / "out"), folder / "b")
    except PerceptionEncoderError as err:
        str(err).encode()
    else:  # two rows may have got one name; the other is counted
        assert done.num_added + done.num_replaced == 20
        assert Index.open(folder / "b").vectors().shape == (done.num_added, 6)


def test_a_missing_or_cut_file_is_named(tmp_path: Path) -> None:
    export_index(make_index(tmp_path / "a"), tmp_path / "out", "faiss")
    path = tmp_path / "out" / "vectors.faiss"
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with pytest.raises(ExchangeError, match="faiss cannot give its vectors back"):
        open_source(tmp_path / "out")
    path.write_bytes(whole)
    (tmp_path / "out" / "rows.jsonl").unlink()
    with pytest.raises(ExchangeError, match=r"rows.jsonl is missing"):
        open_source(tmp_path / "out")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"uri": ["a"]}, "no column 'vector'"),
        ({"vector": [[1.0, 0.0]]}, "no column names the images"),
        ({"uri": ["a", "b"], "vector": [[1.0, 0.0], [1.0]]}, "another length"),
        ({"uri": ["a", "b"], "vector": [[1.0, 0.0], None]}, "have no vector"),
        ({"uri": ["a"], "vector": ["x"]}, "not lists of floats"),
        ({"uri": ["a", None], "vector": [[1.0, 0.0], [0.0, 1.0]]}, "1 rows name no image"),
        ({"uri": ["a"], "vector": [[1.0, 0.0]], "width": [2**40]}, "fit"),
    ],
)
def test_a_parquet_file_that_does_not_fit_says_why(
    tmp_path: Path, index: dict[str, list[object]], message: str
) -> None:
    pq.write_table(pa.table(index), tmp_path / "f.parquet")
    small = ModelIdentity("another", "0" * 16, "standard", 2)
    with pytest.raises((ExchangeError, ValueError), match=message):
        import_index(open_source(tmp_path / "f.parquet"), tmp_path / "t", identity=small)


def test_lonely_and_unequal_parts_are_named(tmp_path: Path) -> None:
    folder = foreign_folder(tmp_path / "f")
    np.save(folder / "img_emb" / "img_emb_1.npy", unit(3).astype(np.float16))
    with pytest.raises(ExchangeError, match=r"img_emb_1.npy has 3 vectors.*2 rows"):
        open_source(folder)
    (folder / "img_emb" / "img_emb_1.npy").unlink()
    with pytest.raises(ExchangeError, match="part 1 is in one of them only"):
        open_source(folder)
    shutil.rmtree(folder / "metadata")
    with pytest.raises(ExchangeError, match="come in pairs"):
        open_source(folder)


@pytest.mark.parametrize("name", ["none", "empty", "text"])
def test_what_is_no_index_says_what_would_be(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("x")
    with pytest.raises(ExchangeError, match=str(tmp_path / name)):
        open_source(tmp_path / name)


def test_an_import_waits_for_nobody(tmp_path: Path) -> None:
    export_index(make_index(tmp_path / "a"), tmp_path / "out", "npy")
    Index.create(tmp_path / "b", IDENTITY)
    with write_lock(str(tmp_path / "b")), pytest.raises(IndexBusyError):
        import_index(open_source(tmp_path / "out"), tmp_path / "b")


# Whole or not at all


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_there_is_not_overwritten(tmp_path: Path, layout: Layout) -> None:
    index = make_index(tmp_path / "a")
    (tmp_path / "out").mkdir()
    with pytest.raises(ExchangeError, match="exists already"):
        export_index(index, tmp_path / "out", layout)
    with pytest.raises(ExchangeError, match="no such folder"):
        export_index(index, tmp_path / "no" / "out", layout)
    with pytest.raises(QueryError):
        export_index(index, tmp_path / "new", layout, where="nonsense ===")
    with pytest.raises(ValueError, match="part_rows"):
        export_index(index, tmp_path / "new", layout, part_rows=0)
    assert sorted(os.listdir(tmp_path)) == ["a", "out"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_export_that_fails_leaves_nothing(tmp_path: Path, layout: Layout) -> None:
    index = make_index(tmp_path / "a")

    def fail(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_index(index, tmp_path / "out", layout, progress=fail)
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("layout", ["clip-retrieval", "parquet"])
def test_a_killed_export_leaves_nothing_under_its_name(tmp_path: Path, layout: Layout) -> None:
    make_index(tmp_path / "a")
    code = (
        "import sys, time\n"
        "from perception_encoder.index import Index\n"
        "from perception_encoder.index.exchange import export_index\n"
        "def stop(_):\n"
        "    print('half', flush=True)\n"
        "    time.sleep(60)\n"
        "export_index(Index.open('a'), 'out', sys.argv[1], progress=stop)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, layout], cwd=tmp_path, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out").exists()
    export_index(Index.open(tmp_path / "a"), tmp_path / "out", layout)
    assert open_source(tmp_path / "out").num_rows == 20


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_full_disk_is_an_error_that_names_the_export(tmp_path: Path, layout: Layout) -> None:
    make_index(tmp_path / "a", 2000)
    code = (
        "import resource, sys\n"
        "from perception_encoder.errors import ExchangeError\n"
        "from perception_encoder.index import Index\n"
        "from perception_encoder.index.exchange import export_index\n"
        "index = Index.open('a')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try: export_index(index, 'out', sys.argv[1])\n"
        "except ExchangeError as err: print(err)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, layout], cwd=tmp_path, capture_output=True, check=True
    )
    assert f"{tmp_path / 'out'}: cannot be written".encode() in done.stdout
    assert os.listdir(tmp_path) == ["a"]
