"""Lance's vector index: indexes in a bucket, on a real S3-speaking server on this machine."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import lance
import lancedb
import numpy as np
import pytest
from buckets import Bucket, open_bucket
from cli.command import pe
from numpy.typing import NDArray

from perception_encoder.index import Index, Row, nearest
from perception_encoder.index.exact import ExactSearch
from perception_encoder.index.optimize import OptimizeReport, optimize_index
from perception_encoder.index.searcher.build import SearcherSizes
from perception_encoder.index.vector_index import INDEX_NAME, count_uncovered
from perception_encoder.server.api.native.indexes import describe_served_index
from perception_encoder.server.core.indexes import ServedIndex
from perception_encoder.types import ModelIdentity

ANY_SIZE = SearcherSizes(copy=1, lists=1)
EMBED_DIM = 32
NUM_ROWS = 1500


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def clustered(rows: int, seed: int) -> NDArray[np.float32]:
    centers = np.random.default_rng(0).standard_normal((40, EMBED_DIM))
    random = np.random.default_rng((1, seed))
    noise = 0.7 * random.standard_normal((rows, EMBED_DIM))
    return unit(centers[random.integers(0, len(centers), rows)] + noise)


VECTORS = clustered(NUM_ROWS, seed=0)
QUERIES = clustered(25, seed=1)


def optimize(path: str) -> OptimizeReport:
    return optimize_index(path, None, sizes=ANY_SIZE)


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with open_bucket() as opened:
        path = f"{opened.uri}/t.lance"
        identity = ModelIdentity("pe-nano", "0123", "standard", EMBED_DIM)
        index = Index.create(path, identity)
        rows = [Row(f"{number}", metadata={"number": number}) for number in range(NUM_ROWS)]
        index.append(rows[:1000], VECTORS[:1000])
        index.append(rows[1000:], VECTORS[1000:])
        optimize(path)
        yield opened


@pytest.fixture
def path(bucket: Bucket) -> Iterator[str]:
    """The path of an optimized index, as which it is left."""
    location = f"{bucket.uri}/t.lance"
    before = lance.dataset(location).version
    yield location
    if lance.dataset(location).version != before:
        lance.dataset(location, version=before).restore()


@contextmanager
def counting_compared() -> Iterator[list[int]]:
    """Collects how many embeddings each search compares."""
    compared: list[int] = []
    add = ExactSearch.add

    def counted(self: object, vectors: NDArray[np.float32], key_of: object) -> None:
        compared.append(len(vectors))
        add(self, vectors, key_of)  # type: ignore[arg-type]

    with patch.object(ExactSearch, "add", counted):
        yield compared


def find(index: Index, queries: NDArray[np.float32], **options: object) -> list[list[str]]:
    found = index.search(queries, k=10, **options)  # type: ignore[arg-type]
    return [[hit.uri for hit in hits] for hits in found]


def recall(found: list[list[str]], expected: list[list[str]]) -> float:
    pairs = zip(found, expected, strict=True)
    return float(np.mean([len(set(some) & set(best)) / len(best) for some, best in pairs]))


def test_few_embeddings_are_compared_and_most_of_the_best_are_found(path: str) -> None:
    index = Index.open(path)
    expected = find(index, QUERIES, exact=True)
    with counting_compared() as compared:
        found = [find(index, query[None])[0] for query in QUERIES]
    assert sum(compared) < len(QUERIES) * NUM_ROWS / 10
    assert recall(found, expected) >= 0.95
    assert recall(find(index, QUERIES), expected) >= 0.95
    scores = [hit.score for hit in index.search(QUERIES[:1], k=10)[0]]
    rows = [int(uri) for uri in find(index, QUERIES[:1])[0]]
    assert scores == pytest.approx(VECTORS[rows] @ QUERIES[0], abs=1e-3)
    assert scores == sorted(scores, reverse=True)


def test_exact_search_compares_every_embedding(path: str) -> None:
    index = Index.open(path)
    with counting_compared() as compared:
        found = find(index, QUERIES[:3], exact=True)
    assert sum(compared) == NUM_ROWS
    best = np.argsort(-(QUERIES[:3] @ VECTORS.T), axis=1)[:, :10]
    assert recall(found, [[str(row) for row in rows] for rows in best]) > 0.99  # float16


def test_new_rows_are_found_at_once_and_covered_by_the_next_optimization(path: str) -> None:
    index = Index.open(path)
    new = clustered(10, seed=2)
    index.append([Row(f"new {number}") for number in range(10)], new)
    assert [hits[0] for hits in find(index, new)] == [f"new {number}" for number in range(10)]
    assert optimize(path).searcher == "vector-index"
    index.refresh()
    assert count_uncovered(lance.dataset(path)) == 0
    with counting_compared() as compared:
        assert [hits[0] for hits in find(index, new)] == [f"new {number}" for number in range(10)]
    assert sum(compared) < 10 * 100


def test_deleted_and_replaced_rows_are_never_found(path: str) -> None:
    index = Index.open(path)
    nearest_to = find(index, VECTORS[:6])
    assert [hits[0] for hits in nearest_to] == [str(number) for number in range(6)]
    index.delete([Row(str(number)).id for number in range(3)])
    index.add([Row(str(number)) for number in range(3, 6)], -VECTORS[3:6])
    gone = {str(number) for number in range(6)}
    for _ in range(2):
        assert not gone & {uri for hits in find(index, VECTORS[:6]) for uri in hits}
        assert [hits[0] for hits in find(index, -VECTORS[3:6])] == [str(n) for n in range(3, 6)]
        optimize(path)
        index.refresh()


@pytest.mark.parametrize("few_bytes", [0, 1 << 30])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_filtered_searches_find_rows_that_meet_the_condition(
    path: str, share: float, few_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "_FEW_BYTES", few_bytes)
    index, where = Index.open(path), f"number < {int(share * NUM_ROWS)}"
    found = find(index, QUERIES, where=where)
    assert all(int(uri) < share * NUM_ROWS for hits in found for uri in hits)
    assert recall(found, find(index, QUERIES, where=where, exact=True)) >= 0.95


def test_a_threshold_leaves_out_hits_below_it(path: str) -> None:
    index = Index.open(path)
    (hits,) = index.search(VECTORS[:1], k=10, threshold=0.99)
    assert [hit.uri for hit in hits] == ["0"]


def test_more_results_than_rows_are_all_rows(path: str) -> None:
    (hits,) = Index.open(path).search(QUERIES[:1], k=NUM_ROWS + 5)
    assert len(hits) == NUM_ROWS


def test_commands_and_the_server_say_how_the_index_is_searched(path: str, tmp_path: Path) -> None:
    credentials = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    run = partial(pe, folder=tmp_path, **credentials)
    done = run("optimize", "--index", path)
    assert "searcher: Lance's vector index, approximate, finds 9" in done.stderr
    shown = json.loads(run("indexes", "info", "--index", path, "--json").stdout)
    assert shown["search"] == "vector-index"
    assert shown["recall"] >= 0.95
    assert shown["searcher_bytes"] > NUM_ROWS
    served = describe_served_index(ServedIndex("t", path))
    assert [served[name] == shown[name] for name in ("search", "recall", "searcher_bytes")]


def test_lancedb_searches_with_the_index(path: str) -> None:
    table = lancedb.connect(path.rpartition("/")[0]).open_table("t")
    assert INDEX_NAME in [one.name for one in table.list_indices()]
    query = table.search(QUERIES[0], vector_column_name="vector").limit(10)
    assert "ANN" in query.explain_plan()
    uris = [row["uri"] for row in query.refine_factor(3).to_list()]
    assert recall([uris], [find(Index.open(path), QUERIES[:1], exact=True)[0]]) >= 0.7
