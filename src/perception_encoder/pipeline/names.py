"""Names of a table's items: how they are shown, and which item a name means.

The name of a plain file is its uri; that of a picture inside an archive is the archive's uri, a
slash, and its name in there.
"""

import os
import re
import unicodedata
from collections.abc import Callable
from itertools import islice
from typing import Final

from perception_encoder.errors import QueryError
from perception_encoder.index import Index, Row, row_id
from perception_encoder.index.condition_tokens import shortened
from perception_encoder.pipeline.sources.item import is_unicode
from perception_encoder.types import Embeddings

_ID: Final = re.compile(r"[0-9a-f]{32}")
_NAME: Final = "coalesce(uri || '/' || member, uri)"  # `item_name` in SQL
_NUM_SHOWN: Final = 5


def find_item(index: Index, name: str) -> tuple[Row, Embeddings]:
    """Find the one item that a name means.

    Args:
        index: the table.
        name: an item's id; its name; the path of an indexed file from the current folder; or the
            end of its name, if that of no other ends so. Whole file names win over parts. The
            composed and the decomposed Unicode form of a name are the same.

    Returns:
        The row and its (E,) vector.

    Raises:
        QueryError: there is none, or there are several.
    """
    if not is_unicode(name):
        raise QueryError(f"@{name!a} is not valid Unicode, and so no name of {index.path}")
    ids = [name, row_id(name), row_id(os.path.abspath(name))]
    known = index.by_ids(ids if _ID.fullmatch(name) else ids[1:])
    for key in ids:
        if key in known:
            return known[key]
    for find in _WAYS:
        found = find(index, name)
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
        f"{index.path} has no item whose name ends in {shortened(name)}; look it up with "
        "`pe search`, or put the words in double quotes if they are meant as a text"
    )


def _ending_in(index: Index, ending: str) -> list[Row]:
    """Return the items whose names end so, or a few of them if there are many."""
    quoted = ending.replace("'", "''")
    return list(islice(index.rows(where=f"ends_with({_NAME}, '{quoted}')"), _NUM_SHOWN + 1))


def _ending_alike(index: Index, name: str) -> list[Row]:
    """As `_ending_in`, also where a name has parts in different Unicode forms."""
    import pyarrow.compute as pc

    if name.isascii():
        return []
    ending = unicodedata.normalize("NFC", name)
    ids = list[str]()
    for batch in index.scan(["uri", "member"]):
        inside = pc.binary_join_element_wise(batch["uri"], batch["member"], "/")
        names = pc.utf8_normalize(pc.coalesce(inside, batch["uri"]), form="NFC")
        found = batch.filter(pc.ends_with(names, pattern=ending))
        ids += [row_id(row["uri"], row["member"]) for row in found.to_pylist()]
        if len(ids) > _NUM_SHOWN:
            break
    return [row for row, _ in index.by_ids(ids).values()]


_WAYS: Final[tuple[Callable[[Index, str], list[Row]], ...]] = (
    lambda index, name: _ending_in(index, f"/{name}"),
    _ending_in,
    _ending_alike,
)
