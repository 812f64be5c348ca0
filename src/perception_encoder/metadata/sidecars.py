"""Find and read files beside a photo with its metadata: XMP, and JSON of Google Takeout."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeAlias

from perception_encoder.metadata.photo import PhotoMetadata
from perception_encoder.metadata.values import (
    clean_caption,
    make_altitude,
    make_place,
    parse_number,
    taken_from_timestamp,
)
from perception_encoder.metadata.xmp import read_xmp

MAX_SIDECAR_BYTES: Final = 2**20
"""Of a larger sidecar nothing is read."""

_XMP_SUFFIX: Final = ".xmp"
_JSON_SUFFIX: Final = ".json"
# Takeout ends a name before its suffix after 46 characters (a JSON file) or 47 (a photo).
_MAX_JSON_STEM: Final = 46
_MAX_PHOTO_STEM: Final = 47
_SUPPLEMENT: Final = "supplemental-metadata"
_NUMBER: Final = re.compile(r"(.*?)(\(\d{1,4}\))?", re.ASCII | re.DOTALL)
# What Google Photos adds to the name of an edited copy, in the languages of its users. The copy has
# no JSON file: that of the original counts.
_EDITED: Final = (
    "-edited", "-effects", "-smile", "-mix", "-bearbeitet", "-bewerkt", "-edytowane", "-editado",
    "-ha editado", "-editat", "-modificato", "-modifié", "-編集済み",
)  # fmt: skip
_MIN_EDITED: Final = 2  # characters that are left of it where the name was too long
# The video of a Live Photo has no JSON file of its own either.
_LIVE_SUFFIXES: Final = frozenset((".mp4", ".mov", ".mp"))
# What tells Takeout's JSON files from those of other programs.
_MARKS: Final = frozenset(("photoTakenTime", "geoData", "geoDataExif"))

_Key: TypeAlias = tuple[str, str]
"""A photo's name as far as that of its JSON file has it, and the number of a copy, "(1)" or ""."""


class SidecarFinder:
    """Finds the sidecars of the photos of one folder, by the names alone.

    XMP sidecars are named `IMG.jpg.xmp` or `IMG.xmp`. Takeout names the JSON file of `IMG.jpg`
    `IMG.jpg.json` or `IMG.jpg.supplemental-metadata.json`, of which it keeps 46 characters before
    `.json`, or `IMG.json`; that of `IMG(1).jpg` has the number at the end, `IMG.jpg(1).json`. An
    edited copy (`IMG-edited.jpg`, in many languages) and the video of a Live Photo have the JSON
    file of the original.

    Args:
        names: of all files in the folder; others than sidecars are passed over.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._xmp: dict[str, str] = {}
        self._json: dict[_Key, str] = {}
        self._live: dict[_Key, str] = {}
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() == _XMP_SUFFIX:
                self._xmp.setdefault(stem, name)
            elif suffix.lower() == _JSON_SUFFIX:
                base, number = _json_key(stem)
                self._json.setdefault((base, number), name)
                self._live.setdefault((os.path.splitext(base)[0], number), name)

    def find(self, name: str) -> list[str]:
        """Return the names of a photo's sidecars, at most one of each kind, XMP first.

        Args:
            name: of the photo, without its folder.
        """
        xmp = self._xmp.get(name) or self._xmp.get(os.path.splitext(name)[0])
        json_ = self._find_json(name) if self._json else None
        return [one for one in (xmp, json_) if one is not None]

    def _find_json(self, name: str) -> str | None:
        for stem, number, suffix in _iter_originals(unicodedata.normalize("NFC", name)):
            cut = (stem + suffix)[:_MAX_JSON_STEM]
            for base in (cut, cut.rstrip("."), stem):
                if (found := self._json.get((base, number))) is not None:
                    return found
            if suffix.lower() in _LIVE_SUFFIXES and (stem, number) in self._live:
                return self._live[stem, number]
        return None


def is_sidecar(name: str) -> bool:
    """Whether a file has the suffix of a sidecar."""
    return os.path.splitext(name)[1].lower() in (_XMP_SUFFIX, _JSON_SUFFIX)


def find_sidecars(path: str | os.PathLike[str]) -> list[str]:
    """Return the paths of a photo's sidecars; see `SidecarFinder` for many photos of a folder."""
    folder, name = os.path.split(os.fspath(path))
    try:
        finder = SidecarFinder(os.listdir(folder or os.curdir))
    except (OSError, ValueError):
        return []
    return [os.path.join(folder, one) for one in finder.find(name)]


