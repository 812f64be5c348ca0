"""Walks the boxes of an ISO container: JPEG 2000, AVIF and HEIC. Layout: ISO/IEC 14496-12, 4.2."""

from collections.abc import Iterator
from typing import NamedTuple


class Box(NamedTuple):
    """One box.

    Attributes:
        kind: its four letters.
        start: where its content begins.
        end: where its content ends, by its length; beyond the data where that is cut.
    """

    kind: bytes
    start: int
    end: int


def iter_boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[Box]:
    """Yield the boxes of a range in order, up to one whose length is none.

    Args:
        data: the file.
        start: where the first box begins.
        end: of the range; None for the data's.
    """
    limit = len(data) if end is None else min(end, len(data))
    while start + 8 <= limit:
        size = int.from_bytes(data[start : start + 4], "big")
        kind = data[start + 4 : start + 8]
        content = start + 8
        if size == 1:
            size = int.from_bytes(data[content : content + 8], "big")
            content += 8
        elif size == 0:
            size = limit - start
        if start + size < content:
            return
        yield Box(kind, content, start + size)
        start += size
