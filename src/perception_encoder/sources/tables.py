"""Tables as sources: parquet, CSV and JSON lines, one or several of the same columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from perception_encoder.errors import ImageError, ImageNotFoundError, SourceError
from perception_encoder.index import item_name
from perception_encoder.sources.access import FileAccess
from perception_encoder.sources.columns import (
    ColumnKind,
    image_column,
    split_row_key,
)
from perception_encoder.sources.item import Item, broken, scheme
from perception_encoder.sources.parquet_table import ParquetTable
from perception_encoder.sources.select import suffix
from perception_encoder.sources.text_table import TextTable


class Table(Protocol):
    """One file of rows, whatever its format."""

    def kinds(self) -> Mapping[str, ColumnKind]:
        """Return what each column holds."""
        ...

    def items(self, column: str) -> Iterator[Item]:
        """Yield the images that a column holds or names."""
        ...

    def notes(self) -> list[str]:
        """Say what `items` has left out, when it has ended."""
        ...

    def read_row(self, column: str, number: int) -> bytes:
        """Read the image in a row again."""
        ...


class TableSource:
    """Tables on this machine or elsewhere.

    Args:
        name: as they were given.
        uris: absolute paths or URLs.
        access: reads them.
        column: the column with the images; found by its name or type if None.
        once_held: says which other tables the name would have meant, had they existed.
        leaves_out: says which other tables the name means that are to be left out.
    """

    def __init__(
        self,
        name: str,
        uris: Sequence[str],
        access: FileAccess,
        column: str | None,
        once_held: Callable[[str], bool] = lambda _: False,
        leaves_out: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self.name = name
        self._uris = uris
        self._known = frozenset(uris)
        self._access = access
        self._column = column
        self._once_held = once_held
        self._leaves_out = leaves_out
        self._notes: list[str] = []
        self._damaged = set[str]()

    def check(self) -> None:
        """See whether the first table has images; one that is damaged is met again in `items`.

        Raises:
            SourceError: no column holds any.
        """
        try:
            self._find_column(self._uris[0])
        except SourceError:
            raise
        except Exception:  # noqa: BLE001 — `items` reports it, and goes on to the next table
            return

    def items(self) -> Iterator[Item]:
        """List the images of each table in its own order."""
        self._damaged.clear()
        self._notes.clear()
        for uri in self._uris:
            table = table_at(uri, self._access)
            try:
                yield from table.items(image_column(uri, table.kinds(), self._column))
                self._notes += [f"{uri}: {note}" for note in table.notes()]
            except Exception as err:  # noqa: BLE001 — one table must not end the run
                self._damaged.add(uri)
                is_ours = isinstance(err, ImageError | SourceError)
                reason = str(err) if is_ours else f"the table is damaged: {err}; fetch it again"
                yield broken(uri, reason, is_remote=bool(scheme(uri)))

    def covers(self, uri: str, member: str | None) -> bool:  # noqa: ARG002 — the Protocol's
        """Say whether `items` would list this row; of images elsewhere that is never known."""
        return uri not in self._damaged and (uri in self._known or self._once_held(uri))

    def notes(self) -> list[str]:
        """Say what of the tables was left out."""
        return list(self._notes)

    def leaves_out(self, uri: str, member: str | None) -> bool:  # noqa: ARG002 — the Protocol's
        """Say whether the table is left out by a pattern."""
        return uri not in self._known and self._leaves_out(uri)

    def _find_column(self, uri: str) -> str:
        return image_column(uri, table_at(uri, self._access).kinds(), self._column)


def table_at(uri: str, access: FileAccess) -> Table:
    """Return the table in a file, by how its name ends."""
    return ParquetTable(uri, access) if suffix(uri) == ".parquet" else TextTable(uri, access)


def read_row(access: FileAccess, uri: str, member: str) -> bytes:
    """Read the image in a table's row again.

    Raises:
        ImageNotFoundError: the table, or the row in it, is gone.
        ImageError: it cannot be read.
    """
    key = split_row_key(member)
    if key is None:
        item = item_name(uri, member)
        raise ImageNotFoundError(f"{item}: no image of a row is named so", item=item)
    return table_at(uri, access).read_row(*key)
