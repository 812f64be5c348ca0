"""Opens sources by name, and images by the columns of their rows."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import IO, TYPE_CHECKING, Final, Literal, TypeAlias

from perception_encoder.errors import (
    ImageError,
    ImageNotFoundError,
    ImageUnreadableError,
    ImageValueError,
    SourceError,
)
from perception_encoder.errors import SourceNotFoundError as NotFound
from perception_encoder.index import item_name
from perception_encoder.index.tiles import image_member
from perception_encoder.preprocess.crops import (
    crop_image,
    name_without_crop,
    split_crop,
    split_crop_of_path,
    with_crop,
)
from perception_encoder.sources.access import FileAccess, StoredImage, get_access, open_local_image
from perception_encoder.sources.folder import FolderSource, RemoteFolderSource
from perception_encoder.sources.item import (
    Item,
    Source,
    SourceOptions,
    is_table,
    is_tar,
    is_web,
    make_absolute,
    scheme_of,
)
from perception_encoder.sources.network import RemoteEntry
from perception_encoder.sources.patterns import MAGIC, Excludes, Selection, expand_braces
from perception_encoder.sources.tables import TableSource, read_row
from perception_encoder.sources.tars import TarSource, find_member_size, read_member
from perception_encoder.sources.text_rows import encoding_of
from perception_encoder.video.names import (
    can_decode,
    is_clip,
    is_moment,
    parse_moment,
    split_fragment,
)

if TYPE_CHECKING:
    from PIL import Image

    from perception_encoder.index import Hit, Row
    from perception_encoder.preprocess import ImageInput

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
_STDIN: Final = "-"
_NUM_SHOWN: Final = 3
_FileKind: TypeAlias = Literal["image", "tar", "table"]


class NamedSource:
    """Images that are named one by one.

    Args:
        name: their name in messages.
        makers: create their items, in order.
    """

    def __init__(self, name: str, makers: Sequence[Callable[[], Item]]) -> None:
        self.name = name
        self._makers = makers

    def items(self) -> Iterator[Item]:
        """List the images in the order of their names."""
        for make in self._makers:
            yield make()

    def covers(self, uri: str, member: str | None) -> bool:  # noqa: ARG002 — the Protocol's
        """Return False: a named image is listed whether it exists or not."""
        return False


class ListSource:
    """Images named in a stream, one per line, read as they arrive.

    Args:
        stream: the list, which is read once.
        item_of: creates the item of a path or URL.
        null_separated: whether names end with NUL instead of a newline.
    """

    name = "-"

    def __init__(
        self, stream: IO[bytes], item_of: Callable[[str], Item], *, null_separated: bool
    ) -> None:
        self._stream = stream
        self._item_of = item_of
        self._is_null_separated = null_separated

    def items(self) -> Iterator[Item]:
        """List the images in the list's order.

        Raises:
            SourceError: it is not a list of names.
        """
        for name in self._names():
            if name:
                yield self._item_of(name)

    def covers(self, uri: str, member: str | None) -> bool:  # noqa: ARG002 — the Protocol's
        """Return False: what a list leaves out is unknown."""
        return False

    def _names(self) -> Iterator[str]:
        # read1 returns what is there, so names are used while the writer still runs.
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
        # A name of one letter and its NUL look like UTF-16.
        is_short = self._is_null_separated and not head.startswith(_MARKS)
        return "utf-8" if is_short else encoding_of(head)

    def _stripped(self, name: str) -> str:
        return name if self._is_null_separated else name.removesuffix("\r")


def _end_of(decoder: codecs.IncrementalDecoder) -> str:
    try:
        return decoder.decode(b"", final=True)
    except UnicodeDecodeError:  # half a character
        return "\ufffd"


@dataclass(frozen=True, slots=True)
class _File:
    """A file that a name stands for. Neighbors of one kind become one source."""

    kind: _FileKind
    name: str  # as the user wrote it, with braces and globs
    uri: str
    item: Callable[[], Item]
    once_held: Callable[[str], bool] = lambda _: False
    leaves_out: Callable[[str], bool] = lambda _: False


def open_sources(
    names: Sequence[str], options: SourceOptions, stdin: IO[bytes] | None = None
) -> list[Source]:
    """Open the sources with these names.

    A name is a folder, an image, a tar archive, a table (Parquet, CSV, JSON lines), `-` for a list
    of names on standard input, a glob, the URL of any of these on a store of fsspec, or the http
    URL of an image. Braces stand for several names. An existing file wins over a pattern.

    Args:
        names: the names, as users write them.
        options: how to list and read them.
        stdin: the stream for `-`; sys.stdin by default.

    Returns:
        The sources, in the order of their names. Consecutive images, archives or tables are one
        source.

    Raises:
        SourceNotFoundError: a file, folder or URL does not exist.
        SourceError: a table without images, or a URL that cannot be used here.
    """
    return list(_Opener(options, stdin).open(names))


class _Opener:
    def __init__(self, options: SourceOptions, stdin: IO[bytes] | None) -> None:
        self._options = options
        self._stdin = stdin
        self._access = FileAccess(options)
        self._missing: list[str] = []

    def open(self, names: Sequence[str]) -> Iterator[Source]:
        found = [part for name in names for part in self._parts(name)]
        if self._missing:
            more = len(self._missing) - _NUM_SHOWN
            shown = ", ".join(self._missing[:_NUM_SHOWN]) + (f" and {more} more" * (more > 0))
            raise NotFound(f"{shown}: no such file or folder; check the path")
        for _, group in groupby(found, lambda part: isinstance(part, _File) and part.kind):
            parts = list(group)
            files = [part for part in parts if isinstance(part, _File)]
            if files:
                yield self._joined(files)
            else:
                yield from (part for part in parts if not isinstance(part, _File))

    def _joined(self, files: Sequence[_File]) -> Source:
        """Return one source for consecutive files of one kind."""
        names = list(dict.fromkeys(file.name for file in files))
        name = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        if files[0].kind == "image":
            return NamedSource(name, [file.item for file in files])
        uris = [file.uri for file in files]
        once_held = _any_of([file.once_held for file in files])
        leaves_out = _any_of([file.leaves_out for file in files])
        if files[0].kind == "tar":
            wants = self._options.videos
            return TarSource(self._access, name, uris, once_held, leaves_out, wants_videos=wants)
        column = self._options.column
        table = TableSource(self._access, column, name, uris, once_held, leaves_out)
        table.check()
        return table

    def _parts(self, name: str) -> Iterator[_File | Source]:
        if name == _STDIN:
            stream = sys.stdin.buffer if self._stdin is None else self._stdin
            yield ListSource(stream, self._access.item, null_separated=self._options.null_separated)
        elif os.path.exists(name):
            yield self._local(name, name)
        elif self._options.crops and name_without_crop(name) != name:
            yield from self._crop(name)
        elif is_web(name):  # where braces and question marks belong to the URL
            yield self._web(name)
        else:
            for one in expand_braces(os.path.expanduser(name)):
                yield from self._pattern(name, one)

    def _pattern(self, name: str, one: str) -> Iterator[_File | Source]:
        path = make_absolute(one) if scheme_of(one) == "file" else one
        if scheme_of(path):
            yield from self._remote(name, path)
        elif os.path.exists(path):
            yield self._local(name, path)
        elif MAGIC.search(path):
            yield from self._glob(name, path)
        else:
            self._missing.append(one)

    def _local(self, name: str, path: str) -> _File | Source:
        path = os.path.abspath(path)
        if os.path.isdir(path):
            return self._folder(name, path, None)
        return _File(_kind(path), name, path, partial(self._access.item, path))

    def _web(self, url: str) -> _File:
        if is_tar(url) or is_table(url):
            raise SourceError(
                f"{url}: archives and tables are not read over http; download it and name the file"
            )
        return _File("image", url, url, partial(self._access.item, url))

    def _crop(self, name: str) -> Iterator[_File]:
        """Yield the part of an image that a name ends with."""
        try:
            whole, box = split_crop(name)
        except ImageValueError as err:
            raise SourceError(str(err)) from err
        path = whole if is_web(whole) else os.path.abspath(os.path.expanduser(whole))
        if not is_web(whole) and not os.path.isfile(path):
            self._missing.append(name)
            return
        uri = with_crop(path, box)

        def make() -> Item:
            return replace(self._access.item(path), uri=uri, crop=box)

        yield _File("image", name, uri, make)

    def _glob(self, name: str, pattern: str) -> Iterator[_File | Source]:
        top, glob = _split_glob(pattern, os.path.isdir)
        if not glob or not os.path.isdir(top or "."):
            self._missing.append(name)
            return
        yield from self._matches(name, self._folder(name, top, glob), glob)

    def _remote(self, name: str, url: str) -> Iterator[_File | Source]:
        remote = self._access.remote
        remote.check(url)
        if MAGIC.search(url):
            top, glob = _split_glob(url)
            folder = self._remote_folder(name, remote.canonical(top), glob)
            yield from self._matches(name, folder, glob)
            return
        entry = self._entry(url)
        if entry.is_folder:
            yield self._remote_folder(name, entry.url, None)
        else:
            yield _File(_kind(entry.url), name, entry.url, partial(self._access.entry_item, entry))

    def _entry(self, url: str) -> RemoteEntry:
        try:
            return self._access.entry(url)
        except ImageNotFoundError as err:
            raise NotFound(str(err)) from err
        except ImageError as err:
            raise SourceError(str(err)) from err

    def _matches(
        self, name: str, folder: FolderSource | RemoteFolderSource, glob: str
    ) -> Iterator[_File | Source]:
        """Yield the archives or tables that match a glob, or else its images as one source."""
        kind = _kind(glob)
        if kind == "image":
            yield folder
            return
        files = [item for item in folder.items() if _kind(item.uri) == kind]
        if not files:
            self._missing.append(name)

        def once_held(uri: str) -> bool:
            return folder.covers(uri, None)

        def leaves_out(uri: str) -> bool:
            return folder.leaves_out(uri, None)

        for item in files:
            make = partial(self._access.item, item.uri)
            yield _File(kind, name, item.uri, make, once_held, leaves_out)

    def _folder(self, name: str, top: str, glob: str | None) -> FolderSource:
        wants_videos = self._options.videos
        selection = replace(self._selection(glob), videos=wants_videos and can_decode())
        return FolderSource(name, top, selection, wants_videos=wants_videos)

    def _remote_folder(self, name: str, top: str, glob: str | None) -> RemoteFolderSource:
        selection, wants_videos = self._selection(glob), self._options.videos
        return RemoteFolderSource(name, top, selection, self._access, wants_videos=wants_videos)

    def _selection(self, glob: str | None) -> Selection:
        # A glob with a dot at the start of a name means hidden ones.
        hidden = self._options.include_hidden or (glob is not None and "/." in f"/{glob}")
        return Selection(Excludes(self._options.exclude), hidden, glob)


def _any_of(conditions: Sequence[Callable[[str], bool]]) -> Callable[[str], bool]:
    unique = list(dict.fromkeys(conditions))
    return lambda uri: any(condition(uri) for condition in unique)


def _kind(uri: str) -> _FileKind:
    if is_tar(uri):
        return "tar"
    return "table" if is_table(uri) else "image"


def _split_glob(
    pattern: str, is_folder: Callable[[str], bool] = lambda _: False
) -> tuple[str, str]:
    """Split a glob into the folder of all matches and the rest.

    Args:
        pattern: the glob. The rest is "" if all of it names a folder.
        is_folder: whether a folder has exactly this name, though it looks like a glob.
    """
    parts = pattern.split("/")
    globs = (
        number
        for number, part in enumerate(parts)
        if MAGIC.search(part) and not is_folder("/".join(parts[: number + 1]))
    )
    count = next(globs, len(parts))
    top = "/".join(parts[:count])
    return "/" if parts[:count] == [""] else top, "/".join(part for part in parts[count:] if part)


def read_image(
    uri: str,
    member: str | None = None,
    offset: int | None = None,
    num_bytes: int | None = None,
    *,
    allow_network: bool = True,
) -> bytes:
    """Read the encoded image of a row; of a tile its image, of a moment its frame as a JPEG.

    Args:
        uri: of the row.
        member: of the row.
        offset: of the row; with it a member of a tar archive is read without a search.
        num_bytes: of the row; it saves a request to a store.
        allow_network: whether a network may be used.

    Raises:
        ImageNotFoundError: the file is gone, or has no such member any more.
        ImageError: it cannot be read.
    """
    access = get_access(SourceOptions(allow_network=allow_network))
    member = image_member(member)
    if member is None:
        return access.read(uri, num_bytes)
    if is_moment(uri, member):
        from perception_encoder.video import read_frame

        return read_frame(uri, parse_moment(member) or 0.0)
    if is_tar(uri):
        return read_member(access, uri, member, offset)
    if is_table(uri):
        return read_row(access, uri, member)
    item = item_name(uri, member)
    raise ImageUnreadableError(f"{item}: neither a tar archive nor a table", item=item)


def load_image(row: Row | Hit) -> Image.Image:
    """Load the image of a row as a viewer shows it: upright, RGB.

    Raises:
        ImageError: the image is gone or cannot be read.
    """
    from perception_encoder.preprocess import decode_image
    from perception_encoder.preprocess.transforms import to_rgb, turn_upright

    data = read_image(row.uri, row.member, row.offset)
    return to_rgb(turn_upright(decode_image(data, item=row.name)), item=row.name)


def open_named_image(name: str) -> ImageInput:
    """Open what a path names that may end in a time and a box.

    Args:
        name: such as `dog.jpg`, `dog.jpg#xywh=10,20,200,150` or `film.mp4#t=4&xywh=0,0,640,360`. A
            file that has the whole name wins.

    Returns:
        A path or a part of an image, which are read when they are used.

    Raises:
        ImageError: what should be the box is none, or the frame cannot be read.
    """
    path, box = split_crop_of_path(name)
    if box is None or not is_clip(path):
        return crop_image(path, box)
    from perception_encoder.video import read_frame

    video, seconds = split_fragment(path)
    return crop_image(read_frame(video, seconds or 0.0), box)


def open_image(uri: str, member: str | None, offset: int | None) -> StoredImage | None:
    """Open the encoded image of a row to read it in parts; arguments as for `read_image`.

    Returns:
        None if it can only be read whole: on a network, in a table, in a compressed archive, or in
        an archive that has been rewritten.

    Raises:
        ImageNotFoundError: the file is gone.
        ImageError: it cannot be read.
    """
    if scheme_of(uri):
        return None
    member = image_member(member)
    if member is None:
        return open_local_image(uri, item=uri)
    if not is_tar(uri) or offset is None:
        return None
    num_bytes = find_member_size(
        get_access(SourceOptions(allow_network=False)), uri, member, offset
    )
    if num_bytes is None:
        return None
    return open_local_image(uri, item=item_name(uri, member), part=(offset, num_bytes))
