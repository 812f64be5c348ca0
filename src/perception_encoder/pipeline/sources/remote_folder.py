"""Pictures below a folder or prefix on an object store or another server."""

import posixpath
from collections import Counter
from collections.abc import Iterator

from perception_encoder.errors import ImageError
from perception_encoder.pipeline.sources.access import Access
from perception_encoder.pipeline.sources.item import Item, broken, name_problem
from perception_encoder.pipeline.sources.remote import Entry
from perception_encoder.pipeline.sources.select import Selection, system_note


class RemoteFolderSource:
    """A prefix, listed folder by folder.

    Args:
        name: as it was given.
        top: the URL of the prefix, as its store spells it.
        selection: which of its files to list.
        access: lists and reads it.
    """

    def __init__(self, name: str, top: str, selection: Selection, access: Access) -> None:
        self.name = name
        self._top = top.rstrip("/") + "/"
        self._selection = selection
        self._access = access
        self._unread = set[str]()
        self._system = Counter[str]()

    def items(self) -> Iterator[Item]:
        """List the pictures: of each folder its own in sorted order, then its folders'."""
        self._unread.clear()
        self._system.clear()
        folders = [self._top]
        while folders:
            folder = folders.pop()
            try:
                entries = sorted(self._access.folder(folder), key=lambda entry: entry.url)
            except ImageError as err:
                self._unread.add(folder)
                yield broken(folder, f"the folder cannot be listed: {err}", is_remote=True)
                continue
            yield from self._items(entries)
            folders += (
                entry.url.rstrip("/") + "/"
                for entry in reversed(entries)
                if entry.is_folder and self._enters(entry)
            )

    def covers(self, uri: str, member: str | None) -> bool:
        """Say whether `items` would list this file, going by its URL alone."""
        if member is not None or not uri.startswith(self._top):
            return False
        if any(uri.startswith(folder) for folder in self._unread):
            return False
        return self._selection.covers(self._relative(uri))

    def notes(self) -> list[str]:
        """Say which folders of systems were left out."""
        return system_note(self.name, self._system)

    def leaves_out(self, uri: str, member: str | None) -> bool:
        """Say whether this file is left out by a pattern, or lies in a system's folder."""
        if member is not None or not uri.startswith(self._top):
            return False
        return self._selection.leaves_out(self._relative(uri))

    def _enters(self, entry: Entry) -> bool:
        path = self._relative(entry.url)
        if self._selection.enters(path):
            return True
        if self._selection.is_system(path):
            self._system[posixpath.basename(path)] += 1
        return False

    def _items(self, entries: list[Entry]) -> Iterator[Item]:
        for entry in entries:
            if entry.is_folder or not self._selection.lists(self._relative(entry.url)):
                continue
            if (problem := name_problem(entry.url)) is None:
                yield self._access.entry_item(entry)
            else:
                yield broken(entry.url, problem, is_remote=True)

    def _relative(self, url: str) -> str:
        return url.removeprefix(self._top).rstrip("/")
