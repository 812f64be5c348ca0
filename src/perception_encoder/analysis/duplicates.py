"""Finds duplicates in an index, and chooses the image to keep of each group. Deletes nothing.

There are four tiers, each looser than the one before: identical bytes; identical pixels in another
file; near duplicates (re-encoded, resized, slightly cropped: nearly equal embeddings); similar.

A RAW file is no duplicate of the JPEG that was made of it, nor a moment of a video one of a photo
or of another moment of that video, however alike they look: only files of one kind are compared.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from perception_encoder.analysis.near_pairs import NearPairs, find_near_pairs, find_star_cover
from perception_encoder.analysis.ranked_images import (
    DAMAGE_REASON,
    Keep,
    Numbers,
    RankedImages,
    ReportStep,
    find_damaged_rows,
    rank_images,
    report_nothing,
)
from perception_encoder.errors import ImageError
from perception_encoder.index import Index, Row
from perception_encoder.index.rows import clamp_time
from perception_encoder.preprocess.decode import decode_image
from perception_encoder.preprocess.files import RAW_SUFFIXES
from perception_encoder.preprocess.transforms import to_rgb, turn_upright
from perception_encoder.video.names import VIDEO_SUFFIXES

if TYPE_CHECKING:
    import pyarrow as pa

ReadImage: TypeAlias = Callable[[Row], bytes]
"""A function that returns an image's encoded bytes, and raises ImageError or OSError."""

Tier: TypeAlias = Literal["identical bytes", "identical pixels", "near duplicate", "similar"]
TIERS: Final[tuple[Tier, ...]] = get_args(Tier)
"""The tiers, from the strictest to the loosest."""

NEAR_DUPLICATE: Final = 0.98
"""The lowest cosine of near duplicates, measured with pe-nano (`benchmarks/duplicates.py`).

All copies that were re-encoded at quality 30 to 95 or resized to 50 to 200 % reach it, 99 % of
copies cropped by 1 %, and 92 % of copies cropped by 2 % (0.99 loses nearly a third of these). None
of 55,278 pairs of different drawings and of 78 of photos reach 0.95. Another model may need another
value: look at a few groups before you remove anything."""

SIMILAR: Final = 0.90
"""The lowest cosine of similar images."""

_THREADS: Final = 4  # a large photo takes 0.3 GB while it is decoded
_DIGEST_BYTES: Final = 16


def iter_pixel_digests(
    rows: Iterable[Row], read: ReadImage
) -> Iterator[bytes | ImageError | OSError]:
    """Yield a digest of the size and pixels of each row's image, or the error of reading it."""
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(lambda row: _digest(row, read), rows)


def _digest(row: Row, read: ReadImage) -> bytes | ImageError | OSError:
    try:
        image = to_rgb(turn_upright(decode_image(read(row), item=row.name)), item=row.name)
    except (ImageError, OSError) as err:
        return err
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    digest.update(f"{image.width} {image.height} ".encode())
    digest.update(image.tobytes())
    return digest.digest()


class CheckedFiles:
    """Checks that files are as indexed, and that no file is checked under two names."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], str] = {}

    def find_error(self, row: Row) -> str | None:
        """Return why the row's file cannot be used; None if it can. URLs are not checked."""
        if "://" in row.uri:
            return None
        if row.member is None and os.path.islink(row.uri):
            return "is a link to another file"
        try:
            status = os.stat(row.uri)
        except OSError as err:
            return f"has gone or cannot be read ({err.strerror})"
        if row.mtime not in (None, clamp_time(status.st_mtime_ns)):
            return "has changed since it was indexed"
        if row.member is not None:
            return None
        if row.bytes not in (None, status.st_size):
            return "has changed since it was indexed"
        identity = (status.st_dev, status.st_ino)
        name = self._seen.setdefault(identity, row.uri)
        return None if name == row.uri else f"is another name of {name}"


@dataclass(frozen=True)
class Duplicate:
    """A redundant image, its relation to the kept image of its group, and their cosine."""

    row: Row
    tier: Tier
    score: float


@dataclass(frozen=True)
class DuplicateGroup:
    """Duplicates: the image to keep, and the others, each compared with `kept` itself."""

    kept: Row
    others: tuple[Duplicate, ...]

    @property
    def tier(self) -> Tier:
        """The loosest relation in the group."""
        return max((other.tier for other in self.others), key=TIERS.index)


@dataclass(frozen=True)
class UnreadableImage:
    """An image that was left out, and the reason."""

    row: Row
    reason: str


@dataclass(frozen=True)
class Duplicates:
    """The duplicates of an index.

    Attributes:
        groups: the strictest tier first, then by the path of the kept image.
        left_out: images that have vanished or changed, are unreadable or links, or have a damaged
            embedding.
        num_images: number of compared images.
        num_crowded: number of kept images with more near images than were compared. After the
            others have been removed, another search may find them redundant too.
    """

    groups: tuple[DuplicateGroup, ...]
    left_out: tuple[UnreadableImage, ...]
    num_images: int
    num_crowded: int


