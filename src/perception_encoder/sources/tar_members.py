"""Lists the images of a tar archive with their captions and metadata.

By the webdataset convention, members that share a name belong together: `0001.jpg`, `0001.json`,
`0001.txt` (see `tar_samples`).
"""

import bz2
import gzip
import logging
import lzma
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from tarfile import HeaderError, ReadError
from typing import IO, Any, Final, Self, cast

from perception_encoder.sources.columns import MetadataColumns
from perception_encoder.sources.item import find_name_error
from perception_encoder.sources.patterns import SYSTEM_FOLDERS, is_image
from perception_encoder.sources.tar_samples import Sample, TarMember, TarSamples
from perception_encoder.sources.text_rows import decode_text, parse_json
from perception_encoder.video.names import is_video

logger = logging.getLogger(__name__)

_MAX_SIBLING_BYTES: Final = 2**20
_MAX_HEADER_BYTES: Final = 2**21  # of one member, with long names, PAX records and sparse maps
_MAX_LABEL_DIGITS: Final = 18  # what fits 64 bits; longer labels are texts
_SIBLINGS: Final = frozenset(("json", "txt", "cls"))
_ENDS: Final = ("EOFHeaderError", "EmptyHeaderError")  # how `tarfile` meets a proper end
_UNPACKERS: Final[dict[bytes, Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
_MAGIC_BYTES: Final = 6
_SENTENCES: Final = {
    "captions": "members with captions or metadata (no image of their name, too far from it, or a "
    "name that comes twice)",
    "unread": "members with metadata that are too large, not UTF-8, or no JSON object",
    "system": "files that macOS or a NAS keeps beside images",
    "links": "links and sparse members named like images",
    "videos": "videos (they are read from folders only; unpack the archive to index them)",
}


class _HeaderStream:
    """A seekable stream that limits how much `tarfile` reads for one header.

    Long names, PAX records and maps of sparse members may claim any size.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._left: int | None = None  # bytes of the present header; None between headers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def read(self, size: int = -1) -> bytes:
        """Read as a file does.

        Raises:
            tarfile.ReadError: the header is too large.
        """
        if self._left is not None:
            self._left -= size
            if size < 0 or self._left < 0:
                raise ReadError(f"a header of more than {_MAX_HEADER_BYTES:,} bytes")
        return self._stream.read(size)

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Limit what is read within the block; a block inside another one shares its limit."""
        before = self._left
        if before is None:
            self._left = _MAX_HEADER_BYTES
        try:
            yield
        finally:
            if before is None:
                self._left = None


class _StrictInfo(tarfile.TarInfo):
    """A member's header; a damaged one is an error, not the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        start = tarfile.offset
        try:
            with cast("_HeaderStream", tarfile.fileobj).limited():
                return super().fromtarfile(tarfile)
        except HeaderError as err:
            if type(err).__name__ in _ENDS:
                raise
            raise ReadError(f"{err} at byte {start:,}") from err


def open_tar(stream: IO[bytes], *, is_packed: bool) -> tarfile.TarFile:
    """Open an archive to read its headers in order.

    Raises:
        tarfile.TarError, OSError, EOFError: it is no archive.
    """
    if is_packed:
        head = stream.read(_MAGIC_BYTES)
        stream.seek(0)
        unpack = next((one for magic, one in _UNPACKERS.items() if head.startswith(magic)), None)
        stream = stream if unpack is None else unpack(stream)
    file = cast("IO[bytes]", _HeaderStream(stream))
    return tarfile.open(fileobj=file, mode="r:", tarinfo=_StrictInfo)


def iter_members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members in order, without keeping them in memory.

    Raises:
        tarfile.TarError: the archive is damaged or ends too early.
        OSError, EOFError: reading failed.
    """
    last = -1
    while (member := archive.next()) is not None:
        cast("Any", archive).members.clear()  # else the archive keeps all of them
        if member.offset <= last or member.size < 0:
            raise ReadError(f"a member of negative size at byte {member.offset:,}")
        last = member.offset
        yield member


def iter_regular_members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members that are regular files.

    Raises:
        tarfile.TarError, OSError: as `iter_members`.
    """
    return (member for member in iter_members(archive) if _is_regular(member))


class TarListing:
    """Lists the images of an archive and counts what is skipped.

    Args:
        archive: is read from its start.
        wants_videos: whether to count videos, which are not read from archives.
    """

    def __init__(self, archive: tarfile.TarFile, *, wants_videos: bool = False) -> None:
        self._archive = archive
        self._wants_videos = wants_videos
        self._samples = TarSamples()
        self._names = MetadataColumns()
        self._num_images = 0
        self._damaged: list[str] = []
        self.left_out = Counter[str]()

    def images(self) -> Iterator[TarMember]:
        """Yield the images in the archive's order.

        Raises:
            tarfile.TarError: the archive is damaged or ends too early; images before that were
                yielded.
            OSError: reading failed.
        """
        try:
            for member in iter_members(self._archive):
                self._take(member)
                yield from map(self._finished, self._samples.ready())
        except Exception:
            yield from map(self._finished, self._samples.rest())
            raise
        finally:
            if self._damaged:
                logger.warning(
                    "%s: metadata of %d images is damaged and was left out (%s)",
                    self._archive.name, len(self._damaged), self._damaged[0],
                )  # fmt: skip
        yield from map(self._finished, self._samples.rest())
        self.left_out["captions"] += self._samples.num_left_over

    def _take(self, member: tarfile.TarInfo) -> None:
        ending = member.name.rpartition(".")[2].lower()
        has_image_name = is_image(member.name)
        if not has_image_name and ending not in _SIBLINGS:
            is_left_out = self._wants_videos and is_video(member.name) and _is_regular(member)
            self.left_out["videos"] += is_left_out and not _is_of_system(member.name)
            return
        if not _is_regular(member):
            self.left_out["links"] += has_image_name and not member.isdir()
            return
        number = self._num_images
        self._num_images += has_image_name
        if _is_of_system(member.name):
            self.left_out["system"] += 1
        elif has_image_name:
            self._take_image(TarMember(member.name, number, member.offset_data, member.size))
        else:
            self._take_text(member, ending)

    def _take_image(self, image: TarMember) -> None:
        image.error = find_name_error(image.name)
        if image.error is None and not self._samples.add_image(image):
            stem, dot, ending = image.name.rpartition(".")
            image.error = (
                f"the archive has an image named {image.name} already; rename this one, which "
                f"begins at byte {image.offset:,}"
            )
            image.name = f"{stem}#{image.offset}{dot}{ending}"
        if image.error is not None:
            self._samples.add_refused(image)

    def _take_text(self, member: tarfile.TarInfo, ending: str) -> None:
        """Read a member with a caption or metadata."""
        values = None
        if member.size <= _MAX_SIBLING_BYTES:
            file = self._archive.extractfile(member)
            assert file is not None  # a regular member
            text = decode_text(file.read())
            try:
                values = None if text is None else _values_of(text.strip(), ending)
            except (ValueError, RecursionError) as err:
                self._damaged.append(f"{member.name}: {err}")
                return
        if values is None:
            self.left_out["unread"] += 1
        else:
            self._samples.add_text(member.name, ending, values, member.size)

    def _finished(self, sample: Sample) -> TarMember:
        sample.image.metadata.update(self._names.scalars(sample.values))
        return sample.image


def describe_left_out(left_out: Counter[str]) -> str:
    """Describe what was skipped, with counts."""
    return ", ".join(f"{left_out[key]:,} {_SENTENCES[key]}" for key in _SENTENCES if left_out[key])


def _values_of(text: str, ending: str) -> dict[str, object] | None:
    """Parse a member's text; None if it is JSON but not an object.

    Raises:
        ValueError, RecursionError: it is not JSON.
    """
    if ending == "txt":
        return {"caption": text}
    if ending == "cls":
        is_number = text.isdecimal() and len(text) <= _MAX_LABEL_DIGITS
        return {"label": int(text) if is_number else text}
    found = parse_json(text)
    return found if isinstance(found, dict) else None


def _is_regular(member: tarfile.TarInfo) -> bool:
    return member.isreg() and not member.issparse()


def _is_of_system(name: str) -> bool:
    *folders, own = name.split("/")
    return own.startswith("._") or any(folder.lower() in SYSTEM_FOLDERS for folder in folders)
