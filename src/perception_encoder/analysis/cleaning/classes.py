"""The class and the split of every image of an index, from its columns or its folders.

Folders are those below the folder that all images have in common: `train/cat/1.jpg` is of the split
`train` and the class `cat`, and so is `cat/train/1.jpg`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from perception_encoder.analysis.ranked_images import Numbers, RankedImages
from perception_encoder.errors import QueryError
from perception_encoder.index import Index

LABEL_COLUMN: Final = "label"
SPLIT_COLUMN: Final = "split"
FOLDERS: Final = "folders"
"""The source of classes or splits that come from the images' folders."""

_SPLITS: Final = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "holdout": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
_RARE: Final = 10  # times smaller than the largest class


@dataclass(frozen=True)
class Groups:
    """A name for each of R images.

    Attributes:
        names: G names, sorted.
        numbers: (R,) int64, the position of each image's name in `names`; -1 for none.
        source: the column that the names come from, `FOLDERS`, or "" for no names.
    """

    names: Sequence[str]
    numbers: Numbers
    source: str

    def __bool__(self) -> bool:
        return bool(self.names)

    def name_of(self, number: int) -> str | None:
        """Return the name of an image, None if it has none."""
        place = int(self.numbers[number])
        return self.names[place] if place >= 0 else None

    def counts(self) -> list[int]:
        """Return the number of images of each name."""
        named = self.numbers[self.numbers >= 0]
        found: list[int] = np.bincount(named, minlength=len(self.names)).tolist()
        return found


@dataclass(frozen=True)
class ClassBalance:
    """The sizes of the classes.

    Attributes:
        sizes: the number of images of each class, the largest class first.
        rare: the classes that are more than 10 times smaller than the largest.
        num_unlabeled: images without a class.
    """

    sizes: dict[str, int]
    rare: tuple[str, ...]
    num_unlabeled: int

    @property
    def ratio(self) -> float:
        """The size of the largest class over that of the smallest; 1 for fewer than two."""
        return max(self.sizes.values()) / min(self.sizes.values()) if self.sizes else 1.0

    @classmethod
    def of(cls, groups: Groups) -> ClassBalance:
        """Count the images of each class."""
        sizes = dict(Counter(dict(zip(groups.names, groups.counts(), strict=True))).most_common())
        largest = max(sizes.values(), default=0)
        rare = tuple(name for name, size in sizes.items() if size * _RARE < largest)
        return cls(sizes, rare, int((groups.numbers < 0).sum()) if groups else 0)


def read_groups(
    index: Index,
    images: RankedImages,
    where: str | None,
    *,
    label_column: str | None = None,
    label_folders: bool = False,
    split_column: str | None = None,
) -> tuple[Groups, Groups]:
    """Return the classes and the splits of images.

    Without a choice, classes are those of the column `label`; or else of the folders, if these also
    name splits. Other folders are often albums, not classes.

    Args:
        index: the index.
        images: its images.
        where: the condition that `images` was made with.
        label_column: the column of the classes.
        label_folders: take the folders as classes in any case.
        split_column: the column of the splits; None takes `split`, or else folders named `train`,
            `val`, `test` or with a usual synonym.

    Raises:
        QueryError: there is no such column.
    """
    names = index.schema.names
    labels, splits = _groups([], len(images), ""), _groups([], len(images), "")
    by_folder = _read_folders(images)
    if split_column or SPLIT_COLUMN in names:
        splits = _read_column(index, images, where, split_column or SPLIT_COLUMN)
    elif any(split is not None for split, _ in by_folder):
        splits = _groups([split for split, _ in by_folder], len(images), FOLDERS)
    if label_column:
        labels = _read_column(index, images, where, label_column)
    elif not label_folders and LABEL_COLUMN in names:
        labels = _read_column(index, images, where, LABEL_COLUMN)
    elif label_folders or splits.source == FOLDERS:
        labels = _groups([label for _, label in by_folder], len(images), FOLDERS)
        if len(labels.names) < 2 and not label_folders:  # such as `images`
            labels = _groups([], len(images), "")
    return labels, splits


def _read_column(index: Index, images: RankedImages, where: str | None, column: str) -> Groups:
    from perception_encoder.index.schema import VECTOR, without_text

    known = [name for name in without_text(index.schema).names if name != VECTOR]
    if column not in known:
        raise QueryError(f"{index.path} has no column {column!r}; it has {', '.join(known)}")
    values: list[str | None] = [None] * len(images)
    start = 0
    for batch in index.scan([column], where=where):
        numbers = images.numbers[start : start + batch.num_rows].tolist()
        for number, value in zip(numbers, batch[column].to_pylist(), strict=True):
            values[number] = _to_text(value)
        start += batch.num_rows
    return _groups(values, len(images), column)


def _to_text(value: object) -> str | None:
    if value is None or value != value:  # NaN
        return None
    if isinstance(value, float) and value.is_integer():  # of a column with gaps
        return str(int(value))
    return str(value).strip() or None


def _read_folders(images: RankedImages) -> list[tuple[str | None, str | None]]:
    """Return the split and the class of each image by its folders."""
    uris = images.columns["uri"].to_pylist()
    members = images.columns["member"].to_pylist()
    paths = [
        os.path.dirname(uri if member is None else f"{uri}/{member}")
        for uri, member in zip(uris, members, strict=True)
    ]
    folders = {path: path.replace(os.sep, "/").split("/") for path in dict.fromkeys(paths)}
    common = _count_common(list(folders.values()))
    if len(folders) == 1:  # the only folder may still be a split
        common -= 1
    of = {path: _split_and_class(parts[common:]) for path, parts in folders.items()}
    return [of[path] for path in paths]


def _count_common(paths: list[list[str]]) -> int:
    """Return the number of first parts that all paths share."""
    if not paths:
        return 0
    first, last = min(paths), max(paths)
    shared = (
        place for place, pair in enumerate(zip(first, last, strict=False)) if len({*pair}) > 1
    )
    return next(shared, min(len(first), len(last)))


def _split_and_class(folders: Sequence[str]) -> tuple[str | None, str | None]:
    split = next((_SPLITS[name.lower()] for name in folders if name.lower() in _SPLITS), None)
    others = [name for name in folders if name and name.lower() not in _SPLITS]
    return split, others[-1] if others else None


def _groups(values: Iterable[str | None], num_images: int, source: str) -> Groups:
    listed = list(values) or [None] * num_images
    names = sorted({value for value in listed if value is not None})
    place_of = {name: place for place, name in enumerate(names)}
    numbers = np.array([-1 if one is None else place_of[one] for one in listed], np.int64)
    return Groups(names, numbers, source if names else "")
