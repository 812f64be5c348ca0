"""Lists the images of a tar archive with what is beside them. Knows nothing of where it is.

By the webdataset convention, members that share a name belong together: `0001.jpg`, `0001.json`,
`0001.txt` (see `tar_samples`).
"""

import logging
import tarfile
from collections import Counter
from collections.abc import Iterator
from tarfile import HeaderError, ReadError
from typing import IO, Any, Final, Self, cast

from perception_encoder.sources.columns import MetadataColumns
from perception_encoder.sources.item import find_name_problem
from perception_encoder.sources.patterns import SYSTEM_FOLDERS, is_image
from perception_encoder.sources.tar_samples import Sample, TarMember, TarSamples
from perception_encoder.sources.text_rows import decode_text, parse_json

logger = logging.getLogger(__name__)

_MAX_SIBLING_BYTES: Final = 2**20
_MAX_HEADER_BYTES: Final = 2**20  # of the long names and PAX records before one member
_MAX_SPARSE_BLOCKS: Final = 2**16  # of a header in GNU's old format: 32 MB
_MAX_LABEL_DIGITS: Final = 18  # what fits 64 bits; longer labels are texts
_SIBLINGS: Final = frozenset(("json", "txt", "cls"))
_ENDS: Final = ("EOFHeaderError", "EmptyHeaderError")  # how `tarfile` meets a proper end
_BEFORE_MEMBERS: Final = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip
_SENTENCES: Final = {
    "captions": "members with captions or metadata (no image of their name, too far from it, or a "
    "name that comes twice)",
    "unread": "members with metadata that are too large, not UTF-8, or no JSON object",
    "system": "files that macOS or a NAS keeps beside images",
    "links": "links and sparse members named like images",
}


class _StrictInfo(tarfile.TarInfo):
    """Headers of a bounded size, of which a damaged one is an error.

    `tarfile` takes a damaged header for the archive's end, and reads headers of any size at once.
    """

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except HeaderError as err:
            if type(err).__name__ in _ENDS:
                raise
            raise ReadError(f"{err} at byte {tarfile.offset:,}") from err

    def _proc_member(self, tarfile: tarfile.TarFile) -> Any:
        if self.size < 0:  # the next header would be looked for before this one, for ever
            raise ReadError(f"a member of negative size at byte {self.offset:,}")
        if self.type in _BEFORE_MEMBERS and self.size > _MAX_HEADER_BYTES:
            raise ReadError(
                f"a header of {self.size:,} bytes at byte {self.offset:,}, the limit is "
                f"{_MAX_HEADER_BYTES:,}"
            )
        found = cast("Any", super())._proc_member(tarfile)
        if found.size < 0:  # as PAX records say
            raise ReadError(f"a member of negative size at byte {self.offset:,}")
        return found

    def _proc_sparse(self, tarfile: tarfile.TarFile) -> Any:
        """Skip the map of a sparse member, which is not read here, and may have no end."""
        _, is_extended, size = cast("Any", self)._sparse_structs
        stream, num_blocks = cast("IO[bytes]", tarfile.fileobj), 0
        while is_extended:
            block = stream.read(512)
            num_blocks += 1
            if len(block) < 512 or num_blocks > _MAX_SPARSE_BLOCKS:
                raise ReadError(f"a sparse member without end at byte {self.offset:,}")
            is_extended = bool(block[504])
        cast("Any", self).sparse = []
        self.offset_data = stream.tell()
        archive = cast("Any", tarfile)
        archive.offset = self.offset_data + cast("Any", self)._block(self.size)
        self.size = size
        return self

    def _proc_gnusparse_10(self, member: Any, _headers: object, _archive: object) -> None:
        member.sparse = []  # likewise


def open_tar(stream: IO[bytes], *, is_packed: bool) -> tarfile.TarFile:
    """Open an archive for reading its headers one after the other.

    Raises:
        tarfile.TarError: it is none.
    """
    return tarfile.open(fileobj=stream, mode="r:*" if is_packed else "r:", tarinfo=_StrictInfo)


def iter_members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members in their order, keeping none in memory.

    Raises:
        tarfile.TarError: the archive is damaged or ends too early.
        OSError: reading failed.
    """
    last = -1
    while (member := archive.next()) is not None:
        cast("Any", archive).members.clear()  # else the archive keeps all of them
        if member.offset <= last:
            raise ReadError(f"the members go in circles at byte {member.offset:,}")
        last = member.offset
        yield member


def iter_regular_members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members that are files with bytes of their own.

    Raises:
        tarfile.TarError, OSError: as `iter_members`.
    """
    return (member for member in iter_members(archive) if _is_regular(member))


class TarListing:
    """Lists the images of an archive, and counts what is left out."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._samples = TarSamples()
        self._names = MetadataColumns()
        self._num_images = 0
        self._damaged: list[str] = []
        self.left_out = Counter[str]()

    def images(self) -> Iterator[TarMember]:
        """Yield the images in the archive's order.

        Raises:
            tarfile.TarError: the archive is damaged or ends too early; what was whole came before.
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
        image.problem = find_name_problem(image.name)
        if image.problem is None and not self._samples.add_image(image):
            stem, dot, ending = image.name.rpartition(".")
            image.problem = (
                f"the archive has an image named {image.name} already; rename this one, which "
                f"begins at byte {image.offset:,}"
            )
            image.name = f"{stem}#{image.offset}{dot}{ending}"
        if image.problem is not None:
            self._samples.add_refused(image)

    def _take_text(self, member: tarfile.TarInfo, ending: str) -> None:
        """Read what a member says of an image."""
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
    """Say what was left out, and how many."""
    return ", ".join(f"{left_out[key]:,} {_SENTENCES[key]}" for key in _SENTENCES if left_out[key])


def _values_of(text: str, ending: str) -> dict[str, object] | None:
    """Read a member's text; None if it is JSON but no object.

    Raises:
        ValueError, RecursionError: it is no JSON.
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
