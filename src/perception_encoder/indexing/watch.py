"""Watches folders, and turns each burst of changes into sources of the changed files."""

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from threading import Event
from typing import TYPE_CHECKING, Final

from perception_encoder.errors import SourceNotFoundError
from perception_encoder.index import Outcome
from perception_encoder.index.rows import clamp_time
from perception_encoder.metadata.sidecars import SidecarFinder, is_sidecar
from perception_encoder.sources import Item, Source, SourceOptions, open_sources, read_image
from perception_encoder.sources.item import is_table, is_tar, make_broken_item, scheme_of

if TYPE_CHECKING:
    from watchfiles import Change


_QUIET_MS: Final = 400  # a file that is still being copied changes again within this time
_LONGEST_BURST_MS: Final = 5000
_TRIED_ANEW: Final = "; to try an archive or index again, name it as a source"


class ChangedFiles:
    """The changed files below a folder, and names that may be gone.

    Args:
        folder: the source of the whole folder.
        paths: absolute paths of files and folders that were added, changed or deleted.
        options: as the folder's.
    """

    def __init__(self, folder: Source, paths: Sequence[str], options: SourceOptions) -> None:
        self.name = folder.name
        self._folder = folder
        self._paths = sorted(paths)
        self._options = options
        self._gone = [path for path in self._paths if not os.path.lexists(path)]
        self._sidecars = [path for path in self._paths if is_sidecar(path)]
        self._beside = set[str]()

    def items(self) -> Iterator[Item]:
        """List the changed files that the folder covers, and all files of new folders.

        Also list the files whose sidecars were added, changed or deleted.
        """
        self._beside = set(_find_beside(self._sidecars))
        for path in dict.fromkeys([*self._paths, *sorted(self._beside)]):
            if not os.path.exists(path):
                continue
            for source in open_sources([path], self._options):
                yield from (item for item in source.items() if self._folder.covers(item.uri, None))

    def has_changed_sidecar(self, uri: str) -> bool:
        """Whether a sidecar of this file was added, changed or deleted."""
        return uri in self._beside

    def covers(self, uri: str, member: str | None) -> bool:
        """Whether this image was at or below one of the names that are gone."""
        return any(
            uri == path or uri.startswith(os.path.join(path, "")) for path in self._gone
        ) and self._folder.covers(uri, member)


def _find_beside(sidecars: Iterable[str]) -> Iterator[str]:
    """Yield the files beside which sidecars were added, changed or deleted."""
    by_folder: dict[str, set[str]] = {}
    for path in sidecars:
        folder, name = os.path.split(path)
        by_folder.setdefault(folder, set()).add(name)
    for folder, changed in by_folder.items():
        try:
            names = os.listdir(folder)
        except OSError:  # it is gone, too
            continue
        finder = SidecarFinder({*names, *changed})
        yield from (
            os.path.join(folder, name) for name in names if changed.intersection(finder.find(name))
        )


def watch_changes(
    names: Sequence[str], options: SourceOptions, *, stop: Event | None = None
) -> Iterator[list[Source]]:
    """Watch folders from now on, and yield each burst of changes as sources, forever.

    Changes between this call and the first iteration are kept, so a run over the whole folders in
    between misses nothing.

    Args:
        names: the sources of the full run; those that are folders are watched.
        options: of the full run.
        stop: ends it when set.

    Raises:
        SourceNotFoundError: none of the names is a folder.
    """
    from watchfiles import watch

    folders = {os.path.abspath(name): name for name in names if os.path.isdir(name)}
    if not folders:
        raise SourceNotFoundError(
            f"--watch follows folders, and none of these is one: {', '.join(names)}"
        )
    sources = {top: open_sources([name], options)[0] for top, name in folders.items()}
    bursts = watch(
        *folders,
        watch_filter=None,
        debounce=_LONGEST_BURST_MS,
        step=_QUIET_MS,
        stop_event=stop,
        rust_timeout=_QUIET_MS,
        yield_on_timeout=True,
    )
    first = next(bursts, set())  # starts the generator, and with it the watch
    return _as_sources(chain([first], bursts), sources, options)


def _as_sources(
    bursts: Iterable[set[tuple["Change", str]]], sources: dict[str, Source], options: SourceOptions
) -> Iterator[list[Source]]:
    for burst in bursts:
        paths = {path for _, path in burst}
        changed: list[Source] = []
        for top, source in sources.items():
            below = [path for path in paths if path.startswith(os.path.join(top, ""))]
            if below:
                changed.append(ChangedFiles(source, below, options))
        if changed:
            yield changed


class FailedItems:
    """The items of failed outcomes, opened by their names."""

    name = "what failed before"

    def __init__(self, failures: Iterable[Outcome]) -> None:
        self._failures = list(failures)

    def items(self) -> Iterator[Item]:
        """List the items in the order in which they failed."""
        for failure in self._failures:
            if failure.member is None and (is_tar(failure.uri) or is_table(failure.uri)):
                yield make_broken_item(failure.uri, _named_anew(failure.message))
                continue
            is_remote = bool(scheme_of(failure.uri))
            yield Item(
                failure.uri,
                partial(read_image, failure.uri, failure.member, failure.offset, failure.bytes),
                member=failure.member,
                offset=failure.offset,
                bytes=None if failure.member is None else failure.bytes,
                mtime=None if is_remote else _mtime_now(failure.uri),
                metadata=failure.metadata,
                is_remote=is_remote,
            )

    def covers(self, uri: str, member: str | None) -> bool:  # noqa: ARG002  as every source
        """Return False: a failure does not tell what should exist."""
        return False


def _named_anew(message: str) -> str:
    """Add to the message of an archive or table how to retry it."""
    return f"{message.removesuffix(_TRIED_ANEW)}{_TRIED_ANEW}"


def _mtime_now(path: str) -> int | None:
    try:
        return clamp_time(os.stat(path).st_mtime_ns)
    except OSError:  # reading reports it
        return None
