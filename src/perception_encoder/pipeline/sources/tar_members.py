"""Lists the pictures of a tar archive with what lies beside them. Knows nothing of where it is.

By the webdataset convention, members that follow one another and share a name up to its first dot
belong together: `0001.jpg`, `0001.json`, `0001.txt`.
"""

import json
import logging
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from tarfile import HeaderError, ReadError
from typing import IO, Any, Final, Self, cast

from perception_encoder.index import MetadataValue
from perception_encoder.pipeline.sources.metadata import scalars
from perception_encoder.pipeline.sources.select import is_picture

logger = logging.getLogger(__name__)

_MAX_SIBLING_BYTES: Final = 2**20
_SIBLINGS: Final = frozenset(("json", "txt", "cls"))
_ENDS: Final = ("EOFHeaderError", "EmptyHeaderError")  # how `tarfile` meets a proper end
_MAX_GROUP: Final = 64  # pictures of one key that wait for their metadata


@dataclass(frozen=True, slots=True)
class TarMember:
    """A picture in an archive.

    Attributes:
        name: of the member.
        offset: where its bytes begin in the (unpacked) archive.
        bytes: its size.
        metadata: from the members that belong to it.
    """

    name: str
    offset: int
    bytes: int
    metadata: dict[str, MetadataValue]


@dataclass(slots=True)
class _Group:
    key: str
    pictures: list[TarMember] = field(default_factory=list)
    values: dict[str, object] = field(default_factory=dict)

    def members(self) -> Iterator[TarMember]:
        metadata = scalars(self.values)
        for picture in self.pictures:
            picture.metadata.update(metadata)
            yield picture


class _StrictInfo(tarfile.TarInfo):
    """A header that is damaged is an error; `tarfile` takes it for the archive's end."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except HeaderError as err:
            if type(err).__name__ in _ENDS:
                raise
            raise ReadError(f"{err} at byte {tarfile.offset:,}") from err


def open_tar(stream: IO[bytes], *, is_packed: bool) -> tarfile.TarFile:
    """Open an archive for reading its headers one after the other.

    Raises:
        tarfile.TarError: it is none.
    """
    return tarfile.open(fileobj=stream, mode="r:*" if is_packed else "r:", tarinfo=_StrictInfo)


def regular_members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members that are files with bytes of their own, keeping none in memory.

    Raises:
        tarfile.TarError: the archive is damaged or ends too early.
        OSError: reading failed.
    """
    while (member := archive.next()) is not None:
        cast("Any", archive).members.clear()  # else the archive keeps all of them
        if member.isreg() and not member.issparse():
            yield member


def list_pictures(archive: tarfile.TarFile) -> Iterator[TarMember]:
    """Yield an archive's pictures in its order.

    Raises:
        tarfile.TarError: the archive is damaged or ends too early; what was whole came before.
        OSError: reading failed.
    """
    num_unread = 0
    group = _Group("")
    try:
        for member in regular_members(archive):
            key, ending = _split(member.name)
            if key != group.key or len(group.pictures) >= _MAX_GROUP:
                yield from group.members()
                group = _Group(key)
            if is_picture(member.name):
                group.pictures.append(TarMember(member.name, member.offset_data, member.size, {}))
            elif ending in _SIBLINGS and member.size <= _MAX_SIBLING_BYTES:
                num_unread += not _read_sibling(archive, member, ending, group.values)
    except Exception:
        yield from group.members()
        raise
    yield from group.members()
    if num_unread:
        logger.warning(
            "%s: metadata of %d pictures is damaged and was left out", archive.name, num_unread
        )


def _read_sibling(
    archive: tarfile.TarFile, member: tarfile.TarInfo, ending: str, values: dict[str, object]
) -> bool:
    """Add what a member says of its group to the values, and say whether it could be read."""
    file = archive.extractfile(member)
    assert file is not None  # a regular member
    text = file.read().decode("utf-8", "replace").strip()
    if ending == "txt":
        values.setdefault("caption", text)
    elif ending == "cls":
        values.setdefault("label", int(text) if text.isdecimal() else text)
    else:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return False
        values.update(found if isinstance(found, dict) else {})
    return True


def _split(name: str) -> tuple[str, str]:
    """Split a member's name into its group's key and its ending."""
    start = name.rfind("/") + 1
    dot = name.find(".", start + 1)
    return (name, "") if dot < 0 else (name[:dot], name[dot + 1 :].lower())