def find_duplicates(
    index: Index,
    read: ReadImage,
    *,
    tier: Tier = "near duplicate",
    threshold: float | None = None,
    keep: Keep = "resolution",
    where: str | None = None,
    report: ReportStep = report_nothing,
) -> Duplicates:
    """Find groups of duplicates.

    An image is decoded only if another one has the same size and a nearly equal embedding. Time and
    memory are those of `find_near_pairs`; identical bytes take one pass over narrow columns.

    Args:
        index: the index.
        read: returns an image's encoded bytes.
        tier: the loosest relation that counts.
        threshold: the lowest cosine of "near duplicate" (default 0.98) or "similar" (default 0.9);
            unused for the other tiers.
        keep: which image of a group is kept; ties are broken by pixels, bytes and path.
        where: an SQL condition; other rows are left out.
        report: called between blocks of work.

    Raises:
        QueryError: the condition is wrong.
        ValueError: a threshold outside 0 to 1.
    """
    if threshold is None:
        threshold = SIMILAR if tier == "similar" else NEAR_DUPLICATE
    if not 0 < threshold <= 1:
        raise ValueError(f"the threshold is a cosine above 0 and at most 1, got {threshold}")
    images = rank_images(index, keep, where, report)
    search = _Search(index, images, read, report)
    if tier != "identical bytes":
        is_near = tier in ("near duplicate", "similar")
        pairs = search.near(threshold if is_near else math.inf, where)
        search.join_equal_pixels(pairs)
        search.join_near(pairs)
    return search.result(near_from=NEAR_DUPLICATE if tier == "similar" else threshold)


class _Search:
    """Joins images, the strictest tier first: `kept[n]` is the image that is kept for n."""

    def __init__(
        self, index: Index, images: RankedImages, read: ReadImage, report: ReportStep
    ) -> None:
        self._report = report
        self._index = index
        self._images = images
        self._read = read
        self._kinds = _Kinds(images)
        self._files = CheckedFiles()
        self._left_out: list[UnreadableImage] = []
        self._usable = np.ones(len(images), np.bool_)
        self._is_checked = np.zeros(len(images), np.bool_)
        self._is_crowded = np.zeros(len(images), np.bool_)
        self._content = self._join_copies()
        self._pixels = self._content
        self._kept = self._content
        self._scores = np.ones(len(images), np.float32)

    def near(self, threshold: float, where: str | None) -> NearPairs:
        """Compare images of different content, and check the files of near ones."""
        is_first = self._content == np.arange(len(self._content))
        chosen = np.flatnonzero(self._usable & is_first & self._is_comparable(where))
        pairs = find_near_pairs(
            self._index,
            self._images,
            chosen,
            threshold=threshold,
            where=where,
            report=self._report,
        )
        self._is_crowded = pairs.is_crowded
        pairs = self._kinds.alike(pairs)
        concerned = pairs.may_be_equal.copy()
        concerned[pairs.earlier] = concerned[pairs.later] = True
        self._check(np.flatnonzero(concerned))
        return pairs.among(self._usable)

    def join_equal_pixels(self, pairs: NearPairs) -> None:
        """Decode images that may be equal, and join equal ones."""
        candidates = np.flatnonzero(pairs.may_be_equal).tolist()
        rows = (self._images.row(number) for number in candidates)
        first: dict[tuple[int, bytes], int] = {}
        joined = np.arange(len(self._pixels))
        digests = iter_pixel_digests(rows, self._read)
        for place, (number, digest) in enumerate(zip(candidates, digests, strict=True)):
            self._report("comparing pixels", place, len(candidates))
            if isinstance(digest, bytes):
                joined[number] = first.setdefault((self._kinds.of(number), digest), number)
            else:
                for copy in np.flatnonzero(self._content == number).tolist():
                    self._leave_out(copy, f"cannot be read: {digest}")
        self._pixels = self._kept = joined[self._content]

    def join_near(self, pairs: NearPairs) -> None:
        """Join near images; images with equal pixels count as one."""
        pairs = pairs.among(self._usable)
        ends = self._pixels[pairs.earlier], self._pixels[pairs.later]
        cover = find_star_cover(*ends, pairs.scores, len(self._pixels), self._report)
        self._kept = cover.kept[self._pixels]
        self._scores = cover.scores[self._pixels]

    def result(self, *, near_from: float) -> Duplicates:
        members: defaultdict[int, list[Duplicate]] = defaultdict(list)
        is_redundant = self._usable & (self._kept != np.arange(len(self._kept)))
        redundant = np.flatnonzero(is_redundant).tolist()
        for place, number in enumerate(redundant):
            self._report("collecting groups", place, len(redundant))
            kept = int(self._kept[number])
            score = round(float(self._scores[number]), 6)
            duplicate = Duplicate(
                self._images.row(number), self._tier(number, kept, near_from), score
            )
            members[kept].append(duplicate)
        groups = [
            DuplicateGroup(self._images.row(kept), tuple(sorted(others, key=_strictest_first)))
            for kept, others in members.items()
        ]
        groups.sort(key=lambda group: (TIERS.index(group.tier), _path(group.kept)))
        num_crowded = int((self._is_crowded & ~is_redundant).sum())
        return Duplicates(tuple(groups), tuple(self._left_out), len(self._images), num_crowded)

    def _join_copies(self) -> Numbers:
        """Return the first image with the content of each image whose file is usable."""
        contents = self._images.contents
        num_copies = np.bincount(contents, minlength=len(contents))
        copies = np.flatnonzero(num_copies[contents] > 1)
        self._check(copies)
        joined = np.arange(len(contents))
        first: dict[int, int] = {}
        for number in copies[self._usable[copies]].tolist():
            joined[number] = first.setdefault(int(contents[number]), number)
        return joined

    def _check(self, numbers: Numbers) -> None:
        unchecked = numbers[~self._is_checked[numbers]].tolist()
        for place, number in enumerate(unchecked):
            self._report("checking files", place, len(unchecked))
            self._is_checked[number] = True
            error = self._files.find_error(self._images.row(number))
            if error is not None:
                self._leave_out(number, error)

    def _is_comparable(self, where: str | None) -> NDArray[np.bool_]:
        """Return (R,) bool: whether each embedding is whole; damaged ones are reported.

        An image with a damaged embedding is still compared by its bytes.
        """
        is_whole = np.ones(len(self._images), np.bool_)
        damaged = find_damaged_rows(self._index, where, self._report)
        if damaged:
            ids = {row.id for row in damaged}
            numbers = range(len(self._images))
            is_whole[[n for n in numbers if self._images.row(n).id in ids]] = False
        self._left_out += [UnreadableImage(row, DAMAGE_REASON) for row in damaged]
        return is_whole

    def _leave_out(self, number: int, reason: str) -> None:
        self._usable[number] = False
        self._left_out.append(UnreadableImage(self._images.row(number), reason))

    def _tier(self, number: int, kept: int, near_from: float) -> Tier:
        if self._content[number] == self._content[kept]:
            return "identical bytes"
        if self._pixels[number] == self._pixels[kept]:
            return "identical pixels"
        return "near duplicate" if self._scores[number] >= near_from else "similar"


