"""Rows that no searcher covers are kept in memory: the answers are those of the index, always."""

from datetime import timedelta
from pathlib import Path

import lance
import numpy as np
import pytest
from index.searcher.searcher_indexes import (
    COPY,
    build,
    by_definition,
    clustered,
    make_index,
    rows_named,
    told,
)

from perception_encoder.errors import QueryError
from perception_encoder.index import Index, VectorDtype
from perception_encoder.index.recent import RecentVectors

QUERIES = clustered(3, 24, seed=1)


def check(index: Index, k: int = 10) -> None:
    """Compare searches, twice each, with the definition."""
    for where, threshold in ((None, None), ("half = 'odd'", None), ("width > 20", 0.1)):
        wanted = [by_definition(index, q, k, where=where, threshold=threshold) for q in QUERIES]
        for _ in range(2):
            found = index.search(QUERIES, k=k, where=where, threshold=threshold)
            assert [told(hits) for hits in found] == wanted


@pytest.mark.parametrize("vector_dtype", ["float16", "float32"])
@pytest.mark.parametrize("num_rows", [1, 90])
def test_an_index_without_a_searcher(
    tmp_path: Path, num_rows: int, vector_dtype: VectorDtype
) -> None:
    index = make_index(
        tmp_path / "t", clustered(num_rows, 24), fragments=1, vector_dtype=vector_dtype
    )
    check(index)
    index.append(rows_named([f"q{n:05}" for n in range(70)]), clustered(70, 24, seed=2))
    check(index)
    check(index, k=400)
    index.delete(row.id for row in rows_named(["p00000", "q00003", "q00004"]))
    check(index)


def test_rows_added_to_an_index_with_a_searcher(tmp_path: Path) -> None:
    index = make_index(tmp_path / "t", clustered(500, 24))
    build(index, COPY)
    index.append(rows_named([f"q{n:05}" for n in range(70)]), clustered(70, 24, seed=2))
    check(index)
    for names in (["q00003", "p00007"], ["q00004", "q00069"]):
        index.delete(row.id for row in rows_named(names))
        check(index)
    build(index, COPY)
    check(index)


def test_equal_vectors_are_ordered_by_name_wherever_they_are(tmp_path: Path) -> None:
    vectors = clustered(300, 24)
    vectors[100:] = vectors[0]
    index = make_index(tmp_path / "t", vectors[:200], fragments=1)
    build(index, COPY)
    index.append(rows_named([f"p{n:05}" for n in range(200, 300)]), vectors[200:])
    for _ in range(2):
        hits = index.search(vectors[:1], k=150)[0]
        assert [hit.uri for hit in hits[:150]] == [
            "p00000", *(f"p{n:05}" for n in range(100, 249))
        ]  # fmt: skip


def test_the_vectors_of_an_earlier_version_are_not_those_of_a_restored_one(tmp_path: Path) -> None:
    index = make_index(tmp_path / "t", clustered(60, 24), fragments=1)
    check(index)
    whole = lance.dataset(index.path).version
    index.delete(row.id for row in rows_named(["p00001", "p00002"]))
    check(index)
    lance.dataset(index.path, version=whole).restore()
    index.refresh()
    assert index.count() == 60
    check(index)
    index.delete(row.id for row in rows_named(["p00003", "p00004"]))
    check(index)


def test_what_does_not_fit_is_read_for_each_query(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make_index(tmp_path / "t", clustered(90, 24), fragments=3)
    monkeypatch.setattr(index, "_recent", kept := RecentVectors(max_bytes=2 * 24 * 65))
    index.append(rows_named(["q00000"]), clustered(1, 24, seed=2))  # shows another version
    check(index)
    assert sum(block.vectors.nbytes for block in kept._blocks.values()) == 2 * 24 * 61


def test_vectors_that_a_searcher_covers_are_let_go(tmp_path: Path) -> None:
    index = make_index(tmp_path / "t", clustered(90, 24))
    check(index)
    assert len(index._recent._blocks) == 3
    build(index, COPY)
    check(index)
    index.append(rows_named(["q00000"]), clustered(1, 24, seed=2))
    check(index)
    assert [len(block.vectors) for block in index._recent._blocks.values()] == [1]


def test_a_wrong_condition_is_an_error_in_whatever_index(tmp_path: Path) -> None:
    index = make_index(tmp_path / "t", clustered(9, 24), fragments=1)
    for _ in range(2):
        with pytest.raises(QueryError, match="nothing_like_it"):
            index.search(QUERIES, k=3, where="nothing_like_it = 1")
    index.delete(row.id for row in list(index.rows()))
    index.optimize(older_than=timedelta(0))
    for _ in range(2):
        assert index.search(QUERIES, k=3) == [[], [], []]
        with pytest.raises(QueryError, match="nothing_like_it"):
            index.search(QUERIES, k=3, where="nothing_like_it = 1")


def test_many_queries_at_once_find_the_same(tmp_path: Path) -> None:
    index = make_index(tmp_path / "t", clustered(200, 24))
    queries = clustered(40, 24, seed=3)
    alone = [index.search(query[np.newaxis], k=5)[0] for query in queries]
    assert index.search(queries, k=5) == alone
