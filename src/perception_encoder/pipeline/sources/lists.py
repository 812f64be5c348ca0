"""Pictures that are named one by one: as arguments, or in a list on standard input."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Final

from perception_encoder.pipeline.sources.item import Item

_CHUNK_BYTES: Final = 2**16


class NamedSource:
    """Pictures named as arguments.

    Args:
        name: what to call them in messages.
        makers: make their items, in order.
    """

    def __init__(self, name: str, makers: Sequence[Callable[[], Item]]) -> None:
        self.name = name
        self._makers = makers

    def items(self) -> Iterator[Item]:
        """List the pictures in the order of their names."""
        for make in self._makers:
            yield make()

    def covers(self, uri: str, member: str | None) -> bool:  # noqa: ARG002 — the Protocol's
        """Say no: a picture that is named is listed, whether it exists or not."""
        return False


class ListSource:
    """Names of pictures, one a line, read as they come.

    Args:
        stream: the list; it can be read once.
        item_of: makes the item of one absolute path or URL.
        null_separated: names end with NUL instead of a newline.
    """

    name = "-"

    def __init__(
        self, stream: IO[bytes], item_of: Callable[[str], Item], *, null_separated: bool
    ) -> None:
        self._stream = stream
        self._item_of = item_of
        self._end = b"\0" if null_separated else b"\n"

    def items(self) -> Iterator[Item]:
        """List the pictures in the list's order."""
        for line in self._lines():
            name = os.fsdecode(line)
            if name:
                yield self._item_of(name)

    def covers(self, uri: str, member: str | None) -> bool:  # noqa: ARG002 — the Protocol's
        """Say no: a list does not tell what it has left out."""
        return False

    def _lines(self) -> Iterator[bytes]:
        rest = b""
        # read1 gives what there is, so that names are used while their writer still works.
        read = getattr(self._stream, "read1", self._stream.read)
        while chunk := read(_CHUNK_BYTES):
            *lines, rest = (rest + chunk).split(self._end)
            yield from (self._stripped(line) for line in lines)
        yield self._stripped(rest)

    def _stripped(self, line: bytes) -> bytes:
        return line.removesuffix(b"\r") if self._end == b"\n" else line
