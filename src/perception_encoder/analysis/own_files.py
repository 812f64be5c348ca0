"""Whether a row of a table still stands for a file of its own, so that its copies may go.

A table remembers; the disk may have moved on. A file that has gone or has changed is nobody's
duplicate any more, and of two names of one file (links) neither is a copy of the other: to remove
"the other one" would lose the picture.
"""

import os

from perception_encoder.index import Row
from perception_encoder.index.rows import clamp_time


class OwnFiles:
    """Looks at files, and remembers which it has seen; ask in order of preference."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], str] = {}

    def objection(self, row: Row) -> str | None:
        """Say why the row cannot be counted on; None if it can. URLs are taken at their word."""
        if "://" in row.uri:
            return None
        if row.member is None and os.path.islink(row.uri):
            return "is a link to another file"
        try:
            status = os.stat(row.uri)
        except OSError as err:
            return f"has gone or cannot be read ({err.strerror})"
        if row.mtime not in (None, clamp_time(status.st_mtime_ns)):
            return "has changed since it was indexed"
        if row.member is not None:
            return None
        if row.bytes not in (None, status.st_size):
            return "has changed since it was indexed"
        identity = (status.st_dev, status.st_ino)
        name = self._seen.setdefault(identity, row.uri)
        return None if name == row.uri else f"is another name of {name}"
