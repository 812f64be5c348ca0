"""Names of a table's items: how they are shown, and which item a name means.

The name of a plain file is its uri; that of a picture inside an archive is the archive's uri, a
slash, and its name in there.
"""

import os
import re
from itertools import islice
from typing import Final

from perception_encoder.errors import QueryError
from perception_encoder.index import Index, Row, row_id
from perception_encoder.types import Embeddings

_ID: Final = re.compile(r"[0-9a-f]{32}")
_NAME: Final = "coalesce(uri || '/' || member, uri)"  # `item_name` in SQL
_NUM_SHOWN: Final = 5


def find_item(index: Index, name: str) -> tuple[Row, Embeddings]:
    """Find the one item that a name means.

    Args:
        index: the table.
        name: an item's id; its name; the path of an indexed file from the current folder; or the
            end of its name, if that of no other ends so. Whole file names win over parts.

    Returns:
        The row and its (E,) vector.

    Raises:
        QueryError: there is none, or there are several.
    """
    ids = [name, row_id(name), row_id(os.path.abspath(name))]
    known = index.by_ids(ids if _ID.fullmatch(name) else ids[1:])
    for key in ids:
        if key in known:
            return known[key]
    for ending in (f"/{name}", name):
        found = _ending_in(index, ending)
        if len(found) > 1:
            shown = "".join(f"\n  @{row.id}  {row.name}" for row in found[:_NUM_SHOWN])
            more = "\n  …" if len(found) > _NUM_SHOWN else ""
            raise QueryError(
                f"@{name} could be several items of {index.path}; write more of the name, or one "
                f"of these ids:{shown}{more}"
            )
        if found:
            return index.by_ids([found[0].id])[found[0].id]
    raise QueryError(
        f"{index.path} has no item whose name ends in {name!r}; look it up with `pe search`, or "
        "put the words in double quotes if they are meant as a text"
    )


def _ending_in(index: Index, ending: str) -> list[Row]:
    """Return the items whose names end so, or a few of them if there are many."""
    quoted = ending.replace("'", "''")
    return list(islice(index.rows(where=f"ends_with({_NAME}, '{quoted}')"), _NUM_SHOWN + 1))
