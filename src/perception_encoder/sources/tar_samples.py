"""Matches the captions of an archive with its images.

`a.txt` belongs to `a.png`, and `a.png.json` to `a.png`, wherever they are. By the webdataset
convention `a.txt` also belongs to an `a.seg.png` without captions of its own, but only if no member
with another name (up to the first dot) is between them. A bounded number of images wait for their
captions. A caption that comes too late or twice is counted and given to no image.
"""

import unicodedata
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from perception_encoder.index import MetadataValue

MAX_WAITING: Final = 10_000
"""Images that wait for captions: as many as a usual shard of webdataset has, about 10 MB."""
MAX_WAITING_BYTES: Final = 64 * 2**20
"""Of captions and metadata that wait for their images."""

_ENTRY_BYTES: Final = 500  # overhead of one caption


@dataclass(slots=True)
class TarMember:
    """An image in an archive.

    Attributes:
        name: of the member.
        number: among the regular members named like images, from 0.
        offset: where its bytes begin in the (unpacked) archive.
        bytes: its size.
        metadata: from the members that belong to it.
        error: why it cannot be used, or None.
    """

    name: str
    number: int
    offset: int
    bytes: int
    metadata: dict[str, MetadataValue] = field(default_factory=dict)
    error: str | None = None


class Sample(NamedTuple):
    """An image and its values from other members, by key."""

    image: TarMember
    values: dict[str, object]


@dataclass(slots=True)
class _Beside:
    """Values of the members with one stem, by suffix, and which suffixes were used."""

    run: int
    values: dict[str, dict[str, object]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    num_bytes: int = 0


class _Waiting(NamedTuple):
    """An image, its run of members, and the stems whose values it takes; the last one wins."""

    image: TarMember
    run: int
    shared: tuple[str, ...]
    own: tuple[str, ...]


class TarSamples:
    """Matches images and captions as they arrive; yields the images in their order."""

    def __init__(self) -> None:
        self._waiting: deque[_Waiting] = deque()
        self._wanted = Counter[str]()  # names that waiting images take values from
        self._beside: dict[str, _Beside] = {}
        self._num_bytes = 0
        self._names = set[int]()  # hashes, which is all that is kept of every image
        self._ambiguous = set[str]()
        self._key = ""
        self._run = 0
        self._run_has = {"image": False, "text": False}
        self._is_sorted = True
        self.num_left_over = 0

    def add_image(self, image: TarMember) -> bool:
        """Add an image; return False if there was one of this name."""
        own = (stem := _strip_suffix(name := _normal(image.name)), name)
        if hash(name) in self._names:
            self._ambiguous.update(own)
            return False
        self._names.add(hash(name))
        self._begin(name, "image")
        shared = tuple(dict.fromkeys((_key_of(name), _strip_suffix(stem))))
        waiting = _Waiting(image, self._run, tuple(one for one in shared if one not in own), own)
        self._waiting.append(waiting)
        self._wanted.update(waiting.shared + waiting.own)
        return True

    def add_refused(self, image: TarMember) -> None:
        """Add an image that cannot be used, to be yielded in its place."""
        self._waiting.append(_Waiting(image, -1, (), ()))

    def add_text(self, name: str, ending: str, values: dict[str, object], num_bytes: int) -> None:
        """Add the values of a member with captions or metadata."""
        name = _normal(name)
        self._begin(name, "text")
        stem = _strip_suffix(name)
        if stem in self._wanted and not self._run_has["image"]:
            self._is_sorted = False  # its image came in an earlier run
        beside = self._beside.get(stem)
        num_bytes += _ENTRY_BYTES
        if (
            stem in self._ambiguous
            or (beside is not None and ending in beside.values)
            or self._num_bytes + num_bytes > MAX_WAITING_BYTES
        ):
            self.num_left_over += 1
            return
        beside = self._beside.setdefault(stem, _Beside(self._run))
        beside.values[ending] = values
        beside.num_bytes += num_bytes
        self._num_bytes += num_bytes

    def ready(self) -> Iterator[Sample]:
        """Yield the images that have their captions or cannot wait longer."""
        while self._waiting:
            first = self._waiting[0]
            is_complete = first.run < 0 or (
                self._is_sorted
                and first.run != self._run
                and any(name in self._beside for name in first.own)
            )
            if not is_complete and len(self._waiting) <= MAX_WAITING:
                return
            yield self._pop()

    def rest(self) -> Iterator[Sample]:
        """Yield the images that wait, and count the captions without an image."""
        while self._waiting:
            yield self._pop()
        for beside in self._beside.values():
            self.num_left_over += len(beside.values) - len(beside.used)
        self._beside.clear()

    def _begin(self, name: str, kind: str) -> None:
        """Track runs of members; an archive with captions apart from images is not sorted."""
        key = _key_of(name)
        if key != self._key:
            if self._run_has["text"] and not self._run_has["image"]:
                self._is_sorted = False
            self._run_has = {"image": False, "text": False}
            self._key = key
            self._run += 1
        self._run_has[kind] = True

    def _pop(self) -> Sample:
        image, run, shared, own = self._waiting.popleft()
        values = self._values_for(own) or self._values_for(shared, run)
        for name in shared + own:
            self._wanted[name] -= 1
            if not self._wanted[name]:
                del self._wanted[name]
                self._forget(name, run)
        return Sample(image, values)

    def _values_for(self, names: Sequence[str], run: int | None = None) -> dict[str, object]:
        """Return the values under these stems, from that run if one is given.

        Of two members with one suffix the later stem wins; the other stays unused. Values of a
        .json win over those of a .txt or .cls.
        """
        chosen: dict[str, _Beside] = {}
        for name in names:
            beside = self._beside.get(name)
            if beside is not None and run in (None, beside.run):
                chosen |= dict.fromkeys(beside.values, beside)
        values: dict[str, object] = {}
        for ending in sorted(chosen, key=lambda ending: ending == "json"):
            values |= chosen[ending].values[ending]
            chosen[ending].used.add(ending)
        return values

    def _forget(self, name: str, run: int) -> None:
        """Drop values that no waiting image takes; the present run may bring another image."""
        beside = self._beside.get(name)
        if beside is not None and beside.used and run != self._run:
            self._num_bytes -= beside.num_bytes
            self.num_left_over += len(beside.values) - len(beside.used)
            del self._beside[name]


def _normal(name: str) -> str:
    """Return a name in the form that is the same on all systems."""
    return unicodedata.normalize("NFC", name.removeprefix("./"))


def _key_of(name: str) -> str:
    """Return a name up to the first dot of its last part, the key of webdataset."""
    start = name.rfind("/") + 1
    dot = name.find(".", start + 1)
    return name if dot < 0 else name[:dot]


def _strip_suffix(name: str) -> str:
    start = name.rfind("/") + 1
    dot = name.rfind(".", start + 1)
    return name if dot < 0 else name[:dot]
