"""Folds hits that show one and the same thing under the best of them.

- Pairs: the files that a camera writes of one shot. They have one name and lie in one folder: a RAW
  file and its JPEG, or a photo and the clip of a Live Photo.
- Bursts: photos of one camera, taken within seconds of each other, that look alike.
- Near-duplicates: files of equal content, and embeddings that are as near as asked for.
- Tiles: parts of an image that have rows of their own. An image is one hit, for its best part.
"""

from __future__ import annotations

import datetime
import posixpath
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Final, Literal, TypeAlias

import numpy as np

from perception_encoder.index import Hit
from perception_encoder.preprocess.files import RAW_SUFFIXES
from perception_encoder.search.photo_filters import CAMERA, TAKEN_AT
from perception_encoder.types import Embeddings
from perception_encoder.video.names import is_moment

BURST_SECONDS: Final = 2.0
"""The usual most seconds between photos of one burst."""

BURST_COSINE: Final = 0.9
"""The lowest cosine of photos of one burst."""

_ROUNDING: Final = 5e-4  # of a cosine of float16 vectors
_PHOTO_SUFFIXES: Final = (".heic", ".heif", ".hif", ".jpeg", ".jpg")
_CLIP_SUFFIXES: Final = (".mov", ".mp4")
# The clip of a Live Photo takes 3 s. A longer one of the same name is a film of its own.
_MAX_CLIP_SECONDS: Final = 6.0
_END: Final = "end"  # column: where a moment of a video ends, in seconds

_Role: TypeAlias = Literal["photo", "raw", "clip"]


def fold_hits(
    hits: Sequence[Hit],
    *,
    num_groups: int,
    vectors: Mapping[str, Embeddings] | None = None,
    unique: float | None = None,
    bursts: float | None = None,
    pairs: bool = True,
) -> list[list[Hit]]:
    """Group hits.

    Args:
        hits: the hits, best first.
        num_groups: the most groups; hits that would begin another one are dropped.
        vectors: the (E,) unit vector of each hit, by its id; needed for `unique` and `bursts`.
        unique: the lowest cosine of near-duplicates; None folds none.
        bursts: the most seconds between photos of a burst that follow each other; None folds none.
        pairs: fold the files that a camera writes of one shot.

    Returns:
        The groups, best first, and in each the best hit first. Of a pair the photo comes before its
        RAW file, and both before the clip.
    """
    shots = find_shots(hits) if pairs else {}
    series = _find_series(hits, bursts) if bursts is not None else {}
    groups: list[list[Hit]] = []
    leaders = _Leaders(num_groups, vectors, unique)
    places: dict[tuple[str, str], int] = {}
    for hit in hits:
        keys = [("shot", shots[hit.id])] if hit.id in shots else []
        if unique is not None and hit.sha256 is not None:
            keys.append(("content", hit.sha256))
        place = next((places[key] for key in keys if key in places), None)
        if place is None:
            place = leaders.find(hit, series.get(hit.id))
        if place is not None:
            groups[place].append(hit)
        elif len(groups) < num_groups:
            place = len(groups)
            groups.append([hit])
            leaders.add(hit, series.get(hit.id))
        else:
            continue
        for key in keys:
            places.setdefault(key, place)
    return [_with_photo_first(group, shots) for group in groups] if shots else groups


def fold_tiles(hits: Sequence[Hit]) -> list[Hit]:
    """Return the best hit of each image, itself or a tile; `box` tells which part was found."""
    best: dict[str, Hit] = {}
    for hit in hits:
        image = hit.of_image()
        best.setdefault(image.id, image)
    return list(best.values())


