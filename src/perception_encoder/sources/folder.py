"""Images in a folder and all folders below it, on this machine or on an object store.

Links to folders are followed, but each folder is listed once: under its own path if that is below
the top, else under the first link to it. So circles end, and a new link never renames images that
are indexed. A link to a folder above the top is not followed.
"""

import os
import posixpath
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

from perception_encoder.errors import ImageError
from perception_encoder.sources.access import FileAccess, get_access, make_file_item
from perception_encoder.sources.item import (
    Item,
    Sidecar,
    SourceOptions,
    find_name_error,
    make_broken_item,
)
from perception_encoder.sources.network import RemoteEntry
from perception_encoder.sources.patterns import (
    LeftOutVideos,
    Selection,
    describe_system_folders,
    is_image,
)
from perception_encoder.video.names import is_video

_Identity: TypeAlias = tuple[int, int]


class FolderSource:
    """A folder of this machine, with all folders below it.

    Args:
        name: as it was given.
        top: the folder.
        selection: which of its files to list.
        wants_videos: whether to report videos that the selection leaves out.
    """

    def __init__(
        self, name: str, top: str, selection: Selection, *, wants_videos: bool = False
    ) -> None:
        self.name = name
        self._top = os.path.abspath(top)
        self._prefix = os.path.join(self._top, "")
        self._selection = selection
        self._unread = set[str]()
        self._system = Counter[str]()
        self._videos = LeftOutVideos(selection, is_wanted=wants_videos)

    def items(self) -> Iterator[Item]:
        """List the images: first those of a folder, sorted, then those of its folders."""
        self._unread.clear()
        self._system.clear()
        self._videos.count = 0
        seen = _with_parents(self._top)
        starts = deque([self._top])
        while starts:  # first the top, then the links below it
            folders = [starts.popleft()]
            while folders:
                folder = folders.pop()
                try:
                    found = self._scan(folder, seen)
                except OSError as err:
                    if folder != self._top and isinstance(err, FileNotFoundError):
                        continue  # deleted since it was listed
                    self._unread.add(folder)
                    yield make_broken_item(folder, f"the folder cannot be read: {err.strerror}")
                    continue
                for name in found.files:
                    yield make_file_item(os.path.join(folder, name))
                folders += (os.path.join(folder, name) for name in reversed(found.folders))
                starts += (os.path.join(folder, name) for name in found.links)

    def covers(self, uri: str, member: str | None) -> bool:
        """Whether `items` would list this file, by its path alone."""
        if member is not None or not uri.startswith(self._prefix):
            return False
        parent = os.path.dirname(uri)
        while len(parent) >= len(self._top):
            if parent in self._unread:
                return False
            parent, above = os.path.dirname(parent), parent
            if parent == above:
                break
        # A folder that failed before and can be read now is covered.
        return self._selection.covers(self._relative(uri)) or (
            os.path.isdir(uri) and uri not in self._unread
        )

    def notes(self) -> list[str]:
        """Describe the system folders and videos that were skipped."""
        return describe_system_folders(self.name, self._system) + self._videos.notes(self.name)

    def leaves_out(self, uri: str, member: str | None) -> bool:
        """Whether this file is skipped by a pattern, or is in a system folder."""
        if member is not None or not uri.startswith(self._prefix):
            return False
        return self._selection.leaves_out(self._relative(uri))

    def _scan(self, folder: str, seen: set[_Identity]) -> "_Found":
        """Read one folder's names.

        Raises:
            OSError: it cannot be read.
        """
        found = _Found([], [], [])
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen and folder != self._top:
            return found
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            for entry in entries:
                self._sort_in(entry, found)
        for names in found:
            names.sort()
        return found

    def _sort_in(self, entry: os.DirEntry[str], found: "_Found") -> None:
        path = self._relative(entry.path)
        if entry.is_dir(follow_symlinks=False):
            if self._selection.enters(path):
                found.folders.append(entry.name)
            elif self._selection.is_system(path):
                self._system[entry.name] += 1
        elif entry.is_symlink() and _leads_to_folder(entry):
            if self._selection.enters(path):
                found.links.append(entry.name)
        elif self._selection.lists(path):
            found.files.append(entry.name)
        elif is_video(path):
            self._videos.see(path)
        elif entry.is_symlink() and not is_image(path) and not os.path.exists(entry.path):
            self._unread.add(entry.path)  # may lead to a folder on a disk that is not mounted

    def _relative(self, path: str) -> str:
        return path[len(self._prefix) :]


