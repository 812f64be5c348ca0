"""Search with a copy of the vectors answers what the index itself would, whatever happens to it."""

from pathlib import Path

import lance
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
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
from perception_encoder.index.searcher.candidates import to_float32
from perception_encoder.index.searcher.searcher import Searchers


@pytest.mark.parametrize("vector_dtype", ["float16", "float32"])
@pytest.mark.parametrize(("num_rows", "embed_dim"), [(1, 5), (7, 8), (700, 24), (5000, 192)])
def test_hits_and_scores_are_those_of_the_index(
    tmp_path: Path, num_rows: int, embed_dim: int, vector_dtype: VectorDtype
) -> None:
    index = make_index(
        tmp_path / "t",
        clustered(num_rows, embed_dim),
        fragments=min(3, num_rows),
        vector_dtype=vector_dtype,
    )
    queries = clustered(6, embed_dim, seed=1)
    assert build(index, COPY).searcher == "exact"
    for k in (1, 10, 2 * num_rows):
        found = index.search(queries, k=k)
        assert [told(hits) for hits in found] == [by_definition(index, q, k) for q in queries]
    assert index.search(queries[:0], k=3) == []


def test_a_hit_carries_all_that_is_known_of_its_row(tmp_path: Path) -> None:
    index = make_index(tmp_path / "t", clustered(100, 8))
    before = index.search(clustered(3, 8, seed=1), k=4)
    build(index, COPY)
    assert index.search(clustered(3, 8, seed=1), k=4) == before
    assert before[0][0].width is not None
    assert before[0][0].metadata["half"] in ("odd", "even")


def test_a_thousand_copies_of_one_image_are_ordered_by_name(tmp_path: Path) -> None:
    vectors = clustered(1500, 16)
    vectors[200:1400] = vectors[200]
    index = make_index(tmp_path / "t", vectors)
    build(index, COPY)
    hits = index.search(vectors[200:201], k=20)[0]
    assert [hit.uri for hit in hits] == [f"p{number:05}" for number in range(200, 220)]
    assert len({hit.score for hit in hits}) == 1


@pytest.mark.parametrize("vector_dtype", ["float16", "float32"])
def test_vectors_that_half_floats_cannot_tell_apart_are_told_apart(
    tmp_path: Path, vector_dtype: VectorDtype
) -> None:
    random = np.random.default_rng(3)
    vectors = clustered(1, 64) + 1e-5 * random.standard_normal((400, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = make_index(tmp_path / "t", vectors, vector_dtype=vector_dtype)
    build(index, COPY)
    query = clustered(1, 64, seed=4)
    assert told(index.search(query, k=5)[0]) == by_definition(index, query[0], 5)


@pytest.mark.parametrize(
    "where",
    ["width = 1700", "width <= 20", "width <= 200", "half = 'odd'", "width > 0", "width > 9999"],
)
def test_a_condition_is_exact_whatever_its_selectivity(tmp_path: Path, where: str) -> None:
    index = make_index(tmp_path / "t", clustered(2000, 16))
    build(index, COPY)
    index.append(rows_named(["new1", "new2"]), clustered(2, 16, seed=5))
    for query in clustered(3, 16, seed=1):
        found = told(index.search(query[None], k=7, where=where)[0])
        assert found == by_definition(index, query, 7, where=where)


def test_conditions_that_were_asked_before_are_met_by_the_same_rows(tmp_path: Path) -> None:
    index = make_index(tmp_path / "t", clustered(700, 16))
    build(index, COPY)
    query = clustered(1, 16, seed=1)
    asked = [f"width <= {most} AND half = 'odd'" for most in range(10, 690, 34)]
    for where in asked + asked[::-1]:
        assert told(index.search(query, k=5, where=where)[0]) == by_definition(
            index, query[0], 5, where=where
        )


def test_a_condition_that_other_rows_meet_each_time_is_read_each_time(tmp_path: Path) -> None:
    index = make_index(tmp_path / "t", clustered(700, 16))
    build(index, COPY)
    query = clustered(1, 16, seed=1)
    first, second = (index.search(query, k=700, where="random() < 0.5")[0] for _ in range(2))
    assert {hit.uri for hit in first} != {hit.uri for hit in second}


def test_a_wrong_condition_is_a_query_error(tmp_path: Path) -> None:
    index = make_index(tmp_path / "t", clustered(50, 8))
    build(index, COPY)
    with pytest.raises(QueryError, match="no_such_column"):
        index.search(clustered(1, 8), k=1, where="no_such_column = 1")


def test_a_threshold_cuts_at_the_score(tmp_path: Path) -> None:
    index = make_index(tmp_path / "t", clustered(600, 16))
    build(index, COPY)
    query = clustered(1, 16, seed=1)
    cut = by_definition(index, query[0], 9)[8][1]
    assert len(index.search(query, k=50, threshold=cut)[0]) == 9
    assert index.search(query, k=50, threshold=1.0)[0] == []


CHANGES = st.lists(
    st.tuples(st.sampled_from(["add", "change", "delete", "compact", "build", "column"]),
              st.integers(0, 10_000)),
    max_size=6,
)  # fmt: skip


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=CHANGES)
def test_whatever_is_done_to_the_index_afterwards_search_sees_what_is_there(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, int]]
) -> None:
    path = tmp_path_factory.mktemp("changes") / "t"
    index = make_index(path, clustered(60, 8))
    build(index, COPY)
    for what, seed in changes:
        uris = sorted(row.uri for row in index.rows())
        some = [uris[i] for i in np.random.default_rng(seed).integers(0, len(uris), 15)]
        if what == "add":
            index.append(
                rows_named([f"n{seed}-{len(uris)}-{i}" for i in range(4)]), clustered(4, 8, seed)
            )
        elif what == "change":
            index.add(rows_named(some), clustered(len(some), 8, seed))
        elif what == "delete" and len(uris) > 20:
            index.delete([row.id for row in rows_named(some)])
        elif what == "compact":
            lance.dataset(str(path)).optimize.compact_files()
            index.refresh()
        elif what == "column":
            index.add(
                [type(row)(row.uri, metadata={f"c{seed}": 1}) for row in rows_named(some[:2])],
                clustered(2, 8, seed),
            )
        elif what == "build":
            build(index, COPY)
        for opened in (index, Index.open(path)):
            for query in clustered(2, 8, seed=1):
                assert told(opened.search(query[None], k=8)[0]) == by_definition(index, query, 8)
                where = "half = 'odd'"
                assert told(opened.search(query[None], k=8, where=where)[0]) == by_definition(
                    index, query, 8, where=where
                )


