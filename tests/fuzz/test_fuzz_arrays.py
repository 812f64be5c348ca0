"""Whatever bytes a `.npy` holds, they are vectors of the stated number, or an error of ours."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from perception_encoder.errors import ExchangeError
from perception_encoder.index.exchange.vector_files import NpyArray

HEADER = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }"
VALID = HEADER.ljust(127) + b"\n" + np.eye(3, 4, dtype="<f4").tobytes()
EDITS = st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=4)


@given(EDITS, st.integers(0, len(VALID)), st.binary(max_size=40))
def test_any_bytes_are_vectors_or_refused(
    edits: list[tuple[int, int]], cut: int, more: bytes
) -> None:
    content = bytearray(VALID)
    for place, value in edits:
        content[place] = value
    content[cut : cut + len(more)] = more
    with TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        path.write_bytes(content)
        try:
            array = NpyArray(str(path))
        except ExchangeError:
            return
        rows = array.rows(0, array.num_rows)
    assert rows.shape == (array.num_rows, array.embed_dim)
    assert array.num_rows * array.embed_dim <= len(content)
