"""Pages of a mapped file are checked where rows are read, and nowhere else."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_encoder.index.checksums import (
    PAGE_BYTES,
    CheckedFile,
    SearcherDamageError,
    sum_blocks_of_file,
)


def write(path: Path, size: int) -> np.ndarray:
    """Write random bytes, and return the sums of the pages."""
    path.write_bytes(np.random.default_rng(0).bytes(size))
    return sum_blocks_of_file(str(path), block_bytes=PAGE_BYTES)


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


@given(
    row_bytes=st.sampled_from([6, 512, 2048, 3000, 4096, 9000]),
    num_rows=st.integers(1, 40),
    wanted=st.sets(st.integers(0, 39), min_size=1),
    data=st.data(),
)
def test_a_changed_byte_is_found_by_the_rows_of_its_page(
    tmp_path_factory, row_bytes, num_rows, wanted, data
):
    path = tmp_path_factory.mktemp("checked") / "rows"
    sums = write(path, row_bytes * num_rows)
    place = data.draw(st.integers(0, row_bytes * num_rows - 1))
    flip(path, place)
    rows = np.array(sorted({number % num_rows for number in wanted}))
    file = CheckedFile(str(path), sums)
    page = place // PAGE_BYTES
    firsts, lasts = rows * row_bytes // PAGE_BYTES, ((rows + 1) * row_bytes - 1) // PAGE_BYTES
    if ((firsts <= page) & (page <= lasts)).any():
        with pytest.raises(SearcherDamageError, match=f"at byte {page * PAGE_BYTES} or after"):
            file.check_rows(rows, row_bytes)
        return
    file.check_rows(rows, row_bytes)
    assert 0 < file.checked_share <= 1
    with pytest.raises(SearcherDamageError):
        file.check_all()


@pytest.mark.parametrize("size", [1, PAGE_BYTES, 5 * PAGE_BYTES + 7])
def test_what_was_checked_is_not_checked_again(tmp_path, size):
    sums = write(tmp_path / "rows", size)
    file = CheckedFile(str(tmp_path / "rows"), sums)
    file.check(0, 1)
    assert file.checked_share == 1 / -(-size // PAGE_BYTES)
    file.check_all()
    assert file.checked_share == 1
    flip(tmp_path / "rows", size - 1)
    file.check_all()


def test_sums_of_another_file_are_refused(tmp_path):
    sums = write(tmp_path / "rows", 3 * PAGE_BYTES)
    write(tmp_path / "rows", 3 * PAGE_BYTES + 1)
    with pytest.raises(ValueError, match="has 4 pages, not 3"):
        CheckedFile(str(tmp_path / "rows"), sums)
