"""Finds indexed images whose sidecars have changed, though the images have not.

Beside the index a file says when a run last looked at each folder. A sidecar that was written after
that, or moved there, has changed. So the first run over a folder only begins to follow it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache, partial
from typing import Final, Protocol, runtime_checkable

from perception_encoder.atomic import atomic_write
from perception_encoder.index.storage import is_remote, sidecar_path
from perception_encoder.indexing.photo_metadata import find_sidecar_time
from perception_encoder.sources import Item, Source
from perception_encoder.sources.folder import FolderSource, RemoteFolderSource
from perception_encoder.sources.item import make_absolute

_FILE: Final = "sidecars.json"
_MAX_FOLDERS: Final = 1000
_SECOND: Final = 10**9
# Clocks of file systems tick: every few milliseconds, or every second or two.
_TICK: Final = 10**7
_COARSE_TICK: Final = 2 * _SECOND


@runtime_checkable
class FollowingSource(Source, Protocol):
    """A source that knows which sidecars have changed."""

    def has_changed_sidecar(self, uri: str) -> bool:
        """Whether a sidecar of this file was added, changed or deleted."""
        ...


class SidecarTimes:
    """When runs on an index looked at the sidecars of each folder.

    Made where a run begins: what changes from then on is for the next one. An index on object
    storage has no such file, and follows no sidecars.

    Args:
        path: of the index.
    """

    def __init__(self, path: str) -> None:
        self._file = None if is_remote(path) else sidecar_path(path, _FILE)
        self._started = time.time_ns()
        self._times = self._read()

    def checks(self, source: Source) -> Callable[[Item], bool]:
        """Return a function that says whether a sidecar of an unchanged file has changed.

        Args:
            source: one of the run; the function is for its items.
        """
        if isinstance(source, FollowingSource):
            return lambda item: item.member is None and source.has_changed_sidecar(item.uri)
        since = lru_cache(16)(partial(self._find, _key_of(source.name)))
        return lambda item: (
            item.member is None and _is_newer(item, since(os.path.dirname(item.uri)))
        )

    def note(self, sources: Iterable[Source]) -> None:
        """Store that a run over sources has ended. If that fails, the next run reads more."""
        keys = [
            _key_of(one.name)
            for one in sources
            if isinstance(one, FolderSource | RemoteFolderSource)
        ]
        if self._file is None or not keys:
            return
        times = {**self._times, **dict.fromkeys(keys, self._started)}
        latest = sorted(times.items(), key=lambda one: -one[1])[:_MAX_FOLDERS]
        with suppress(OSError), atomic_write(self._file) as temporary:
            temporary.write_text(json.dumps(dict(latest)), encoding="utf-8")

    def _find(self, key: str, folder: str) -> int | None:
        """Return when a run last looked at a folder: over this source, or one that holds it."""
        found = [self._times[key]] if key in self._times else []
        above = f"{folder}/"
        found += [when for one, when in self._times.items() if above.startswith(f"{one}/")]
        return max(found, default=None)

    def _read(self) -> dict[str, int]:
        if self._file is None:
            return {}
        with suppress(OSError, ValueError), open(self._file, encoding="utf-8") as file:
            found = json.load(file)
            if isinstance(found, dict):
                return {str(key): when for key, when in found.items() if isinstance(when, int)}
        return {}


def _is_newer(item: Item, since: int | None) -> bool:
    """Whether a sidecar was written after a time, or so near to it that the clock cannot tell."""
    if since is None:
        return False
    if item.is_remote:
        changed = max((one.mtime or 0 for one in item.sidecars), default=0)
    else:
        changed = find_sidecar_time(item.uri)
    return changed > since - (_TICK if changed % _SECOND else _COARSE_TICK)


def _key_of(name: str) -> str:
    return make_absolute(os.path.expanduser(name)).rstrip("/")
