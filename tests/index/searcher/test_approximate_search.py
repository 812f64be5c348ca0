"""Approximate search finds what was measured, and is exact wherever that is promised."""

from pathlib import Path

import numpy as np
import pytest
from index.searcher.searcher_indexes import (
    COPY,
    LISTS,
    Floats,
    build,
    by_definition,
    clustered,
    make_index,
    rows_named,
    told,
)

from perception_encoder.index import Index, VectorDtype
from perception_encoder.index.searcher.files import SearcherFolder

NUM_ROWS, EMBED_DIM = 12_000, 48


@pytest.fixture(scope="module", params=["float16", "float32"])
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """An index with lists."""
    vector_dtype: VectorDtype = request.param
    path = tmp_path_factory.mktemp("lists") / "t"
    made = make_index(path, clustered(NUM_ROWS, EMBED_DIM), vector_dtype=vector_dtype)
    done = build(made, LISTS)
    assert done.searcher == "approximate"
    assert done.recall is not None
    assert done.recall >= 0.95
    return made


def recall(index: Index, queries: Floats, k: int) -> float:
    truth = index.search(queries, k=k, exact=True)
    found = index.search(queries, k=k)
    pairs = zip(found, truth, strict=True)
    return float(np.mean([len({h.id for h in a} & {h.id for h in b}) / k for a, b in pairs]))


@pytest.mark.parametrize("k", [1, 10, 60])
def test_it_finds_nearly_all_of_the_best(index: Index, k: int) -> None:
    assert recall(index, clustered(40, EMBED_DIM, seed=1), k) >= 0.93


def test_it_looks_at_a_part_of_the_index_only(index: Index) -> None:
    header = SearcherFolder(index.path).read()
    assert header is not None
    assert [tuning.k for tuning in header.tuning] == [10, 100]
    assert header.tuning[0].probes < header.num_lists / 4
    assert all(one.k <= one.candidates < NUM_ROWS / 10 for one in header.tuning)
    anywhere = np.random.default_rng(0).standard_normal((50, EMBED_DIM))  # between the lists
    anywhere /= np.linalg.norm(anywhere, axis=1, keepdims=True)
    assert recall(index, anywhere.astype(np.float32), 10) < 1


def test_its_scores_are_the_index_s_own(index: Index) -> None:
    query = clustered(1, EMBED_DIM, seed=2)
    truth = dict(by_definition(index, query[0], NUM_ROWS))
    hits = index.search(query, k=30)[0]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all(hit.score == truth[hit.uri] for hit in hits)


def test_exact_search_a_condition_and_a_long_list_are_exact(index: Index) -> None:
    for query in clustered(5, EMBED_DIM, seed=3):
        one = query[None]
        assert told(index.search(one, k=10, exact=True)[0]) == by_definition(index, query, 10)
        assert told(index.search(one, k=150)[0]) == by_definition(index, query, 150)
        for where in ("width <= 120", "half = 'even'"):
            found = told(index.search(one, k=10, where=where)[0])
            assert found == by_definition(index, query, 10, where=where)


def test_a_threshold_leaves_the_lower_ones_out(index: Index) -> None:
    query = clustered(1, EMBED_DIM, seed=4)
    hits = index.search(query, k=50)[0]
    assert index.search(query, k=50, threshold=hits[7].score)[0] == hits[:8]


def test_rows_that_came_and_went_since_are_seen(tmp_path: Path) -> None:
    index = make_index(tmp_path / "t", clustered(4000, EMBED_DIM))
    build(index, LISTS)
    query = clustered(1, EMBED_DIM, seed=1)
    gone = index.search(query, k=3)[0]
    index.delete([hit.id for hit in gone])
    index.append(rows_named(["new"]), query)
    found = [hit.uri for hit in index.search(query, k=20)[0]]
    assert found[0] == "new"
    assert not {hit.uri for hit in gone} & set(found)
    assert len(found) == 20


def test_hits_are_found_where_nearly_everything_was_deleted(tmp_path: Path) -> None:
    index = make_index(tmp_path / "t", clustered(3000, EMBED_DIM))
    build(index, LISTS)
    index.delete([row.id for row in index.rows(where="width % 100 > 0")])
    for query in clustered(5, EMBED_DIM, seed=1):
        found = index.search(query[None], k=20)[0]
        assert len(found) == 20
        assert found[0].score == by_definition(index, query, 1)[0][1]


def test_vectors_without_any_structure_get_no_lists(tmp_path: Path) -> None:
    random = np.random.default_rng(0).standard_normal((3000, 64))
    vectors = random / np.linalg.norm(random, axis=1, keepdims=True)
    index = make_index(tmp_path / "t", vectors.astype(np.float32))
    assert build(index, LISTS).searcher == "exact"
    assert not list((tmp_path / "t" / "_pe" / "searcher").glob("*.lists"))
    query = clustered(1, 64)
    assert told(index.search(query, k=10)[0]) == by_definition(index, query[0], 10)


@pytest.mark.parametrize("num_rows", [1, 2, 3, 40])
def test_tiny_and_equal_vectors_can_be_built_from(tmp_path: Path, num_rows: int) -> None:
    vectors = np.repeat(clustered(1, 8), num_rows, axis=0)
    index = make_index(tmp_path / "t", vectors, fragments=1)
    build(index, LISTS)
    hits = index.search(vectors[:1], k=5)[0]
    assert [hit.uri for hit in hits] == [f"p{i:05}" for i in range(min(5, num_rows))]


def test_a_searcher_is_built_only_where_it_pays(tmp_path: Path) -> None:
    index = make_index(tmp_path / "t", clustered(1000, 32))
    assert index.optimize().searcher == "none"
    assert not (tmp_path / "t" / "_pe" / "searcher").exists()
    assert build(index, COPY).searcher == "exact"
    index.delete([index.search(clustered(1, 32), k=1)[0][0].id])
    assert index.optimize().searcher == "none"
    assert not list((tmp_path / "t" / "_pe" / "searcher").iterdir())