class _Kinds:
    """What images can be duplicates of: those of their own kind, except moments of one video."""

    def __init__(self, images: RankedImages) -> None:
        import pyarrow.compute as pc

        uris, members = images.columns["uri"], images.columns["member"]
        is_raw = _has_suffix(pc.coalesce(members, uris), RAW_SUFFIXES)
        is_moment = _has_suffix(uris, VIDEO_SUFFIXES) & members.is_valid().to_numpy()
        self._kinds: Final = is_raw + 2 * is_moment
        # Images that are no moments are each a video of their own.
        videos = uris.combine_chunks().dictionary_encode().indices.to_numpy()
        self._videos: Final = np.where(is_moment, videos, -1 - np.arange(len(videos)))

    def of(self, number: int) -> int:
        """Return the kind of an image; moments of videos are of one kind each."""
        video = int(self._videos[number])
        return 2 + video if video >= 0 else int(self._kinds[number])

    def alike(self, pairs: NearPairs) -> NearPairs:
        """Return the pairs of images that can be duplicates."""
        ends = pairs.earlier, pairs.later
        kinds, videos = (np.stack([of[end] for end in ends]) for of in (self._kinds, self._videos))
        kept = (kinds[0] == kinds[1]) & (videos[0] != videos[1])
        return replace(
            pairs,
            earlier=pairs.earlier[kept],
            later=pairs.later[kept],
            scores=pairs.scores[kept],
        )


def _has_suffix(names: pa.ChunkedArray, suffixes: Iterable[str]) -> NDArray[np.int64]:
    """Return (R,) int64: 1 where a name ends in one of the suffixes, in any case."""
    import pyarrow.compute as pc

    pattern = f"(?:{'|'.join(map(re.escape, suffixes))})$"
    found = pc.match_substring_regex(names, pattern, ignore_case=True)
    return np.asarray(found.to_numpy(), np.int64)


def _strictest_first(duplicate: Duplicate) -> tuple[int, float, tuple[str, str]]:
    return TIERS.index(duplicate.tier), -duplicate.score, _path(duplicate.row)


def _path(row: Row) -> tuple[str, str]:
    return row.uri, row.member or ""
