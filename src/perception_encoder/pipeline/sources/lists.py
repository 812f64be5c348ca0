"""Pictures that are named one by one: as arguments, or in a list on standard input."""

import codecs
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Final

from perception_encoder.errors import SourceError
from perception_encoder.pipeline.sources.item import Item
from perception_encoder.pipeline.sources.text_lines import encoding_of

_CHUNK_BYTES: Final = 2**16
_MARK_BYTES: Final = 3
_MAX_NAME: Final = 2**20  # characters
_MARKS: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Names of files may be in an old encoding: what is not UTF-8 is kept as it came.
_ERRORS: Final = {
    "utf-8": "surrogateescape",
    "utf-16-le": "surrogatepass",
    "utf-16-be": "surrogatepass",
}


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
        self._is_null_separated = null_separated

    def items(self) -> Iterator[Item]:
        """List the pictures in the list's order.

        Raises:
            SourceError: it is no list of names.
        """
        for name in self._names():
            if name:
                yield self._item_of(name)

    def covers(self, uri: str, member: str | None) -> bool:  # noqa: ARG002 — the Protocol's
        """Say no: a list does not tell what it has left out."""
        return False

    def _names(self) -> Iterator[str]:
        # read1 gives what there is, so that names are used while their writer still works.
        read = getattr(self._stream, "read1", self._stream.read)
        head = read(_CHUNK_BYTES)
        while 0 < len(head) < _MARK_BYTES and (more := read(_CHUNK_BYTES)):
            head += more
        encoding = self._encoding_of(head)
        decoder = codecs.getincrementaldecoder(encoding)(_ERRORS[encoding])
        end = "\0" if self._is_null_separated else "\n"
        rest = decoder.decode(head).removeprefix("\ufeff")
        while True:
            *names, rest = rest.split(end)
            yield from map(self._stripped, names)
            if len(rest) > _MAX_NAME:
                raise SourceError(
                    f"standard input: a name of more than {_MAX_NAME:,} characters; give a list of "
                    f"names, one a line (or -0, where NUL ends them)"
                )
            chunk = read(_CHUNK_BYTES)
            if not chunk:
                break
            rest += decoder.decode(chunk)
        yield self._stripped(rest + _end_of(decoder))

    def _encoding_of(self, head: bytes) -> str:
        # A name of one letter and the NUL that ends it look like UTF-16.
        is_short = self._is_null_separated and not head.startswith(_MARKS)
        return "utf-8" if is_short else encoding_of(head)

    def _stripped(self, name: str) -> str:
        return name if self._is_null_separated else name.removesuffix("\r")


def _end_of(decoder: codecs.IncrementalDecoder) -> str:
    try:
        return decoder.decode(b"", final=True)
    except UnicodeDecodeError:  # half a character
        return "\ufffd"
