import dataclasses
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from perception_encoder.errors import (
    IndexExistsError,
    IndexMismatchError,
    IndexNotFoundError,
    IndexStorageError,
    QueryError,
)
from perception_encoder.index import Hit, Index, Row, VectorDtype, row_id
from perception_encoder.index.known_rows import digests_of
from perception_encoder.index.rows import FileState
from perception_encoder.types import ModelIdentity

IDENTITY = ModelIdentity("pe-nano", "0123456789abcdef", "standard", 8)


def identity(embed_dim: int = 8) -> ModelIdentity:
    return dataclasses.replace(IDENTITY, embed_dim=embed_dim)


def unit(rows: int, embed_dim: int = 8, seed: int = 0) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((rows, embed_dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def named(*names: str) -> list[Row]:
    return [Row(uri=name) for name in names]


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index.create(tmp_path / "index", IDENTITY, vector_dtype="float32")


def uris(index: Index, where: str | None = None) -> list[str]:
    return sorted(row.uri for row in index.rows(where=where))


# Making and opening


@pytest.mark.parametrize("vector_dtype", ["float16", "float32"])
def test_an_index_remembers_its_model_and_its_vectors_type(
    tmp_path: Path, vector_dtype: str
) -> None:
    Index.create(tmp_path / "index", identity(5), vector_dtype=vector_dtype)  # type: ignore[arg-type]
    opened = Index.open(str(tmp_path / "index"))
    assert opened.identity == identity(5)
    assert opened.vector_dtype == vector_dtype
    assert opened.count() == 0


def test_opening_where_nothing_is_says_how_to_make_one(tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("x")
    (tmp_path / "empty").mkdir()
    for name in ("none", "a file", "empty"):
        with pytest.raises(IndexNotFoundError, match=r"pe index FOLDER --index .*" + name):
            Index.open(tmp_path / name)


def test_creating_over_an_index_is_refused(index: Index) -> None:
    with pytest.raises(IndexExistsError, match="is an index already"):
        Index.create(index.path, IDENTITY)


def test_creating_among_somebody_s_files_is_refused_and_leaves_them_alone(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("x")
    with pytest.raises(IndexExistsError, match="holds other things"):
        Index.open_or_create(tmp_path, IDENTITY)
    with pytest.raises(IndexExistsError, match="holds other things"):
        Index.create(tmp_path / "photo.jpg", IDENTITY)
    assert os.listdir(tmp_path) == ["photo.jpg"]


def test_an_empty_folder_and_an_interrupted_creation_do_not_stand_in_the_way(
    tmp_path: Path,
) -> None:
    (tmp_path / "empty").mkdir()
    assert Index.create(tmp_path / "empty", IDENTITY).count() == 0
    broken = tmp_path / "broken"
    Index.create(broken, IDENTITY)
    for manifest in (broken / "_versions").iterdir():
        manifest.unlink()
    assert Index.open_or_create(broken, IDENTITY).count() == 0


def test_a_lance_index_of_others_is_not_taken_for_ours(tmp_path: Path) -> None:
    import pyarrow as pa

    lance.write_dataset(pa.table({"id": ["a"]}), tmp_path / "other")
    with pytest.raises(IndexNotFoundError, match="not one that `pe index` made"):
        Index.open(tmp_path / "other")


def test_an_index_of_a_newer_format_asks_for_a_newer_package(index: Index) -> None:
    lance.dataset(index.path).update_schema_metadata({"perception_encoder.format": "3"})
    with pytest.raises(IndexStorageError, match="newer than this one"):
        Index.open(index.path)


def test_damage_is_told_with_the_index_s_path(index: Index) -> None:
    for manifest in Path(index.path, "_versions").glob("*.manifest"):
        manifest.write_bytes(b"junk")
    with pytest.raises(IndexStorageError, match=index.path) as caught:
        Index.open(index.path)
    assert ".rs:" not in str(caught.value)


def test_open_or_create_makes_once_and_checks_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "index"
    Index.open_or_create(path, IDENTITY, vector_dtype="float32").add(named("a"), unit(1))
    assert Index.open_or_create(path, IDENTITY).count() == 1
    with pytest.raises(IndexMismatchError):
        Index.open_or_create(path, identity(9))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_id": "PE-Core-B16-224"}, "--model pe-nano.*pe index FOLDER --model PE-Core-B16"),
        ({"fingerprint": "f" * 16}, "weights 0123456789abcdef.*weights ffffffffffffffff"),
        ({"preprocess": "reference"}, "preprocessing standard.*preprocessing reference"),
        ({"embed_dim": 4}, "8 numbers.*4 numbers"),
    ],
)
def test_another_model_is_refused_and_told_what_to_do(
    index: Index, change: dict[str, object], words: str
) -> None:
    index.check(IDENTITY)
    with pytest.raises(IndexMismatchError, match=words) as caught:
        index.check(dataclasses.replace(IDENTITY, **change))  # type: ignore[arg-type]
    assert index.path in str(caught.value)
    assert "make another index: pe index FOLDER" in str(caught.value)


# Rows in and out


def test_rows_are_stored_such_that_single_ones_are_read_fast(tmp_path: Path) -> None:
    """Lance's data files of 2.2 decode a page of a million rows for one of a constant column."""
    path = tmp_path / "t"
    Index.create(path, identity())
    assert lance.dataset(str(path)).data_storage_version == "2.1"
    another = Index.open_or_create(path, dataclasses.replace(identity(), model_id="other"))
    another.append(named("a"), unit(1))
    assert lance.dataset(str(path)).data_storage_version == "2.1"


def test_everything_known_of_a_row_comes_back(index: Index) -> None:
    rows = [
        Row(
            uri='/photos/it\'s "here" — 写真.jpg',
            width=640,
            height=480,
            bytes=12345,
            mtime=1_700_000_000_123_456_789,
            sha256="ab" * 32,
            metadata={"label": "cat", "stars": 5, "price": 1.5, "is_sold": True},
        ),
        Row(uri="s3://bucket/a.tar", member="0001.jpg"),
    ]
    vectors = unit(2)
    index.add(rows, vectors)
    again = Index.open(index.path)
    assert list(again.rows()) == rows
    np.testing.assert_array_equal(again.vectors(), vectors)


def test_an_id_depends_on_uri_and_member_only() -> None:
    assert Row("a", width=1).id == Row("a", metadata={"x": 1}).id == row_id("a")
    ids = {row_id("a"), row_id("a", "b"), row_id("ab"), row_id("a", ""), row_id("", "a")}
    assert len(ids) == 5
    assert all(len(name) == 32 for name in ids)


def test_adding_again_replaces_the_row_and_its_vector(index: Index) -> None:
    vectors = unit(4)
    index.add([Row("a", width=1), Row("b", width=1)], vectors[:2])
    index.add([Row("b", width=2), Row("c", width=2)], vectors[2:])
    found = {row.uri: (row.width, tuple(v)) for row, v in zip(index.rows(), index.vectors())}  # noqa: B905
    assert found == {
        "a": (1, tuple(vectors[0])),
        "b": (2, tuple(vectors[2])),
        "c": (2, tuple(vectors[3])),
    }


def test_of_two_rows_with_one_id_the_later_counts(index: Index) -> None:
    vectors = unit(3)
    index.add([Row("a", width=1), Row("b"), Row("a", width=2)], vectors)
    assert index.count() == 2
    assert [row.width for row in index.rows(where="uri = 'a'")] == [2]
    np.testing.assert_array_equal(index.vectors(where="uri = 'a'"), vectors[2:])


def test_an_addition_is_one_commit_and_nothing_is_none(index: Index) -> None:
    before = lance.dataset(index.path).version
    index.add([], unit(0))
    assert lance.dataset(index.path).version == before
    index.add(named("a", "b"), unit(2))
    assert lance.dataset(index.path).version == before + 1


def test_rows_and_vectors_of_a_condition_belong_together(index: Index) -> None:
    vectors = unit(20)
    index.add([Row(str(n), width=n) for n in range(20)], vectors)
    index.delete([row_id("7")])
    index.add([Row("3", width=3)], vectors[:1])
    order = [row.width for row in index.rows(where="width > 2")]
    expected = [vectors[0] if width == 3 else vectors[width] for width in order if width]
    np.testing.assert_array_equal(index.vectors(where="width > 2"), expected)
    assert 7 not in order


def test_deleting_removes_those_that_are_there(index: Index) -> None:
    index.add(named("a", "b", "it's"), unit(3))
    assert index.delete([row_id("a"), row_id("it's"), row_id("x"), "no'quote"]) == 2
    assert index.delete([]) == 0
    assert uris(index) == ["b"]


@pytest.mark.parametrize(
    ("rows", "vectors", "message"),
    [
        (named("a"), unit(2), "1 rows, but 2 vectors"),
        (named("a"), unit(1, 9), r"expected shape \(N, 8\), got \(1, 9\)"),
        (named("a"), unit(1) * 2, "length 2, not 1"),
        ([Row("a", metadata={"uri": "x"})], unit(1), "metadata name 'uri'"),
        ([Row("a", metadata={"Vector": "x"})], unit(1), "metadata name 'Vector'"),
        ([Row("a", metadata={"_rowid": 1})], unit(1), "metadata name '_rowid'"),
        ([Row("a", metadata={"": 1})], unit(1), "metadata name ''"),
        ([Row("a", metadata={"a.b": 1})], unit(1), "metadata name 'a.b'"),
        (
            [Row("a", metadata={"x": 1}), Row("b", metadata={"x": "one"})],
            unit(2),
            "metadata 'x': the values do not share",
        ),
        ([Row("a", metadata={"x": 2**70})], unit(1), "metadata 'x'"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    index: Index, rows: list[Row], vectors: NDArray[np.float32], message: str
) -> None:
    before = lance.dataset(index.path).version
    with pytest.raises(ValueError, match=message):
        index.add(rows, vectors)
    assert lance.dataset(index.path).version == before


def test_a_name_that_is_not_unicode_is_refused_before_it_reaches_an_index() -> None:
    with pytest.raises(ValueError, match=r"caf\\udce9.jpg.*rename"):
        Row(uri=os.fsdecode(b"caf\xe9.jpg"))


def test_new_metadata_becomes_a_column_and_old_rows_lack_it(index: Index) -> None:
    index.add([Row("a", metadata={"label": "cat"})], unit(1))
    index.add([Row("b", metadata={"label": None, "stars": 3}), Row("c")], unit(2))
    assert {row.uri: row.metadata for row in index.rows()} == {
        "a": {"label": "cat"},
        "b": {"stars": 3},
        "c": {},
    }
    assert uris(index, "stars >= 3") == ["b"]
    assert uris(index, "label IS NULL") == ["b", "c"]


def test_metadata_of_a_column_s_wrong_type_is_refused(index: Index) -> None:
    index.add([Row("a", metadata={"stars": 3})], unit(1))
    with pytest.raises(ValueError, match="metadata 'stars'"):
        index.add([Row("b", metadata={"stars": "three"})], unit(1))
    assert uris(index) == ["a"]


def test_a_wild_file_time_does_not_stop_a_batch(index: Index) -> None:
    index.add([Row("a", mtime=2**70), Row("b", mtime=-1), Row("c")], unit(3))
    assert [row.mtime for row in index.rows()] == [2**63 - 1, -1, None]


def test_a_run_knows_sizes_times_and_contents_and_what_it_has_not_seen(index: Index) -> None:
    contents = [hashlib.sha256(name).hexdigest() for name in (b"a", b"c", b"new")]
    rows = [
        Row("a", bytes=1, mtime=2, sha256=contents[0]),
        Row("b"),
        Row("c.tar", "d", bytes=3, sha256=contents[1]),
        Row("e"),
    ]
    index.add(rows, unit(4))
    known = index.known_rows()
    assert len(known) == 4
    assert known.look_up(digests_of([rows[0].id, row_id("x"), rows[1].id])) == [
        FileState(1, 2),
        None,
        FileState(None, None),
    ]
    assert list(known.unseen()) == [(rows[2].id, "c.tar", "d"), (rows[3].id, "e", None)]
    assert [known.id_of_content(text) for text in contents] == [rows[0].id, rows[2].id, None]
    new = Row("f", sha256=contents[2])
    known.add_contents([Row("g"), new])
    assert known.id_of_content(contents[2]) == new.id
    index.add([new], unit(1))
    assert [place.uri for place in known.unseen()] == ["c.tar", "e"]  # the index as it was read


def test_rows_are_found_by_key_with_their_vectors(index: Index) -> None:
    vectors = unit(3)
    rows = [Row("a", width=9), Row("it's"), Row("c", member="d", metadata={"label": "x"})]
    index.add(rows, vectors)
    found = index.by_ids([rows[2].id, rows[1].id, row_id("nothing"), "no'key"])
    assert {name: row for name, (row, _) in found.items()} == {row.id: row for row in rows[1:]}
    np.testing.assert_array_equal(found[rows[2].id][1], vectors[2])
    assert index.by_ids([]) == {}


def test_a_reused_vector_is_stored_without_further_loss(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", IDENTITY)
    index.add([Row("a")], unit(1))
    index.add([Row("b")], index.by_ids([row_id("a")])[row_id("a")][1][None])
    first, second = index.vectors()
    np.testing.assert_array_equal(first, second)


# Search


def test_hits_carry_what_is_known_best_first(index: Index) -> None:
    vectors = np.eye(8, dtype=np.float32)[:3]
    rows = [Row("a", width=4, height=3), Row("b", member="m", metadata={"label": "x"}), Row("c")]
    index.add(rows, vectors)
    query = np.array([[0.6, 0.8, 0, 0, 0, 0, 0, 0]], np.float32)
    assert index.search(query, k=2) == [
        [
            Hit(rows[1].id, pytest.approx(0.8), "b", "m", {"label": "x"}),
            Hit(rows[0].id, pytest.approx(0.6), "a", width=4, height=3),
        ]
    ]


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=st.integers(0, 40),
    num_queries=st.sampled_from([0, 1, 3]),
    k=st.integers(1, 50),
    embed_dim=st.sampled_from([3, 16]),
    commits=st.integers(1, 3),
)
def test_search_finds_what_a_matrix_product_finds(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int,
    num_queries: int,
    k: int,
    embed_dim: int,
    commits: int,
) -> None:
    index = Index.create(
        tmp_path_factory.mktemp("t") / "t", identity(embed_dim), vector_dtype="float32"
    )
    vectors, queries = unit(rows, embed_dim), unit(num_queries, embed_dim, seed=1)
    for places in np.array_split(np.arange(rows), commits):
        index.add([Row(f"{n:04}") for n in places], vectors[places])
    scores = queries @ vectors.T
    found = index.search(queries, k=k)
    assert len(found) == num_queries
    for query, hits in enumerate(found):
        assert len(hits) == min(k, rows)
        expected = np.argsort(-scores[query])[:k]
        assert [int(hit.uri) for hit in hits] == list(expected)
        np.testing.assert_allclose([h.score for h in hits], scores[query][expected], atol=1e-6)


def test_equal_images_are_ordered_by_name_however_they_came(tmp_path: Path) -> None:
    results = []
    for attempt, order in enumerate([("a", "b", "c", "d"), ("d", "b", "a", "c")]):
        index = Index.create(tmp_path / str(attempt), identity(33))
        for name in order:
            index.add(named(name), unit(1, 33))
        results.append(index.search(unit(1, 33, seed=5), k=3)[0])
    assert results[0] == results[1]
    assert [hit.uri for hit in results[0]] == ["a", "b", "c"]


@pytest.mark.parametrize("embed_dim", [64, 1024])
def test_half_precision_changes_a_score_by_less_than_promised(
    tmp_path: Path, embed_dim: int
) -> None:
    vectors, queries = unit(300, embed_dim), unit(3, embed_dim, seed=1)
    queries[0] = vectors[0]
    index = Index.create(tmp_path / "index", identity(embed_dim))
    index.add([Row(str(n)) for n in range(300)], vectors)
    exact = queries @ vectors.T
    for query, hits in enumerate(index.search(queries, k=300)):
        for hit in hits:
            assert abs(hit.score - exact[query, int(hit.uri)]) < 5e-4


def test_conditions_choose_who_takes_part(index: Index) -> None:
    vectors = unit(50)
    index.add(
        [Row(f"{n:02}.{'png' if n % 2 else 'jpg'}", width=n, metadata={"n": n}) for n in range(50)],
        vectors,
    )
    query = unit(1, seed=9)
    for where, allowed in (
        ("width >= 25", range(25, 50)),
        ("uri LIKE '%.png' AND n < 10", range(1, 10, 2)),
        ("n = 17", [17]),
        ("n > 99", []),
    ):
        hits = index.search(query, k=10, where=where)[0]
        expected = sorted(allowed, key=lambda n: -float(vectors[n] @ query[0]))[:10]
        assert [hit.metadata["n"] for hit in hits] == expected


def test_a_condition_on_the_time_of_change(index: Index) -> None:
    index.add([Row("old", mtime=10**18), Row("new", mtime=17 * 10**17)], unit(2))
    assert uris(index, "mtime > timestamp '2020-01-01'") == ["new"]


@pytest.mark.parametrize("where", ["nope > 3", "uri ==== 3", "", "width + 'a'", "width"])
def test_a_wrong_condition_is_the_asker_s_error(index: Index, where: str) -> None:
    index.add(named("a"), unit(1))
    for ask in (
        lambda: index.search(unit(1), k=1, where=where),
        lambda: list(index.rows(where=where)),
        lambda: index.vectors(where=where),
    ):
        with pytest.raises(QueryError, match="the condition"):
            ask()


def test_a_threshold_may_leave_nothing(index: Index) -> None:
    index.add(named("a", "b"), np.eye(8, dtype=np.float32)[:2])
    query = np.eye(8, dtype=np.float32)[:1]
    assert [hit.uri for hit in index.search(query, k=5, threshold=0.5)[0]] == ["a"]
    assert index.search(-query, k=5, threshold=0.5) == [[]]


def test_search_refuses_what_makes_no_sense(index: Index) -> None:
    with pytest.raises(ValueError, match="k must be at least 1"):
        index.search(unit(1), k=0)
    with pytest.raises(ValueError, match=r"queries: expected shape \(N, 8\)"):
        index.search(unit(1)[0], k=1)
    with pytest.raises(ValueError, match="queries: number 0"):
        index.search(unit(1) * 3, k=1)


# Several at once, and interruptions


def test_others_commits_are_seen_after_refresh(index: Index) -> None:
    reader = Index.open(index.path)
    index.add(named("a"), unit(1))
    assert reader.count() == 0
    reader.refresh()
    assert reader.count() == 1


def test_writers_with_old_views_do_not_undo_each_other(index: Index) -> None:
    other = Index.open(index.path)
    index.add([Row("a", metadata={"x": 1})], unit(1))
    other.add([Row("b", metadata={"y": "z"})], unit(1))
    index.delete([row_id("b")])
    index.add(named("c"), unit(1))
    assert uris(Index.open(index.path)) == ["a", "c"]


def test_searching_while_another_thread_writes(index: Index) -> None:
    index.add(named("a", "b"), unit(2))
    errors: list[BaseException] = []

    def write() -> None:
        try:
            for n in range(15):
                index.add(named("a", f"n{n}"), unit(2, seed=n))
        except BaseException as err:  # noqa: BLE001 — shown below
            errors.append(err)

    thread = threading.Thread(target=write)
    thread.start()
    while thread.is_alive():
        (hits,) = index.search(unit(1), k=50)
        assert len({hit.uri for hit in hits}) == len(hits) >= 2
    thread.join()
    assert not errors
    assert index.count() == 17


WRITER = """
import sys
import numpy as np
from perception_encoder.index import Index, Row
from perception_encoder.types import ModelIdentity
identity = ModelIdentity("pe-nano", "0123456789abcdef", "standard", 8)
index = Index.open_or_create(sys.argv[1], identity)
for batch in range(1000):
    vectors = np.eye(8, dtype=np.float32)[np.arange(200) % 8]
    index.add([Row(f"{batch}/{n}", metadata={"batch": batch}) for n in range(200)], vectors)
    print(batch, flush=True)
"""


@pytest.mark.parametrize("delay", [0.0, 0.02])
def test_a_writer_killed_at_any_moment_leaves_whole_batches(tmp_path: Path, delay: float) -> None:
    path = tmp_path / "index"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        reported = [int(writer.stdout.readline()) for _ in range(3)][-1]
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
    index = Index.open(path)
    assert index.count() % 200 == 0
    assert index.count() >= 200 * (reported + 1)
    assert len(set(uris(index))) == index.count()
    index.add(named("afterwards"), unit(1))
    assert index.count() % 200 == 1


def test_a_failed_write_is_told_and_leaves_the_index_as_it_was(index: Index) -> None:
    index.add(named("a"), unit(1))
    data, aside = Path(index.path, "data"), Path(index.path, "aside")
    data.rename(aside)
    data.write_text("a file where Lance wants its folder")
    with pytest.raises(IndexStorageError, match="the free space and the permissions"):
        index.add(named("b"), unit(1))
    data.unlink()
    aside.rename(data)
    assert uris(index) == uris(Index.open(index.path)) == ["a"]


def test_an_index_that_vanished_is_told(index: Index) -> None:
    index.add(named("a"), unit(1))
    shutil.rmtree(index.path)
    with pytest.raises(IndexNotFoundError):
        index.add(named("b"), unit(1))
    with pytest.raises(IndexStorageError, match=index.path):
        index.search(unit(1), k=1)


# For other programs


def test_lance_alone_reads_plain_columns(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", IDENTITY)
    index.add([Row("a", width=3, metadata={"label": "cat"})], unit(1))
    arrow = lance.dataset(str(tmp_path / "index")).to_table()
    assert arrow.schema.names == [
        "id", "uri", "member", "offset", "width", "height", "bytes", "mtime", "sha256", "_text",
        "vector", "label",
    ]  # fmt: skip
    assert str(arrow.schema.field("vector").type) == "fixed_size_list<item: halffloat>[8]"
    assert arrow["label"].to_pylist() == ["cat"]
    metadata = {key.decode(): value.decode() for key, value in arrow.schema.metadata.items()}
    assert metadata["perception_encoder.model_id"] == "pe-nano"
    assert metadata["perception_encoder.fingerprint"] == "0123456789abcdef"
    assert metadata["perception_encoder.preprocess"] == "standard"
    assert metadata["perception_encoder.embed_dim"] == "8"
    assert metadata["perception_encoder.version"]


def test_importing_the_index_loads_neither_lance_nor_arrow() -> None:
    code = (
        "import sys, perception_encoder.index; "
        "print(sorted({'lance', 'pyarrow', 'torch', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_append_adds_new_rows_and_keeps_what_was_there(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", IDENTITY)
    index.append([Row("a.tar", "1.png", offset=512, metadata={"label": "cat"})], unit(1))
    index.append([Row("b.png"), Row("c.png", metadata={"size": 3})], unit(2, seed=1))
    index.append([], np.empty((0, IDENTITY.embed_dim)))
    assert [(row.uri, row.offset, dict(row.metadata)) for row in index.rows()] == [
        ("a.tar", 512, {"label": "cat"}),
        ("b.png", None, {}),
        ("c.png", None, {"size": 3}),
    ]
    (hit,) = index.search(unit(1), k=1)[0]
    assert (hit.member, hit.offset) == ("1.png", 512)
    with pytest.raises(ValueError, match="2 rows, but 1 vectors"):
        index.append([Row("d"), Row("e")], unit(1))


def test_an_index_without_the_column_offset_gains_it(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", IDENTITY)
    index.append([Row("a")], unit(1))
    lance.dataset(index.path).drop_columns(["offset"])  # as version 0.1.0 made them
    index = Index.open(index.path)
    assert [(row.uri, row.offset) for row in index.rows()] == [("a", None)]
    index.append([Row("b.tar", "x", offset=7)], unit(1))
    assert [(row.uri, row.offset) for row in index.rows()] == [("a", None), ("b.tar", 7)]


def test_refreshing_shows_an_index_that_was_made_anew(tmp_path: Path) -> None:
    """Its versions count from one again, so the number alone does not tell."""
    path = tmp_path / "index.lance"
    index = Index.create(path, IDENTITY)
    index.add(named("a"), unit(1))
    before = index.state
    shutil.rmtree(path)
    Index.create(path, IDENTITY).add(named("b", "c"), unit(2))
    index.refresh()
    assert uris(index) == ["b", "c"]
    assert index.state != before
    same = index.state
    index.refresh()
    assert index.state == same


# Another index in the place of one that is open


def replace(path: Path, other: ModelIdentity, vector_dtype: VectorDtype = "float32") -> Index:
    shutil.rmtree(path)
    made = Index.create(path, other, vector_dtype=vector_dtype)
    made.add(named("new"), unit(1, other.embed_dim, seed=5))
    return made


@pytest.mark.parametrize(
    "change",
    [
        {"model_id": "PE-Core-B16-224"},
        {"fingerprint": "f" * 16},
        {"preprocess": "reference"},
        {"embed_dim": 4},
    ],
)
def test_an_index_replaced_by_one_of_another_model_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    index = Index.create(tmp_path / "t", IDENTITY, vector_dtype="float32")
    index.add(named("old"), unit(1))
    other = dataclasses.replace(IDENTITY, **change)
    replace(tmp_path / "t", other)
    for _ in range(2):
        with pytest.raises(IndexMismatchError, match="replaced while it was open") as caught:
            index.refresh()
    message = str(caught.value)
    assert all(part.model_id in message for part in (IDENTITY, other))
    for write in (
        lambda: index.add(named("x"), unit(1)),
        lambda: index.append(named("x"), unit(1)),
        lambda: index.delete([row_id("new")]),
    ):
        with pytest.raises(IndexMismatchError, match="replaced while it was open"):
            write()
    assert uris(Index.open(index.path)) == ["new"]


@pytest.mark.parametrize("vector_dtype", ["float16", "float32"])
def test_an_index_replaced_by_one_of_the_same_model_simply_works(
    tmp_path: Path, vector_dtype: VectorDtype
) -> None:
    index = Index.create(tmp_path / "t", IDENTITY, vector_dtype="float32")
    index.add(named("old"), unit(1))
    replace(tmp_path / "t", IDENTITY, vector_dtype)
    index.refresh()
    assert uris(index) == ["new"]
    assert index.vector_dtype == vector_dtype
    assert index.search(unit(1, seed=5), k=3)[0][0].score == pytest.approx(1, abs=1e-3)
    index.add(named("newer"), unit(1, seed=6))
    assert uris(Index.open(index.path)) == ["new", "newer"]


def test_an_index_brought_back_from_a_copy_that_went_another_way_is_seen(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "t", IDENTITY, vector_dtype="float32")
    index.add(named("both"), unit(1))
    shutil.copytree(tmp_path / "t", tmp_path / "copy")
    Index.open(tmp_path / "copy").add(named("copy"), unit(1, seed=1))
    index.add(named("original"), unit(1, seed=2))
    shutil.rmtree(tmp_path / "t")
    (tmp_path / "copy").rename(tmp_path / "t")
    index.refresh()
    assert uris(index) == ["both", "copy"]


def test_an_index_that_was_deleted_is_not_found_and_comes_back(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "t", IDENTITY, vector_dtype="float32")
    index.add(named("old"), unit(1))
    (tmp_path / "t").rename(tmp_path / "away")
    with pytest.raises(IndexNotFoundError, match="there is no index"):
        index.refresh()
    with pytest.raises(IndexStorageError, match=str(tmp_path / "t")):
        index.search(unit(1), k=1)
    (tmp_path / "away").rename(tmp_path / "t")
    index.refresh()
    assert [hit.uri for hit in index.search(unit(1), k=1)[0]] == ["old"]
