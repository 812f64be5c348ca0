"""Pages, folding and what is left out, on indexes whose answers are known."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from perception_encoder.errors import QueryError
from perception_encoder.index import Hit, Index, Row
from perception_encoder.index.optimize import optimize_index
from perception_encoder.index.searcher.build import SearcherSizes
from perception_encoder.search import Query, SearchOptions, SearchResult
from perception_encoder.search.folding import fold_hits
from perception_encoder.search.ranking import search_index
from perception_encoder.types import Embeddings, ModelIdentity

E = 8


def unit(vectors: NDArray[np.floating]) -> Embeddings:
    rows = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return rows.astype(np.float32)


def made(seed: int, count: int) -> Embeddings:
    return unit(np.random.default_rng(seed).normal(size=(count, E)))


def make_index(folder: Path, vectors: Embeddings, sha256: list[str] | None = None) -> Index:
    index = Index.create(folder / "t.lance", ModelIdentity("m", "f", "standard", E))
    rows = [
        Row(f"/p/{n:05}.png", width=n, sha256=None if sha256 is None else sha256[n])
        for n in range(len(vectors))
    ]
    index.append(rows, vectors)  # which keeps their order
    return index


def query(vector: Embeddings, own: frozenset[str] = frozenset()) -> Query:
    return Query((), vector, own)


def numbers(found: list[SearchResult]) -> list[int]:
    return [int(Path(one.hit.uri).stem) for one in found]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return make_index(tmp_path_factory.mktemp("search"), made(0, 60))


def test_every_query_gets_its_own_best_first(index: Index) -> None:
    queries = [query(vector) for vector in made(1, 3)]
    answers = search_index(index, queries, SearchOptions(k=5))
    stored = index.vectors()
    for one, found in zip(queries, answers, strict=True):
        assert numbers(found) == np.argsort(-(stored @ one.vector))[:5].tolist()
        assert found[0].hit.score == pytest.approx(float((stored @ one.vector).max()), abs=1e-5)
    assert search_index(index, [], SearchOptions()) == []


@pytest.mark.parametrize("unique", [None, 0.5, 0.8])
def test_pages_fit_together(index: Index, unique: float | None) -> None:
    queries = [query(vector) for vector in made(2, 2)]
    whole = search_index(index, queries, SearchOptions(k=12, unique=unique))
    pages = [
        search_index(index, queries, SearchOptions(k=4, offset=offset, unique=unique))
        for offset in (0, 4, 8)
    ]
    for number in range(2):
        joined = [n for page in pages for n in numbers(page[number])]
        assert joined == numbers(whole[number])
    assert search_index(index, queries, SearchOptions(offset=60)) == [[], []]


def test_pages_of_an_approximate_search_fit_together_and_exact_misses_nothing(
    tmp_path: Path,
) -> None:
    centers = made(20, 400)
    stored = unit(np.repeat(centers, 30, axis=0) + 0.4 * made(21, 12_000))
    index = make_index(tmp_path, stored)
    done = optimize_index(index.path, None, sizes=SearcherSizes(copy=1, lists=1))
    assert done.searcher == "approximate"
    index.refresh()
    queries = [query(vector) for vector in unit(centers[:40] + 0.5 * made(22, 40))]
    whole = search_index(index, queries, SearchOptions(k=60))
    pages = [search_index(index, queries, SearchOptions(k=20, offset=n)) for n in (0, 20, 40)]
    exact = search_index(index, queries, SearchOptions(k=60, exact=True))
    vectors = index.vectors()
    for number, one in enumerate(queries):
        assert [n for page in pages for n in numbers(page[number])] == numbers(whole[number])
        assert numbers(exact[number]) == np.argsort(-(vectors @ one.vector))[:60].tolist()


def test_what_a_query_names_is_left_out_where_asked(index: Index) -> None:
    row = next(index.rows(where="width = 7"))
    one = query(index.vectors(where="width = 7")[0], frozenset((row.id, "not there")))
    (found,) = search_index(index, [one], SearchOptions(k=5))
    (without,) = search_index(index, [one], SearchOptions(k=5), leave_out_own=True)
    assert numbers(found)[0] == 7
    assert numbers(without)[:4] == numbers(found)[1:]
    assert len(without) == 5


def test_conditions_and_thresholds_hold(index: Index) -> None:
    one = query(made(3, 1)[0])
    (found,) = search_index(index, [one], SearchOptions(k=60, where="width < 20", threshold=0.1))
    scores = index.vectors()[:20] @ one.vector
    assert sorted(numbers(found)) == np.flatnonzero(scores >= 0.1).tolist()
    with pytest.raises(QueryError, match="wrong"):
        search_index(index, [one], SearchOptions(where="no sql"))


def test_near_duplicates_are_folded_under_the_best_of_them(tmp_path: Path) -> None:
    base = made(4, 5)
    noise = np.random.default_rng(5).normal(size=(5, 6, E)) * 0.01
    copies = unit(base[:, None] + noise).reshape(-1, E)  # 5 motifs, 6 images of each
    index = make_index(tmp_path, copies)
    one = query(base[0])
    (found,) = search_index(index, [one], SearchOptions(k=4, unique=0.95))
    assert [n // 6 for n in numbers(found)] == np.argsort(-(base @ base[0]))[:4].tolist()
    for group in found:
        motif = int(Path(group.hit.uri).stem) // 6
        also = [int(Path(hit.uri).stem) for hit in group.also]
        assert all(n // 6 == motif for n in also)
        scores = [group.hit.score, *(hit.score for hit in group.also)]
        assert scores == sorted(scores, reverse=True)
    assert len(found[0].also) == 5


def test_the_ranking_is_followed_as_far_down_as_copies_reach(tmp_path: Path) -> None:
    far = unit(np.eye(E)[1:4] + 0.1 * np.eye(E)[0])
    copies = np.repeat(np.eye(E, dtype=np.float32)[:1], 200, axis=0)
    index = make_index(tmp_path, np.concatenate([copies, far]))
    (found,) = search_index(index, [query(copies[0])], SearchOptions(k=3, unique=0.95))
    assert numbers(found) == [0, 200, 201]
    assert len(found[0].also) == 199
    (all_of_it,) = search_index(index, [query(copies[0])], SearchOptions(k=10, unique=1))
    assert numbers(all_of_it) == [0, 200, 201, 202]


def test_equal_contents_are_folded_whatever_their_vectors(tmp_path: Path) -> None:
    vectors = made(6, 4)
    index = make_index(tmp_path, vectors, ["a", "b", "a", "c"])
    (found,) = search_index(index, [query(vectors[0])], SearchOptions(unique=1))
    assert len(found) == 3
    group = next(one for one in found if one.also)
    assert {group.hit.sha256, *(hit.sha256 for hit in group.also)} == {"a"}


@given(seed=st.integers(0, 999), cosine=st.floats(0.1, 1), num_groups=st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_groups_hold_every_hit_once_and_keep_the_order(
    seed: int, cosine: float, num_groups: int
) -> None:
    count = seed % 12
    stored = made(seed, max(count, 1))[:count]
    hits = [Hit(str(n), 1 - n / 100, f"/{n}") for n in range(count)]
    vectors = {hit.id: vector for hit, vector in zip(hits, stored, strict=True)}
    groups = fold_hits(hits, vectors=vectors, unique=cosine, num_groups=num_groups)
    assert len(groups) <= num_groups
    leaders = [group[0] for group in groups]
    assert leaders == sorted(leaders, key=lambda hit: -hit.score)
    for number, group in enumerate(groups):
        for hit in group[1:]:
            assert vectors[hit.id] @ vectors[group[0].id] >= cosine - 1e-3
            assert hit.score <= group[0].score
        for other in groups[:number]:
            assert vectors[group[0].id] @ vectors[other[0].id] < cosine
    grouped = [hit.id for group in groups for hit in group]
    assert len(set(grouped)) == len(grouped)
    if len(groups) < num_groups:
        assert set(grouped) == set(vectors)


@pytest.mark.parametrize(
    "wrong",
    [
        {"k": 0},
        {"offset": -1},
        {"unique": 0.0},
        {"unique": 1.1},
        {"unique": -0.5},
        {"bursts": -1.0},
        {"bursts": float("nan")},
    ],
)
def test_impossible_options_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        SearchOptions(**wrong)  # type: ignore[arg-type]
