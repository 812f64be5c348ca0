"""The place of what is right, beside a search by hand in exact numbers."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_encoder.analysis import evaluation as ranks
from perception_encoder.analysis.evaluation import rank_candidates, rank_right_columns

VECTORS = np.array([[3, 4], [4, 3], [-3, 4], [0, 5], [5, 0]], np.float32)  # of length 5


def test_a_tie_counts_against_the_model() -> None:
    scores = np.array([[0.5, 0.5, 0.1], [0.2, 0.9, 0.9], [0.3, 0.2, 0.1]], np.float32)
    found, others = rank_right_columns(scores, [[0], [0], [0, 2]])
    assert found.tolist() == [1, 2, 0]
    assert others.tolist() == [1, 1, 1]


def test_of_several_that_are_right_the_best_counts() -> None:
    scores = np.array([[0.9, 0.8, 0.7, 0.6]], np.float32)
    assert rank_right_columns(scores.copy(), [[3, 1]])[0].tolist() == [1]
    assert rank_right_columns(scores.copy(), [[3, 2]])[0].tolist() == [2]
    assert rank_right_columns(np.empty((0, 4), np.float32), [])[0].tolist() == []


@st.composite
def searches(draw: st.DrawFn) -> tuple[list[int], list[int], list[list[int]]]:
    """Queries and candidates as numbers of `VECTORS`, many of them alike, and what is right."""
    candidates = draw(st.lists(st.integers(0, 4), min_size=1, max_size=9))
    queries = draw(st.lists(st.integers(0, 4), min_size=1, max_size=7))
    right = st.lists(st.sampled_from(range(len(candidates))), min_size=1, unique=True)
    return queries, candidates, [draw(right) for _ in queries]


@given(searches(), st.sampled_from([1, 40, 2**20]))
def test_ranks_are_those_of_a_search_by_hand(
    search: tuple[list[int], list[int], list[list[int]]], block_bytes: int
) -> None:
    queries, candidates, right = search
    expected = []
    for query, answers in zip(queries, right, strict=True):
        scores = [
            sum(
                Fraction(int(a)) * int(b) for a, b in zip(VECTORS[query], VECTORS[one], strict=True)
            )
            for one in candidates
        ]
        best = max(scores[one] for one in answers)
        wrong = [score for one, score in enumerate(scores) if one not in answers]
        expected.append(sum(score >= best for score in wrong))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "_BLOCK_BYTES", block_bytes)
        found = rank_candidates(VECTORS[queries] / 5, VECTORS[candidates] / 5, right)
    assert found.tolist() == expected


def test_never_more_than_a_block_of_scores_is_made() -> None:
    shapes = []

    class Seen(np.ndarray):
        def __matmul__(self, other: np.ndarray) -> np.ndarray:  # type: ignore[override]
            shapes.append((len(self), other.shape[1]))
            return np.asarray(self) @ np.asarray(other)

    vectors = np.eye(30, dtype=np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "_BLOCK_BYTES", 4 * 30 * 8)
        found = rank_candidates(vectors.view(Seen), vectors, [[n] for n in range(30)])
    assert found.tolist() == [0] * 30
    assert shapes == [(8, 30), (8, 30), (8, 30), (6, 30)]
