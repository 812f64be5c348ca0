"""Images in tar archives, listed from the headers and read without unpacking the archive."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import IO, Final, cast

from perception_encoder.errors import (
    ImageError,
    ImageNotFoundError,
    ImageTruncatedError,
    ImageUnreadableError,
)
from perception_encoder.index import item_name
from perception_encoder.preprocess.files import MAX_FILE_BYTES
from perception_encoder.sources.access import FileAccess, check_size
from perception_encoder.sources.forward import ForwardReader
from perception_encoder.sources.item import (
    ContainerSource,
    Item,
    is_packed,
    make_broken_item,
    scheme_of,
)
from perception_encoder.sources.patterns import is_image
from perception_encoder.sources.tar_members import (
    TarListing,
    describe_left_out,
    iter_regular_members,
    open_tar,
)
from perception_encoder.sources.tar_samples import TarMember

_BLOCK: Final = 512
_NUM_KEPT: Final = 64
_CHUNK_BYTES: Final = 2**16
_MAX_PADDING: Final = 64 * 2**20
_MAX_KEPT_BYTES: Final = 256 * 2**20  # of images that wait for their threads


class TarSource(ContainerSource):
    """Archives on this machine or on a network.

    Args:
        access: reads them.
        name, uris, once_held, leaves_out: see `ContainerSource`.
        wants_videos: whether to report videos, which are not read from archives.
    """

    def __init__(
        self,
        access: FileAccess,
        name: str,
        uris: Sequence[str],
        once_held: Callable[[str], bool] = lambda _: False,
        leaves_out: Callable[[str], bool] = lambda _: False,
        *,
        wants_videos: bool = False,
    ) -> None:
        super().__init__(name, uris, once_held, leaves_out)
        self._access = access
        self._wants_videos = wants_videos

    def covers(self, uri: str, member: str | None) -> bool:
        """Whether `items` would list this member if its archive had it."""
        return super().covers(uri, member) and (member is None or is_image(member))

    def _describe(self, err: Exception) -> str:
        return _describe(err)

    def _list(self, uri: str) -> Iterator[Item]:
        mtime = self._access.info(uri).mtime
        packed = None
        if is_packed(uri):
            packed = ForwardReader(
                partial(_unpack, self._access, uri),
                num_kept=_NUM_KEPT,
                size_of=len,
                max_size=_MAX_KEPT_BYTES,
            )
        with (
            self._access.open(uri) as stream,
            open_tar(stream, is_packed=packed is not None) as archive,
        ):
            listing = TarListing(archive, wants_videos=self._wants_videos)
            try:
                for image in listing.images():
                    yield self._item(uri, image, mtime, packed)
            finally:
                if left_out := describe_left_out(listing.left_out):
                    self._notes.append(f"{uri}: left out {left_out}")
            if packed is not None:
                _check_end(archive)

    def _item(
        self,
        uri: str,
        image: TarMember,
        mtime: int | None,
        packed: ForwardReader[bytes] | None,
    ) -> Item:
        if image.error is not None:
            return make_broken_item(
                uri, image.error, member=image.name, is_remote=bool(scheme_of(uri))
            )
        item = item_name(uri, image.name)
        place = (uri, image.offset, image.bytes)
        return Item(
            uri,
            partial(_read_packed, packed, image.number, image.bytes, item)
            if packed is not None
            else partial(self._access.read_range, *place, item=item),
            member=image.name,
            offset=image.offset if packed is None else None,
            bytes=image.bytes,
            mtime=mtime,
            metadata=image.metadata,
            is_remote=bool(scheme_of(uri)),
        )


def read_member(access: FileAccess, uri: str, member: str, offset: int | None) -> bytes:
    """Read one image of an archive.

    Args:
        access: reads the archive.
        uri: of the archive.
        member: its name in it.
        offset: where its bytes began. If something else is there now, or if it is None, the
            archive is searched from its start.

    Raises:
        ImageNotFoundError: the archive or the member is gone.
        ImageError: it cannot be read.
    """
    item = item_name(uri, member)
    num_bytes = None if offset is None else find_member_size(access, uri, member, offset)
    if offset is not None and num_bytes is not None:
        return access.read_range(uri, offset, num_bytes, item=item)
    try:
        with (
            access.open(uri) as stream,
            open_tar(stream, is_packed=is_packed(uri)) as archive,
        ):
            for found in iter_regular_members(archive):
                if found.name == member:
                    return _content(archive, found, item)
    except ImageError:
        raise
    except Exception as err:
        raise ImageUnreadableError(f"{item}: {_describe(err)}", item=item) from err
    raise ImageNotFoundError(f"{item}: the archive has no such member any more", item=item)


def find_member_size(access: FileAccess, uri: str, member: str, offset: int) -> int | None:
    """Return the size of a member if its header is right before the offset, else None."""
    try:
        block = access.read_range(uri, offset - _BLOCK, _BLOCK, item=uri)
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (ImageError, tarfile.TarError, ValueError):  # the search from the start says more
        return None
    # A long name is in another header; this one has about its first 100 bytes.
    is_same = header.name == member or (
        len(member.encode()) > 100 and member.startswith(header.name[:90])
    )
    return header.size if is_same and header.isreg() else None


def _unpack(access: FileAccess, uri: str, start: int) -> Iterator[bytes]:
    """Yield the images of a compressed archive from the given number on."""
    with access.open(uri) as stream, open_tar(stream, is_packed=True) as archive:
        images = (found for found in iter_regular_members(archive) if is_image(found.name))
        for number, found in enumerate(images):
            if number >= start:
                # An image that is too large is never asked for.
                is_small = found.size <= MAX_FILE_BYTES
                yield _content(archive, found, item_name(uri, found.name)) if is_small else b""


def _check_end(archive: tarfile.TarFile) -> None:
    """Read a compressed archive to its end, where its checksum is.

    Raises:
        OSError: the checksum is wrong.
        tarfile.ReadError: much more follows than the padding of an archive.
    """
    file = cast("IO[bytes]", archive.fileobj)
    num_bytes = 0
    while chunk := file.read(_CHUNK_BYTES):
        num_bytes += len(chunk)
        if num_bytes > _MAX_PADDING:
            raise tarfile.ReadError(f"more than {_MAX_PADDING:,} bytes come after its last member")


def _read_packed(reader: ForwardReader[bytes], number: int, num_bytes: int, item: str) -> bytes:
    check_size(num_bytes, item=item)
    try:
        return reader.read(number)
    except ImageError:
        raise
    except Exception as err:
        raise ImageUnreadableError(f"{item}: {_describe(err)}", item=item) from err


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, item: str) -> bytes:
    check_size(member.size, item=item)
    file = archive.extractfile(member)
    assert file is not None  # a regular member
    data = file.read()
    if len(data) < member.size:
        raise ImageTruncatedError(
            f"{item}: the archive ends before this image does; fetch it again", item=item
        )
    return data


def _describe(err: Exception) -> str:
    return (
        f"the archive is damaged or cut off ({type(err).__name__}: {err}); "
        "what came before is whole; fetch it again"
    )
