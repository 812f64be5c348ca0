"""Single cells of a parquet column, read nearly in order by several threads."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import accumulate, islice
from typing import Any, Final

from perception_encoder.pipeline.sources.forward import ForwardReader

_CHUNK_ROWS: Final = 16


class CellReader:
    """Reads a few rows at a time, so that a row group need not fit in memory.

    Damage costs the row group that has it, or less.

    Args:
        open_file: opens the `pyarrow.parquet.ParquetFile`.
        column: whose cells to read.
        num_rows: of each row group.
        num_kept: chunks of 16 rows that are kept for other threads.
    """

    def __init__(
        self,
        open_file: Callable[[], AbstractContextManager[Any]],
        column: str,
        num_rows: Sequence[int],
        *,
        num_kept: int = 8,
    ) -> None:
        self._first_rows = list(accumulate(num_rows, initial=0))
        self._first_chunks = list(accumulate((-(-n // _CHUNK_ROWS) for n in num_rows), initial=0))
        chunks = partial(_chunks, open_file, column, self._first_chunks)
        self._reader: ForwardReader[Any] = ForwardReader(chunks, num_kept=num_kept)

    def cell(self, row: int) -> object:
        """Return the cell of a row.

        Raises:
            EOFError: there is no such row.
            Exception: whatever reading raises.
        """
        if not 0 <= row < self._first_rows[-1]:
            raise EOFError(f"there is no row {row}")
        group = bisect_right(self._first_rows, row) - 1
        chunk, place = divmod(row - self._first_rows[group], _CHUNK_ROWS)
        cell: object = self._reader.read(self._first_chunks[group] + chunk)[place].as_py()
        return cell


def _chunks(
    open_file: Callable[[], AbstractContextManager[Any]],
    column: str,
    first_chunks: Sequence[int],
    start: int,
) -> Iterator[Any]:
    """Read arrays of cells from the given chunk to the end of its row group."""
    group = bisect_right(first_chunks, start) - 1
    with open_file() as file:
        batches = file.iter_batches(
            _CHUNK_ROWS, row_groups=[group], columns=[column], use_threads=False
        )
        chunks = _regrouped(batch[column] for batch in batches)
        yield from islice(chunks, start - first_chunks[group], None)


def _regrouped(arrays: Iterator[Any]) -> Iterator[Any]:
    """Cut arrays of any sizes into such of `_CHUNK_ROWS` cells, the last one shorter."""
    import pyarrow as pa

    waiting = None
    for array in arrays:
        cells = array if waiting is None else pa.concat_arrays([waiting, array])
        while len(cells) >= _CHUNK_ROWS:
            yield cells[:_CHUNK_ROWS]
            cells = cells[_CHUNK_ROWS:]
        waiting = cells if len(cells) else None
    if waiting is not None:
        yield waiting