def test_an_object_that_was_opened_before_keeps_seeing_its_version(tmp_path: Path) -> None:
    index = make_index(tmp_path / "t", clustered(300, 8))
    old = Index.open(tmp_path / "t")
    query = clustered(1, 8, seed=1)
    expected = by_definition(old, query[0], 5)
    index.delete([hit.id for hit in index.search(query, k=3)[0]])
    build(index, COPY)
    assert told(old.search(query, k=5)[0]) == expected
    assert told(index.search(query, k=5)[0]) == by_definition(index, query[0], 5)
    old.refresh()
    assert told(old.search(query, k=5)[0]) == by_definition(index, query[0], 5)


def test_another_process_s_new_searcher_is_taken_up(tmp_path: Path) -> None:
    index = make_index(tmp_path / "t", clustered(300, 8))
    other = Index.open(tmp_path / "t")
    build(index, COPY)
    query = clustered(1, 8, seed=1)
    expected = by_definition(other, query[0], 5)
    assert told(other.search(query, k=5)[0]) == expected
    for _ in range(2):  # the files of the one that `other` has open are deleted
        index.append(rows_named([f"more{index.count()}"]), query)
        build(index, COPY)
    assert told(other.search(query, k=5)[0]) == expected
    other.refresh()
    assert other.search(query, k=1)[0][0].uri.startswith("more")


def test_every_finite_half_float_becomes_the_same_float32():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = halves[np.isfinite(halves)]
    floats = to_float32(finite.reshape(2, -1))
    assert floats.dtype == np.float32
    np.testing.assert_array_equal(floats.ravel(), finite.astype(np.float32))
    assert np.array_equal(np.signbit(floats.ravel()), np.signbit(finite))


@pytest.mark.parametrize("k", [1, 5, 40])
def test_a_condition_that_few_rows_meet_reads_only_their_pages(tmp_path: Path, k: int) -> None:
    index = make_index(tmp_path / "t", clustered(6000, 24))
    build(index, COPY)
    chosen = ", ".join(f"'p{number:05}'" for number in range(7, 6000, 250))
    where = f"uri IN ({chosen})"
    for query in clustered(4, 24, seed=1):
        found = told(index.search(query[None], k=k, where=where)[0])
        assert len(found) == min(k, 24)
        assert found == by_definition(index, query, k, where=where)
        threshold = found[len(found) // 2][1]
        above = told(index.search(query[None], k=k, threshold=threshold, where=where)[0])
        assert above == [one for one in found if one[1] >= threshold]
    fresh = Searchers(index.path).current()
    assert fresh is not None
    mask = np.zeros(6000, np.bool_)
    mask[[3, 5000]] = True
    (hits,) = fresh.propose_exact(clustered(1, 24, seed=1), 5, None, mask)
    assert sorted(hits.numbers) == [3, 5000]
    assert fresh.files["vectors"].checked_share == pytest.approx(2 / 71, rel=0.05)