class _Found(NamedTuple):
    """Names in one folder."""

    files: list[str]
    folders: list[str]
    links: list[str]


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _with_parents(folder: str) -> set[_Identity]:
    """Return the folders above this one."""
    identities = set[_Identity]()
    above = os.path.realpath(folder)
    while (parent := os.path.dirname(above)) != above:
        above = parent
        try:
            status = os.stat(above)
        except OSError:  # no permission: no link leads there either
            continue
        identities.add((status.st_dev, status.st_ino))
    return identities


class RemoteSidecars:
    """The sidecars of one folder on an object store.

    Args:
        access: reads them.
        entries: of the folder.
    """

    def __init__(self, access: FileAccess, entries: Sequence[RemoteEntry]) -> None:
        from perception_encoder.metadata import MAX_SIDECAR_BYTES, SidecarFinder

        self._access = access
        self._files = {
            posixpath.basename(one.url): one
            for one in entries
            if not one.is_folder and (one.bytes or 0) <= MAX_SIDECAR_BYTES
        }
        self._finder = SidecarFinder(self._files)

    def find(self, url: str) -> list[Sidecar]:
        """Return the sidecars of a file, the one that counts most first."""
        found = [self._files[name] for name in self._finder.find(posixpath.basename(url))]
        return [
            Sidecar(
                posixpath.basename(one.url),
                partial(self._access.read, one.url, one.bytes),
                one.mtime,
            )
            for one in found
        ]


def list_remote_sidecars(folder: str) -> RemoteSidecars:
    """List the sidecars of a folder on an object store, by its URL.

    Raises:
        ImageError: it cannot be listed.
    """
    access = get_access(SourceOptions())
    return RemoteSidecars(access, access.folder(folder))


class RemoteFolderSource:
    """A folder on an object store, with all folders below it.

    Args:
        name: as it was given.
        top: the folder's URL as the store spells it.
        selection: which of its files to list.
        access: lists and reads it.
        wants_videos: whether to report videos, which are not read from there.
    """

    def __init__(
        self,
        name: str,
        top: str,
        selection: Selection,
        access: FileAccess,
        *,
        wants_videos: bool = False,
    ) -> None:
        self.name = name
        self._top = top.rstrip("/") + "/"
        self._selection = selection
        self._access = access
        self._unread = set[str]()
        self._system = Counter[str]()
        self._videos = LeftOutVideos(selection, is_wanted=wants_videos, is_remote=True)

    def items(self) -> Iterator[Item]:
        """List the images: first those of a folder, sorted, then those of its folders."""
        self._unread.clear()
        self._system.clear()
        self._videos.count = 0
        folders = [self._top]
        while folders:
            folder = folders.pop()
            try:
                entries = sorted(self._access.folder(folder), key=lambda entry: entry.url)
            except ImageError as err:
                self._unread.add(folder)
                yield make_broken_item(
                    folder, f"the folder cannot be listed: {err}", is_remote=True
                )
                continue
            yield from self._items(entries)
            folders += (
                entry.url.rstrip("/") + "/"
                for entry in reversed(entries)
                if entry.is_folder and self._enters(entry)
            )

    def covers(self, uri: str, member: str | None) -> bool:
        """Whether `items` would list this file, by its URL alone."""
        if member is not None or not uri.startswith(self._top):
            return False
        if any(uri.startswith(folder) for folder in self._unread):
            return False
        return self._selection.covers(self._relative(uri))

    def notes(self) -> list[str]:
        """Describe the system folders and videos that were skipped."""
        return describe_system_folders(self.name, self._system) + self._videos.notes(self.name)

    def leaves_out(self, uri: str, member: str | None) -> bool:
        """Whether this file is skipped by a pattern, or is in a system folder."""
        if member is not None or not uri.startswith(self._top):
            return False
        return self._selection.leaves_out(self._relative(uri))

    def _enters(self, entry: RemoteEntry) -> bool:
        path = self._relative(entry.url)
        if self._selection.enters(path):
            return True
        if self._selection.is_system(path):
            self._system[posixpath.basename(path)] += 1
        return False

    def _items(self, entries: list[RemoteEntry]) -> Iterator[Item]:
        sidecars = RemoteSidecars(self._access, entries)
        for entry in entries:
            if entry.is_folder:
                continue
            if not self._selection.lists(self._relative(entry.url)):
                self._videos.see(self._relative(entry.url))
                continue
            if (error := find_name_error(entry.url)) is None:
                yield self._access.entry_item(entry, sidecars.find(entry.url))
            else:
                yield make_broken_item(entry.url, error, is_remote=True)

    def _relative(self, url: str) -> str:
        return url.removeprefix(self._top).rstrip("/")