class _Leaders:
    """The first hit of each group, to compare others with."""

    def __init__(
        self, num_groups: int, vectors: Mapping[str, Embeddings] | None, unique: float | None
    ) -> None:
        self._known = vectors or {}
        embed_dim = len(next(iter(self._known.values()), ()))
        self._vectors = np.empty((num_groups if self._known else 0, embed_dim), np.float32)
        self._series = np.full(num_groups, -1)
        self._floor = np.inf if unique is None else unique - _ROUNDING
        self._count = 0

    def find(self, hit: Hit, series: int | None) -> int | None:
        """Return the first group of near-duplicates of a hit, or of its burst."""
        if not self._known or (series is None and np.isinf(self._floor)):
            return None
        cosines = self._vectors[: self._count] @ self._known[hit.id]
        is_near = cosines >= self._floor
        if series is not None:
            of_series = self._series[: self._count] == series
            is_near |= of_series & (cosines >= BURST_COSINE - _ROUNDING)
        near = np.flatnonzero(is_near)
        return int(near[0]) if near.size else None

    def add(self, hit: Hit, series: int | None) -> None:
        """Begin the next group."""
        if self._known:
            self._vectors[self._count] = self._known[hit.id]
            self._series[self._count] = -1 if series is None else series
        self._count += 1


def leave_out(hits: Sequence[Hit], own: Collection[str], *, pairs: bool) -> list[Hit]:
    """Return the hits without those of some ids, and without other files of their shots."""
    if not own:
        return list(hits)
    shots = find_shots(hits) if pairs else {}
    left_out = {shots[key] for key in own if key in shots}
    return [hit for hit in hits if hit.id not in own and shots.get(hit.id) not in left_out]


def find_shots(hits: Sequence[Hit]) -> dict[str, str]:
    """Return the name of the shot for each hit of which another file was found, by its id."""
    files: dict[str, dict[_Role, list[Hit]]] = defaultdict(lambda: defaultdict(list))
    for hit in hits:
        if (role := _role_of(hit)) is not None:
            files[_shot_of(hit)][role].append(hit)
    shots: dict[str, str] = {}
    for shot, roles in files.items():
        if any(_end_of(hit) > _MAX_CLIP_SECONDS for hit in roles.get("clip", ())):
            del roles["clip"]
        if len(roles) < 2:
            continue
        for role, found in roles.items():
            # Of two photos of one name, such as a JPEG and a HEIC, the second stands for itself.
            shots |= {hit.id: shot for hit in (found if role == "clip" else found[:1])}
    return shots


def _shot_of(hit: Hit) -> str:
    name = hit.uri if is_moment(hit.uri, hit.member) else hit.name
    folder, file = posixpath.split(name)
    return f"{folder}/{posixpath.splitext(file)[0].casefold()}"


def _role_of(hit: Hit) -> _Role | None:
    is_clip = is_moment(hit.uri, hit.member)
    suffix = posixpath.splitext(hit.uri if is_clip else hit.name)[1].lower()
    if is_clip:
        return "clip" if suffix in _CLIP_SUFFIXES else None
    if suffix in RAW_SUFFIXES:
        return "raw"
    return "photo" if suffix in _PHOTO_SUFFIXES else None


def _end_of(hit: Hit) -> float:
    """Return when a moment ends; one without a time may be of any film."""
    end = hit.metadata.get(_END)
    return float(end) if isinstance(end, int | float) else np.inf


_ORDER: Final[dict[_Role | None, int]] = {"photo": 0, "raw": 1, "clip": 2}


def _with_photo_first(group: list[Hit], shots: Mapping[str, str]) -> list[Hit]:
    """Bring the photo of a pair to the place of the best file of it."""
    shot = shots.get(group[0].id)
    if shot is None:
        return group
    files = [hit for hit in group if shots.get(hit.id) == shot]
    best = min(files, key=lambda hit: _ORDER[_role_of(hit)])
    return [best, *(hit for hit in group if hit is not best)]


def _find_series(hits: Sequence[Hit], seconds: float) -> dict[str, int]:
    """Return the series of each photo that has a time, by its id."""
    by_camera: dict[object, list[tuple[datetime.datetime, str]]] = defaultdict(list)
    for hit in hits:
        time = hit.metadata.get(TAKEN_AT)
        if isinstance(time, datetime.datetime):
            by_camera[hit.metadata.get(CAMERA)].append((time, hit.id))
    series: dict[str, int] = {}
    number = 0
    for photos in by_camera.values():
        previous = None
        for time, key in sorted(photos):
            if previous is None or (time - previous).total_seconds() > seconds:
                number += 1
            previous = time
            series[key] = number
    return series
