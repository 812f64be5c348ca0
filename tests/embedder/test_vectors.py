import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from perception_encoder.embedder.options import check_output, finish_output
from perception_encoder.vectors import cosine_similarity, find_nearest_rows, normalize_rows

ROWS = arrays.arrays(
    np.float32,
    st.tuples(st.integers(0, 5), st.just(4)),
    elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
)


@given(ROWS)
def test_rows_become_unit_length_or_stay_zero(rows):
    before = rows.copy()
    lengths = np.linalg.norm(normalize_rows(rows).astype(np.float64), axis=1)
    assert np.array_equal(rows, before)
    assert np.all(
        (np.abs(lengths - 1) < 1e-3) | (lengths == 0) | (np.abs(rows).max(axis=1) < 1e-15)
    )


@given(ROWS, ROWS)
def test_cosine_is_bounded_and_symmetric(a, b):
    scores = cosine_similarity(a, b)
    assert scores.shape == (len(a), len(b))
    assert np.all(np.abs(scores) <= 1)
    assert np.allclose(scores, cosine_similarity(b, a).T, atol=1e-6)


@pytest.mark.parametrize("dim", [1, 3, 4, None])
def test_cutting_keeps_the_first_numbers_and_normalizes_after(dim):
    rows = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
    kept = finish_output(rows, normalize=False, truncate_dim=dim, output="numpy")
    assert np.array_equal(kept, rows[:, :dim])
    whole = finish_output(rows, normalize=True, truncate_dim=dim, output="numpy")
    assert np.allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)
    assert whole.flags.c_contiguous


@pytest.mark.parametrize(("dim", "output"), [(0, "numpy"), (5, "numpy"), (2, "list")])
def test_what_cannot_be_handed_out_is_refused_before_any_work(dim, output):
    with pytest.raises(ValueError, match=r"truncate_dim must be|output must be"):
        check_output(4, dim, output)


@pytest.mark.parametrize(("num_queries", "num_rows", "k"), [(1, 1, 1), (40, 7, 7), (300, 90, 1)])
@pytest.mark.parametrize("products", [1 << 23, 100])
def test_the_nearest_rows_are_those_of_the_largest_products(
    num_queries: int, num_rows: int, k: int, products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perception_encoder.vectors._PRODUCTS", products)
    random = np.random.default_rng(num_rows)
    queries = random.standard_normal((num_queries, 5)).astype(np.float32)
    rows = random.standard_normal((num_rows, 5)).astype(np.float32)
    scores, places = find_nearest_rows(queries, rows, k)
    expected = np.argsort(-(queries @ rows.T), axis=1, kind="stable")[:, :k]
    assert np.array_equal(places, expected)
    assert scores == pytest.approx(np.take_along_axis(queries @ rows.T, expected, 1), abs=1e-5)


def test_of_equal_rows_the_first_is_nearest() -> None:
    rows = np.repeat(np.eye(3, dtype=np.float32), 2, axis=0)
    assert find_nearest_rows(rows, rows, 2)[1].tolist() == [
        [0, 1],
        [0, 1],
        [2, 3],
        [2, 3],
        [4, 5],
        [4, 5],
    ]
    assert find_nearest_rows(rows, rows, 1)[1].ravel().tolist() == [0, 0, 2, 2, 4, 4]
