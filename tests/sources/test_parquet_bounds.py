"""Parquet files that unfold to far more than they are: bounded before they are read."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sources.source_samples import open_one

from perception_encoder.errors import ImageUnreadableError
from perception_encoder.sources import Item
from perception_encoder.sources.item import collect_notes
from perception_encoder.sources.parquet_cells import (
    MAX_PAGE_BYTES,
    bound_repeated_bytes,
    read_page_bounds,
)

MIB = 2**20


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, compression="zstd", store_schema=False, **options)
    return path


def repeated(value: str | bytes, count: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), count), [value])


def peak_of(items: Iterable[Item]) -> tuple[list[Item], int]:
    """The items, and the most memory that Arrow holds while they are listed."""
    before = pa.total_allocated_bytes()
    found, peak = [], 0
    for item in items:
        peak = max(peak, pa.total_allocated_bytes() - before)
        found.append(item)
    return found, peak


def listed(path: Path) -> tuple[list[Item], str]:
    source = open_one(path)
    items = list(source.items())
    return items, " ".join(collect_notes([source]))


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of a few MB, so that files of a few can show them."""
    sources = "perception_encoder.sources"
    monkeypatch.setattr(f"{sources}.parquet_table._BATCH_BYTES", 4 * MIB)
    monkeypatch.setattr(f"{sources}.parquet_cells._MAX_KEPT_BYTES", 8 * MIB)
    monkeypatch.setattr(f"{sources}.columns.MAX_TEXT", 1000)


@pytest.mark.usefixtures("small_limits")
def test_a_text_that_a_dictionary_holds_once_is_not_unfolded_in_all_rows_at_once(
    tmp_path: Path,
) -> None:
    paths = [f"/{number}.png" for number in range(1024)]
    columns = {"path": paths, "note": repeated("x" * (MIB // 16), 1024), "n": list(range(1024))}
    path = write(tmp_path / "t.parquet", columns)
    assert path.stat().st_size < 20_000
    del columns
    found, peak = peak_of(open_one(path).items())
    assert peak < 16 * MIB  # not 64
    assert [item.uri for item in found] == paths
    assert [item.metadata for item in found] == [{"note": None, "n": n} for n in range(1024)]


@pytest.mark.usefixtures("small_limits")
def test_texts_that_share_their_beginnings_are_not_unfolded_all_at_once(tmp_path: Path) -> None:
    notes = [f"{'z' * (MIB // 4)}{number}" for number in range(200)]
    path = write(
        tmp_path / "t.parquet",
        {"path": [f"/{number}.png" for number in range(200)], "note": notes},
        use_dictionary=False,
        column_encoding={"path": "PLAIN", "note": "DELTA_BYTE_ARRAY"},
    )
    assert path.stat().st_size < 20_000
    found, peak = peak_of(open_one(path).items())
    assert peak < 16 * MIB  # not 50
    assert len(found) == 200


@pytest.mark.usefixtures("small_limits")
def test_images_that_a_dictionary_holds_once_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    image = os.urandom(1000) + bytes(2 * MIB)
    path = write(tmp_path / "t.parquet", {"image": repeated(image, 60)})
    items, _ = listed(path)
    assert len(items) == 60
    before = pa.total_allocated_bytes()
    for number in (0, 1, 30, 59):
        assert items[number].read() == image
        assert pa.total_allocated_bytes() - before < 24 * MIB  # not 16 images, nor 128


@pytest.mark.parametrize("column", ["image", "note", "path"])
def test_a_page_larger_than_the_limit_is_refused_by_its_header(
    tmp_path: Path, column: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perception_encoder.sources.parquet_cells.MAX_PAGE_BYTES", 5000)
    columns: dict[str, Any] = {"path": ["/a.png"]}
    columns |= {column: [b"x" * 6000] if column == "image" else ["x" * 6000]}
    path = write(tmp_path / "t.parquet", columns, use_dictionary=False)
    source = open_one(path, column="image" if column == "image" else "path")
    (bad,) = source.items()
    with pytest.raises(ImageUnreadableError, match=r"a page of 6,0\d\d bytes, the limit is 5,000"):
        bad.read()


def test_a_footer_that_says_less_than_the_pages_hold_is_not_gone_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "t.parquet", {"image": [bytes(3 * MIB)]}, use_dictionary=False)
    real = pq.read_metadata(path).row_group(0).column(0)
    assert real.total_uncompressed_size > 3 * MIB

    class Lying:
        total_uncompressed_size = 1
        dictionary_page_offset = None
        data_page_offset = real.data_page_offset
        total_compressed_size = real.total_compressed_size
        num_values = real.num_values
        encodings = real.encodings

    monkeypatch.setattr("perception_encoder.sources.parquet_cells.MAX_PAGE_BYTES", MIB)
    with path.open("rb") as stream, pytest.raises(ValueError, match="a page of 3,1"):
        read_page_bounds(stream, Lying())


def test_more_rows_than_a_file_can_hold_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", {"path": repeated("/a.png", 10**6)})
    (bad,) = listed(path)[0]
    with pytest.raises(ImageUnreadableError, match="1,000,000 rows in a file of"):
        bad.read()


def test_a_list_of_millions_is_left_out_and_said(tmp_path: Path) -> None:
    captions = pa.ListArray.from_arrays([0, 10**6], pa.repeat("a", 10**6))
    path = write(tmp_path / "t.parquet", {"path": ["/a.png"], "captions": captions, "n": [1]})
    (item,), notes = listed(path)
    assert item.metadata == {"n": 1}
    assert "left out 'captions': more than 10,000 values in a row" in notes


def test_bounds_of_pages_are_those_of_the_file_whatever_wrote_it(tmp_path: Path) -> None:
    columns = {
        "s": [f"text {number}" for number in range(5000)],
        "b": [number % 3 == 0 for number in range(5000)],
        "l": [[str(number)] * (number % 3) for number in range(5000)],
        "d": [{"x": number, "y": b"z"} for number in range(5000)],
        "n": [None] * 5000,
    }
    for version in ("1.0", "2.0"):
        for compression in ("none", "snappy", "gzip", "zstd"):
            path = tmp_path / "t.parquet"
            pq.write_table(
                pa.table(columns), path, compression=compression, data_page_version=version,
                data_page_size=1000, row_group_size=2000, write_page_checksum=True,
            )  # fmt: skip
            metadata = pq.read_metadata(path)
            with path.open("rb") as stream:
                for group in range(metadata.num_row_groups):
                    for place in range(metadata.num_columns):
                        chunk = metadata.row_group(group).column(place)
                        bounds = read_page_bounds(stream, chunk)
                        assert bounds.num_values == chunk.num_values
                        assert 0 <= bounds.repeated_bytes <= chunk.total_uncompressed_size
                        assert bound_repeated_bytes(stream, chunk) == bounds.repeated_bytes


def test_headers_of_pages_that_are_damaged_are_our_error(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", {"s": [f"text {number}" for number in range(500)]})
    chunk = pq.read_metadata(path).row_group(0).column(0)
    start = chunk.dictionary_page_offset
    data = path.read_bytes()
    for place in range(30):
        for value in (0, 0x15, 0x7F, 0x8C, 0xFF):
            changed = bytearray(data)
            changed[start + place] = value
            path.write_bytes(changed)
            with path.open("rb") as stream:
                try:
                    bounds = read_page_bounds(stream, chunk)
                except ValueError as err:
                    assert "page" in str(err)  # noqa: PT017  many of these are still right
                else:
                    assert 0 <= bounds.repeated_bytes <= MAX_PAGE_BYTES
