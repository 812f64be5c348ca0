import hashlib

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from perception_encoder.index.known_rows import DigestMap, digests_of, digests_of_column

_HEX = st.text("0123456789abcdef", min_size=32, max_size=64)


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_digests_are_the_numbers_that_the_digits_spell() -> None:
    text = "0123456789abcdef" + "00000000000000ff"
    assert digests_of([text, text + "aa"]).tolist() == [[0x0123456789ABCDEF, 0xFF]] * 2
    assert digests_of([]).shape == (0, 2)


@given(
    st.lists(st.tuples(_HEX, st.integers(0, 2**60)), max_size=80),
    st.lists(_HEX, max_size=5),
    st.integers(1, 9),
    st.sampled_from([0, 2, 5, 1000]),
)
def test_a_digest_map_answers_like_a_dict(
    pairs: list[tuple[str, int]], others: list[str], step: int, max_recent: int
) -> None:
    mapping, oracle = DigestMap(max_recent), dict[str, int]()
    for start in range(0, len(pairs), step):
        part = pairs[start : start + step]
        mapping.add(digests_of([key for key, _ in part]), numbers(*(value for _, value in part)))
        oracle |= {key[:32]: value for key, value in part}
    asked = [key for key, _ in pairs] + others
    expected = [oracle.get(key[:32], -1) for key in asked]
    assert mapping.find(digests_of(asked)).tolist() == expected
    assert len(mapping) == len(oracle)


def test_digests_that_share_half_of_their_bits_are_told_apart() -> None:
    texts = ["ab" * 8 + f"{low:016x}" for low in (5, 1, 9, 3)]
    mapping = DigestMap(max_recent=2)
    for place, text in enumerate(texts):
        mapping.add(digests_of([text]), numbers(place))
    other = ["ab" * 8 + f"{4:016x}"]
    assert mapping.find(digests_of([*reversed(texts), *other])).tolist() == [3, 2, 1, 0, -1]


def test_a_hundred_thousand_entries_are_all_found_again() -> None:
    texts = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(100_000)]
    mapping = DigestMap()
    half = len(texts) // 2
    mapping.add(digests_of(texts[:half]), np.arange(half))
    for start in range(half, len(texts), 1000):
        mapping.add(digests_of(texts[start : start + 1000]), np.arange(start, start + 1000))
    assert np.array_equal(mapping.find(digests_of(texts)), np.arange(len(texts)))


@given(st.lists(_HEX | st.text(max_size=40)), st.integers(0, 3))
def test_a_column_has_the_digests_of_its_texts(texts: list[str], offset: int) -> None:
    column = pa.array(["0" * 32] * offset + texts, pa.string())[offset:]
    assert digests_of_column(column).tolist() == digests_of(texts).tolist()


def test_the_last_number_of_a_digest_counts_however_many_were_added_since() -> None:
    texts = [hashlib.sha256(bytes([place])).hexdigest() for place in range(60)]
    mapping = DigestMap(max_recent=3)
    for place in range(300):
        mapping.add(digests_of([texts[place % 60]]), numbers(place))
    assert mapping.find(digests_of(texts)).tolist() == list(range(240, 300))
    assert sorted(mapping.numbers()) == list(range(240, 300))
