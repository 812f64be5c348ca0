"""Columns as conditions name them: found whatever the capitals and the Unicode form."""

from __future__ import annotations

import difflib
import unicodedata
from typing import TYPE_CHECKING, Final

from perception_encoder.errors import QueryError
from perception_encoder.index.condition_tokens import shortened

if TYPE_CHECKING:
    import pyarrow as pa

_HIDDEN: Final = frozenset(("_rowid", "_rowaddr", "_rowoffset"))  # Lance's own numbers of rows


class Columns:
    """Finds columns by what people call them."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._names: frozenset[str] = frozenset(schema.names)

    def find(self, name: str) -> str | None:
        """Return the column that a name means; None where there is none.

        Raises:
            QueryError: there are several.
        """
        if name in _HIDDEN:
            return name
        if name in self._names:
            return name if "`" not in name else None
        for alike in (_composed, _folded):
            found = sorted(column for column in self._names if alike(column) == alike(name))
            if len(found) > 1:
                raise QueryError(
                    f"{shortened(name)} could be the column {' or '.join(map(repr, found))}; write "
                    "it in the capitals and the Unicode form of one of them"
                )
            if found:
                return found[0]
        return None

    def hint(self, name: str) -> str:
        """Return how to go on after a name that is no column's."""
        names = self._schema.names
        close = difflib.get_close_matches(_folded(name)[:100], map(_folded, names), n=3)
        if close:
            meant = [column for column in names if _folded(column) in close]
            return f"; did you mean {' or '.join(map(repr, meant[:3]))}?"
        return f"; there are: {', '.join(names[:30])}{', …' if len(names) > 30 else ''}"

    def field(self, name: str) -> pa.Field | None:
        """Return the column of exactly that name."""
        if name not in self._names:
            return None
        field: pa.Field = self._schema.field(name)
        return field

    def has_parts(self, name: str) -> bool:
        """Whether it is a column of records."""
        from pyarrow import types

        return name in self._names and types.is_struct(self._schema.field(name).type)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(name).casefold()