def merge_sidecars(metadata: PhotoMetadata, sidecars: Iterable[tuple[str, bytes]]) -> PhotoMetadata:
    """Return a photo's metadata together with what its sidecars say.

    A value of an XMP sidecar counts before that of the photo: programs that leave photos untouched
    write what people correct there. A value of Takeout's JSON counts where there is no other: its
    time is without a time zone, in UTC.

    Args:
        metadata: of the photo itself.
        sidecars: name and content of each file; the suffix of the name tells its kind. What is
            damaged, larger than `MAX_SIDECAR_BYTES` or of another kind has no values.
    """
    last: list[PhotoMetadata] = []
    for name, content in sidecars:
        suffix = os.path.splitext(name)[1].lower()
        if len(content) > MAX_SIDECAR_BYTES:
            continue
        if suffix == _XMP_SUFFIX:
            tags = read_xmp(content)
            metadata = tags.metadata.fill_from(metadata)
            if tags.digitized is not None:
                last.insert(0, PhotoMetadata(**tags.digitized._asdict()))
        elif suffix == _JSON_SUFFIX:
            last.append(read_takeout(content))
    return metadata.fill_from(*last)


def read_takeout(content: bytes) -> PhotoMetadata:
    """Read the JSON file of a photo in Google Takeout: its time, place and description.

    Its title is the photo's file name and no title.
    """
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        return PhotoMetadata()
    if not isinstance(values, dict) or not _MARKS & values.keys():
        return PhotoMetadata()
    taken = taken_from_timestamp(_number(_part(values, "photoTakenTime").get("timestamp")))
    description = values.get("description")
    metadata = PhotoMetadata(
        taken_at=taken and taken.taken_at,
        taken_offset=taken and taken.taken_offset,
        caption=clean_caption(description) if isinstance(description, str) else None,
    )
    for name in ("geoData", "geoDataExif"):  # where people put it, where the camera was
        place = _part(values, name)
        latitude, longitude = make_place(
            _number(place.get("latitude")), _number(place.get("longitude"))
        )
        if latitude is not None:
            # Zero is written where the altitude is not known.
            altitude = make_altitude(_number(place.get("altitude"))) or None
            return metadata.fill_from(
                PhotoMetadata(latitude=latitude, longitude=longitude, altitude=altitude)
            )
    return metadata


def _part(values: dict[str, Any], name: str) -> dict[str, Any]:
    part = values.get(name)
    return part if isinstance(part, dict) else {}


def _number(value: object) -> float | None:
    if isinstance(value, str):
        return parse_number(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 2**63 else None


def _json_key(stem: str) -> _Key:
    """Return what a JSON file's name says of the photo's."""
    base, number = _split_number(unicodedata.normalize("NFC", stem))
    photo, _, supplement = base.rpartition(".")
    # The number is at the end here too: IMG.jpg.supplemental-metadata(1).json.
    return (photo if photo and _SUPPLEMENT.startswith(supplement) else base), number


def _split_number(stem: str) -> tuple[str, str]:
    found = _NUMBER.fullmatch(stem)
    return (found[1], found[2] or "") if found else (stem, "")


def _iter_originals(name: str) -> Iterator[tuple[str, str, str]]:
    """Yield stem, number and suffix of a photo, and of those that it may be an edited copy of."""
    whole, suffix = os.path.splitext(name)
    stem, number = _split_number(whole)
    yield whole, "", suffix
    if number:
        yield stem, number, suffix
    for edited in _EDITED:
        shortest = _MIN_EDITED if len(whole) == _MAX_PHOTO_STEM else len(edited)
        for length in range(len(edited), shortest - 1, -1):
            if stem.lower().endswith(edited[:length]):
                yield stem[:-length], number, suffix
                break
