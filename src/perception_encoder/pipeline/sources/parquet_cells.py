"""Single cells of a parquet column, read nearly in order by several threads."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import accumulate, islice
from typing import IO, Any, Final, NamedTuple

from perception_encoder.pipeline.sources.forward import ForwardReader
from perception_encoder.pipeline.sources.parquet_pages import page_bounds

_MAX_CHUNK_ROWS: Final = 16
_MAX_KEPT_BYTES: Final = 256 * 2**20


class OpenParquet(NamedTuple):
    """A `pyarrow.parquet.ParquetFile`, and the stream it reads."""

    file: Any
    stream: IO[bytes]


class CellReader:
    """Reads a few rows at a time, so that a row group need not fit in memory.

    Damage costs the row group that has it, or less.

    Args:
        open_file: opens the file.
        column: whose cells to read.
        num_rows: of each row group.
        row_bytes: how large a row of the column is on average.
        num_kept: chunks of up to 16 rows that are kept for other threads.
    """

    def __init__(
        self,
        open_file: Callable[[], AbstractContextManager[OpenParquet]],
        column: str,
        num_rows: Sequence[int],
        *,
        row_bytes: int,
        num_kept: int = 8,
    ) -> None:
        self._size = size = rows_within(_MAX_KEPT_BYTES // num_kept, row_bytes, _MAX_CHUNK_ROWS)
        self._first_rows = list(accumulate(num_rows, initial=0))
        self._first_chunks = list(accumulate((-(-n // size) for n in num_rows), initial=0))
        chunks = partial(_chunks, open_file, column, self._first_chunks, size)
        self._reader: ForwardReader[Any] = ForwardReader(
            chunks, num_kept=num_kept, size_of=_num_bytes, max_size=_MAX_KEPT_BYTES
        )

    def cell(self, row: int) -> object:
        """Return the cell of a row.

        Raises:
            EOFError: there is no such row.
            Exception: whatever reading raises.
        """
        if not 0 <= row < self._first_rows[-1]:
            raise EOFError(f"there is no row {row}")
        group = bisect_right(self._first_rows, row) - 1
        chunk, place = divmod(row - self._first_rows[group], self._size)
        cell: object = self._reader.read(self._first_chunks[group] + chunk)[place].as_py()
        return cell


def rows_within(num_bytes: int, row_bytes: int, max_rows: int) -> int:
    """Return how many rows to read at once so that they stay within so many bytes; at least 1."""
    return max(1, min(max_rows, num_bytes // max(1, row_bytes)))


def chunk_places(schema: Any) -> dict[str, range]:
    """Return which chunks of a row group hold each column: of a struct, one for each field."""
    places: dict[str, range] = {}
    first = 0
    for field in schema:
        count = _num_leaves(field.type)
        places[field.name] = range(first, first + count)
        first += count
    return places


def _num_leaves(type_: Any) -> int:
    from pyarrow import types

    if types.is_struct(type_) or types.is_map(type_):
        return sum(_num_leaves(type_.field(place).type) for place in range(type_.num_fields))
    if types.is_nested(type_):  # lists of all kinds
        return _num_leaves(type_.value_type)
    return 1


def _num_bytes(array: Any) -> int:
    return int(array.nbytes)


def _chunks(
    open_file: Callable[[], AbstractContextManager[OpenParquet]],
    column: str,
    first_chunks: Sequence[int],
    size: int,
    start: int,
) -> Iterator[Any]:
    """Read arrays of cells from the given chunk to the end of its row group."""
    group = bisect_right(first_chunks, start) - 1
    with open_file() as (file, stream):
        row_group = file.metadata.row_group(group)
        places = chunk_places(file.schema_arrow)[column]
        bounds = [page_bounds(stream, row_group.column(place)) for place in places]
        repeated_bytes = sum(bound.repeated_bytes for bound in bounds)
        batches = file.iter_batches(
            rows_within(_MAX_KEPT_BYTES, repeated_bytes, size),
            row_groups=[group],
            columns=[column],
            use_threads=False,
        )
        chunks = _regrouped((batch[column] for batch in batches), size)
        yield from islice(chunks, start - first_chunks[group], None)


def _regrouped(arrays: Iterator[Any], size: int) -> Iterator[Any]:
    """Cut arrays of any sizes into such of so many cells, the last one shorter."""
    import pyarrow as pa

    waiting = None
    for array in arrays:
        cells = array if waiting is None else pa.concat_arrays([waiting, array])
        while len(cells) >= size:
            yield cells[:size]
            cells = cells[size:]
        waiting = cells if len(cells) else None
    if waiting is not None:
        yield waiting
