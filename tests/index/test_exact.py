import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from perception_encoder.index.exact import ExactSearch, check_unit_vectors


def random_unit(rng: np.random.Generator, rows: int, embed_dim: int) -> NDArray[np.float32]:
    vectors = rng.standard_normal((rows, embed_dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def search(
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    k: int,
    *,
    blocks: int = 1,
    threshold: float | None = None,
) -> list[list[tuple[float, int]]]:
    best = ExactSearch[int](queries, k, threshold)
    start = 0
    for block in np.array_split(vectors, blocks):
        best.add(block, lambda row, start=start: start + row)
        start += len(block)
    return [[tuple(scored) for scored in result] for result in best.results()]


@settings(deadline=None)
@given(
    rows=st.integers(0, 60),
    num_queries=st.integers(1, 6),
    k=st.integers(1, 70),
    blocks=st.integers(1, 5),
    embed_dim=st.sampled_from([2, 33]),
    copies=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_results_are_those_of_sorting_every_product(
    rows: int, num_queries: int, k: int, blocks: int, embed_dim: int, copies: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    vectors = random_unit(rng, rows, embed_dim)
    if copies and rows:
        vectors = vectors[rng.integers(0, rows, rows) // 3]  # many ties
    queries = random_unit(rng, num_queries, embed_dim)
    exact = (vectors.astype(np.float64)[:, None] * queries.astype(np.float64)).sum(axis=2)
    expected = [
        sorted(range(rows), key=lambda row, q=q: (-min(exact[row, q], 1.0), row))[:k]
        for q in range(num_queries)
    ]
    found = search(vectors, queries, k, blocks=blocks)
    assert [[row for _, row in result] for result in found] == expected
    for query, result in enumerate(found):
        np.testing.assert_allclose(
            [score for score, _ in result], exact[expected[query], query], atol=1e-12
        )


def test_equal_vectors_score_equal_wherever_they_lie() -> None:
    rng = np.random.default_rng(0)
    vectors = random_unit(rng, 500, 129)
    vectors[rng.permutation(500)[:100]] = vectors[0]
    (result,) = search(vectors, vectors[:1], 50, blocks=3)
    assert len({score for score, _ in result}) == 1
    assert [row for _, row in result] == sorted(row for _, row in result)


def test_a_threshold_leaves_lower_scores_out() -> None:
    vectors = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
    query = np.array([[1, 0]], np.float32)
    found = search(vectors, query, 3, threshold=0.5)[0]
    assert [row for _, row in found] == [0, 1]
    assert search(vectors[2:], query, 3, threshold=0.5) == [[]]


def test_scores_never_leave_the_cosine_s_range() -> None:
    vector = np.array([[1.004, 0.0], [-1.004, 0.0]], np.float32)  # rounded a little too long
    ((first, second),) = search(vector, np.array([[1, 0]], np.float32), 2)
    assert (first[0], second[0]) == (1.0, -1.0)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros((2, 4)), "number 0 has length 0"),
        (np.array([[1, 0, 0, 0], [2, 0, 0, 0]]), "number 1 has length 2"),
        (np.full((1, 4), np.nan), "length nan"),
        (np.ones(4), r"expected shape \(N, 4\), got \(4,\)"),
        (np.ones((1, 5)), r"expected shape \(N, 4\), got \(1, 5\)"),
    ],
)
def test_vectors_that_are_no_unit_vectors_are_refused(
    vectors: NDArray[np.float64], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_unit_vectors(vectors, 4, "vectors")
