"""The pixel statistics of all images of an index, remembered in the index's folder.

They are remembered by the SHA-256 of the encoded image: copies are measured once, and a second run
reads only what is new. Images without one (imported rows), segments of videos, and indexes on
object storage are not remembered; segments are not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.analysis.cleaning.pixels import PixelStatistics, ReadImage, iter_statistics
from perception_encoder.analysis.ranked_images import Numbers, RankedImages, ReportStep
from perception_encoder.atomic import atomic_write
from perception_encoder.errors import ImageError
from perception_encoder.index import Index
from perception_encoder.index.storage import is_remote, sidecar_path

if TYPE_CHECKING:
    import pyarrow as pa

NAME: Final = "pixels.parquet"
_FORMAT: Final = b"1"  # raise it where measures change
_KEY: Final = "sha256"
_MAX_FAILURES: Final = 10_000  # of those remembered with their reason


@dataclass(frozen=True)
class MeasuredPixels:
    """The pixel statistics of R images.

    Attributes:
        values: (R, 5) float32, the fields of `PixelStatistics`; NaN where unknown.
        failures: numbers of images that could not be read, and why; at most 10,000.
        num_failed: number of images that could not be read.
        num_skipped: number of images that are segments of videos.
        num_reused: number of images whose statistics were known.
    """

    values: NDArray[np.float32]
    failures: Sequence[tuple[int, str]]
    num_failed: int
    num_skipped: int
    num_reused: int


def measure_pixels(
    index: Index, images: RankedImages, read: ReadImage, where: str | None, report: ReportStep
) -> MeasuredPixels:
    """Measure the images that were not measured before.

    Args:
        index: the index.
        images: its images.
        read: returns an image's encoded bytes.
        where: the condition that `images` was made with.
        report: called before each image; what is measured is remembered if it raises.
    """
    keys = _read_keys(index, images, where)
    memory = _Memory(index)
    values = memory.look_up(keys)
    is_known = ~np.isnan(values[:, -1])
    is_first = images.contents == np.arange(len(images))
    todo = [int(number) for number in np.flatnonzero(~is_known & is_first)]
    numbers = [number for number in todo if images.row(number).moment is None]
    failures: list[tuple[int, str]] = []
    num_failed = 0
    try:
        measured = iter_statistics(map(images.row, numbers), read)
        for place, (number, (_, found)) in enumerate(zip(numbers, measured, strict=True)):
            report("measuring pixels", place, len(numbers))
            if not isinstance(found, ImageError | OSError):
                values[number] = found
                continue
            num_failed += 1
            if len(failures) < _MAX_FAILURES:
                failures.append((number, str(found)))
    finally:
        if numbers:
            memory.save(keys, values)
    return MeasuredPixels(
        values=values[images.contents],
        failures=failures,
        num_failed=num_failed,
        num_skipped=len(todo) - len(numbers),
        num_reused=int(is_known.sum()),
    )


def _read_keys(index: Index, images: RankedImages, where: str | None) -> pa.Array:
    """Return the SHA-256 of each image, in the order of the images."""
    import pyarrow as pa

    columns = [batch[_KEY] for batch in index.scan([_KEY], where=where)]
    if not columns:
        return pa.array([], pa.string())
    rows = np.empty(len(images), np.int64)
    rows[images.numbers] = np.arange(len(images))
    return pa.concat_arrays(columns).take(pa.array(rows))


class _Memory:
    """The statistics in the index's folder."""

    def __init__(self, index: Index) -> None:
        self._path = None if is_remote(index.path) else Path(sidecar_path(index.path, NAME))
        self._table = None if self._path is None else _read(self._path)

    def look_up(self, keys: pa.Array) -> NDArray[np.float32]:
        """Return (R, 5) float32, NaN where nothing is known."""
        import pyarrow.compute as pc

        values = np.full((len(keys), len(PixelStatistics._fields)), np.nan, np.float32)
        if self._table is None or not len(keys):
            return values
        places = pc.index_in(keys, self._table[_KEY].combine_chunks(), skip_nulls=True)
        is_known = places.is_valid().to_numpy(zero_copy_only=False)
        rows: Numbers = places.drop_null().to_numpy()
        for position, name in enumerate(PixelStatistics._fields):
            values[is_known, position] = self._table[name].to_numpy()[rows]
        return values

    def save(self, keys: pa.Array, values: NDArray[np.float32]) -> None:
        """Remember what is known; a folder that cannot be written changes nothing."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._path is None:
            return
        is_kept = ~np.isnan(values[:, -1]) & keys.is_valid().to_numpy(zero_copy_only=False)
        columns = dict(zip(PixelStatistics._fields, values[is_kept].T, strict=True))
        table = pa.table({_KEY: keys.filter(pa.array(is_kept)), **columns})
        if self._table is not None:  # of images that another condition chose
            table = pa.concat_tables([table, self._table.replace_schema_metadata(None)])
            table = _without_repeats(table)
        with suppress(OSError), atomic_write(self._path) as partial:
            pq.write_table(table.replace_schema_metadata({b"format": _FORMAT}), partial)


def _read(path: Path) -> pa.Table | None:
    """Return the remembered statistics; None if there are none or they are damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException):
        return None
    expected = {_KEY: pa.string(), **dict.fromkeys(PixelStatistics._fields, pa.float32())}
    is_ours = dict(zip(table.schema.names, table.schema.types, strict=True)) == expected
    if not is_ours or (table.schema.metadata or {}).get(b"format") != _FORMAT:
        return None
    return table


def _without_repeats(table: pa.Table) -> pa.Table:
    keys = table[_KEY].combine_chunks().dictionary_encode().indices.to_numpy()
    return table.take(np.unique(keys, return_index=True)[1])
