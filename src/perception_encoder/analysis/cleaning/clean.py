"""`clean_index`: look through an index for all that is wrong with its images. Changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception_encoder.analysis.cleaning.classes import ClassBalance, Groups, read_groups
from perception_encoder.analysis.cleaning.leaks import find_leaks
from perception_encoder.analysis.cleaning.measured import MeasuredPixels, measure_pixels
from perception_encoder.analysis.cleaning.neighbors import (
    LEAST_IMAGES,
    Neighbors,
    find_neighbors,
    find_outliers,
)
from perception_encoder.analysis.cleaning.pixels import ReadImage
from perception_encoder.analysis.cleaning.report import (
    KINDS,
    CleaningReport,
    DuplicateCounts,
    Finding,
    Kind,
)
from perception_encoder.analysis.cleaning.wrong_labels import find_wrong_labels
from perception_encoder.analysis.discriminant import MAX_CLASSES
from perception_encoder.analysis.duplicates import NEAR_DUPLICATE
from perception_encoder.analysis.ranked_images import (
    Numbers,
    RankedImages,
    RankedVectors,
    ReportStep,
    exclude_rows,
    find_damaged_rows,
    rank_images,
    report_nothing,
)
from perception_encoder.index import Index

OUTLIER_RATE: Final = 0.001
"""The share of ordinary images that may be called outliers."""

BLURRY: Final = 0.45
"""The blur from which an image is blurry (`benchmarks/cleaning.py`): no sharp photo or drawing of
ours reaches 0.38, and nearly all reach 0.45 when blurred by a Gaussian of 1 % of the longer
side."""

DARK: Final = 0.25
"""An image is dark if 95 % of its pixels are no brighter."""

BRIGHT: Final = 0.9
"""An image is bright if 95 % of its pixels are at least as bright."""

BLANK: Final = 0.03
"""An image is blank if the range of its pixels is no larger in any channel."""

LOW_INFORMATION: Final = 0.12
"""Bits a pixel below which an image holds little; plain drawings have 0.2, photos 2 to 4."""

COPY_OF_PLAIN: Final = 0.999
"""The lowest cosine of near-duplicates that are both blank, dark, bright or plain: such images look
alike (`benchmarks/cleaning.py`), and only copies of them are as near."""

ODD_ASPECT_RATIO: Final = 3.0
"""The ratio of the sides from which it is odd."""


@dataclass(frozen=True)
class CleaningOptions:
    """What to look for, and how.

    Attributes:
        kinds: what to look for; pixels are read only where a kind needs them.
        label_column: the column of the labels; None takes `label`, see `read_groups`.
        label_folders: take the names of folders as labels.
        split_column: the column of the splits; None takes `split`, or else folders.
        threshold: the lowest cosine of near-duplicates.
        outlier_rate: the share of ordinary images that may be called outliers.

    Raises:
        ValueError: an unknown kind, or a number out of range.
    """

    kinds: Sequence[Kind] = KINDS
    label_column: str | None = None
    label_folders: bool = False
    split_column: str | None = None
    threshold: float = NEAR_DUPLICATE
    outlier_rate: float = OUTLIER_RATE

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise ValueError(f"unknown kind {kind!r}; one of: {', '.join(KINDS)}")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"the threshold is a cosine above 0 up to 1, got {self.threshold}")
        if not 0 < self.outlier_rate < 0.5:
            raise ValueError(f"the rate of outliers is above 0, below 0.5: {self.outlier_rate}")


def clean_index(
    index: Index,
    read: ReadImage,
    options: CleaningOptions | None = None,
    *,
    where: str | None = None,
    report: ReportStep = report_nothing,
) -> CleaningReport:
    """Look for leaks, wrong labels, outliers, and images with bad pixels.

    Memory grows by about 0.6 kB an image, besides what `find_near_pairs` and `find_neighbors` take.

    Args:
        index: the index.
        read: returns an image's encoded bytes.
        options: what to look for; None is everything.
        where: an SQL condition; other rows are left out.
        report: called between blocks of work.

    Raises:
        IndexStorageError: too many embeddings are damaged.
        QueryError: the condition or a column is wrong.
    """
    options = options or CleaningOptions()
    damaged = find_damaged_rows(index, where, report)
    where = exclude_rows(damaged, where)
    images = rank_images(index, "first", where, report)
    labels, splits = read_groups(
        index,
        images,
        where,
        label_column=options.label_column,
        label_folders=options.label_folders,
        split_column=options.split_column,
    )
    search = _Search(index, images, options, labels, splits, where, report)
    measured = search.measure(read)
    duplicates = search.find_leaks(measured) if len(images) else None
    search.find_by_embeddings()
    search.find_by_shape()
    return CleaningReport(
        index_path=index.path,
        num_images=len(images),
        findings={kind: search.findings[kind] for kind in KINDS if kind in options.kinds},
        duplicates=duplicates,
        classes=ClassBalance.of(labels) if labels else None,
        sizes_of_splits=dict(zip(splits.names, splits.counts(), strict=True)),
        unreadable=[(images.row(number), why) for number, why in measured.failures],
        num_unreadable=measured.num_failed,
        damaged=damaged,
        notes=search.notes,
    )


class _Search:
    """Collects what is found, kind by kind."""

    def __init__(
        self,
        index: Index,
        images: RankedImages,
        options: CleaningOptions,
        labels: Groups,
        splits: Groups,
        where: str | None,
        report: ReportStep,
    ) -> None:
        self.findings: dict[Kind, list[Finding]] = {kind: [] for kind in KINDS}
        self.notes: list[str] = []
        self._index = index
        self._images = images
        self._options = options
        self._labels = labels
        self._splits = splits
        self._where = where
        self._report = report

    def find_leaks(self, measured: MeasuredPixels) -> DuplicateCounts | None:
        """Find leaks, and return the number of duplicates."""
        if "leak" not in self._options.kinds:
            return None
        leaks = find_leaks(
            self._index,
            self._images,
            self._splits,
            threshold=self._options.threshold,
            where=self._where,
            report=self._report,
        )
        faults = find_faults(measured.values)
        is_plain = np.any([faults[kind].is_found for kind in _PLAIN_KINDS], axis=0)
        num_alike = 0
        found = zip(leaks.numbers.tolist(), leaks.others.tolist(), leaks.scores, strict=True)
        for number, other, score in found:
            theirs = self._splits.name_of(other)
            is_copy = self._images.contents[number] == self._images.contents[other]
            if not is_copy and score < COPY_OF_PLAIN and is_plain[number] and is_plain[other]:
                num_alike += 1
                continue
            self._add(
                "leak",
                number,
                score,
                f"{'identical bytes' if is_copy else f'cosine {score:.3f}'} in {theirs}",
                other=self._images.row(other),
                other_split=theirs,
            )
        if len(self._splits.names) < 2:
            self.notes.append(
                "leaks need splits: a column `split`, or folders named train, val and test"
            )
        if num_alike:
            self.notes.append(
                f"{num_alike:,} pairs of blank, dark, bright or plain images are not called leaks: "
                f"their cosine is below {COPY_OF_PLAIN}"
            )
        if leaks.num_crowded:
            self.notes.append(
                f"{leaks.num_crowded:,} images have too many near-duplicates to compare all of "
                "them; remove those, then clean again"
            )
        return DuplicateCounts(leaks.num_copies, leaks.num_near)

    def find_by_embeddings(self) -> None:
        """Find outliers and wrong labels."""
        if not {"outlier", "wrong label"} & set(self._options.kinds):
            return
        vectors = RankedVectors(self._index, self._images, self._where, self._report)
        neighbors = find_neighbors(vectors, len(self._images))
        if "outlier" in self._options.kinds:
            self._find_outliers(neighbors)
        if "wrong label" in self._options.kinds:
            self._find_wrong_labels(vectors, neighbors)

    def _find_outliers(self, neighbors: Neighbors) -> None:
        if len(self._images) < LEAST_IMAGES:
            self.notes.append(f"outliers need at least {LEAST_IMAGES} images")
            return
        outliers = find_outliers(neighbors, self._options.outlier_rate)
        for number in outliers.numbers.tolist():
            distance = outliers.distances[number]
            self._add(
                "outlier",
                number,
                distance,
                f"{distance:.2f} from its nearest images, usually up to {outliers.threshold:.2f}",
            )

    def _find_wrong_labels(self, vectors: RankedVectors, neighbors: Neighbors) -> None:
        names = self._labels.names
        if len(names) < 2 or len(names) > MAX_CLASSES:
            self.notes.append(
                f"labels were not checked: {len(names):,} classes, 2 to {MAX_CLASSES:,} are needed"
                if names
                else "labels were not checked: name their column, or take the names of the folders"
            )
            return
        found = find_wrong_labels(vectors, self._labels.numbers, self._images.contents, neighbors)
        for number, suggested, margin in zip(
            found.numbers.tolist(), found.suggested.tolist(), found.margins, strict=True
        ):
            self._add(
                "wrong label",
                number,
                margin,
                f"{names[suggested]} rather than {self._labels.name_of(number)}",
                suggested=names[suggested],
            )
        num_left_out = int((self._labels.numbers >= 0).sum()) - found.num_judged
        if num_left_out:
            self.notes.append(
                f"labels of {num_left_out:,} images were not checked: their classes are too small"
            )

    def find_by_shape(self) -> None:
        """Find images with an odd aspect ratio."""
        if "odd aspect ratio" not in self._options.kinds:
            return
        sides = [
            self._images.columns[name].fill_null(0).to_numpy().astype(np.float64)
            for name in ("width", "height")
        ]
        short, long = np.minimum(*sides), np.maximum(*sides)
        ratios = np.divide(long, short, out=np.zeros_like(long), where=short > 0)
        for number in _worst(ratios, ratios >= ODD_ASPECT_RATIO, is_worse_above=True):
            width, height = (int(side[number]) for side in sides)
            self._add("odd aspect ratio", number, ratios[number], f"{width} × {height}")

    def measure(self, read: ReadImage) -> MeasuredPixels:
        """Find blurry, dark, bright, blank and plain images."""
        if not _PIXEL_KINDS & set(self._options.kinds):
            nothing = np.full((len(self._images), 5), np.nan, np.float32)
            return MeasuredPixels(nothing, (), 0, 0, 0)
        measured = measure_pixels(self._index, self._images, read, self._where, self._report)
        if measured.num_skipped:
            self.notes.append(f"pixels of {measured.num_skipped:,} moments of videos: not read")
        for kind, (values, is_found, is_worse_above, text) in find_faults(measured.values).items():
            if kind in self._options.kinds:
                for number in _worst(values, is_found, is_worse_above=is_worse_above):
                    self._add(kind, number, values[number], text.format(values[number]))
        return measured

    def _add(self, kind: Kind, number: int, score: float, detail: str, **more: object) -> None:
        self.findings[kind].append(
            Finding(
                kind,
                self._images.row(number),
                float(score),
                detail,
                label=self._labels.name_of(number),
                split=self._splits.name_of(number),
                **more,  # type: ignore[arg-type]
            )
        )


_PLAIN_KINDS: Final[tuple[Kind, ...]] = ("dark", "bright", "blank", "low information")
_PIXEL_KINDS: Final[set[Kind]] = {"blurry", *_PLAIN_KINDS}


class PixelFault(NamedTuple):
    """The images with a fault: (R,) values, (R,) bool, whether larger is worse, and the text."""

    values: NDArray[np.float32]
    is_found: NDArray[np.bool_]
    is_worse_above: bool
    text: str


def find_faults(values: NDArray[np.float32]) -> dict[Kind, PixelFault]:
    """Return the faults of pixels by kind.

    A blank image is nothing else; a dark one is not called plain, nor a plain one bright or blurry.

    Args:
        values: (R, 5) float32, the fields of `PixelStatistics`; NaN where unknown.
    """
    blur, darkest, brightest, spread, information = values.T
    is_blank = spread <= BLANK  # NaN fails every comparison
    is_dark = (brightest <= DARK) & ~is_blank
    is_plain = (information < LOW_INFORMATION) & ~is_blank & ~is_dark
    is_bright = (darkest >= BRIGHT) & ~is_blank & ~is_plain
    is_blurry = (blur >= BLURRY) & ~is_blank & ~is_plain
    return {
        "blurry": PixelFault(blur, is_blurry, True, "blur {:.2f} of 1"),
        "dark": PixelFault(brightest, is_dark, False, "brightness up to {:.2f} of 1"),
        "bright": PixelFault(darkest, is_bright, True, "brightness from {:.2f} of 1"),
        "blank": PixelFault(spread, is_blank, False, "pixels differ by {:.2f} of 1"),
        "low information": PixelFault(information, is_plain, False, "{:.2f} bits a pixel"),
    }


def _worst(
    values: NDArray[np.floating], is_fault: NDArray[np.bool_], *, is_worse_above: bool
) -> list[int]:
    """Return the numbers of the faults, the worst first."""
    found: Numbers = np.flatnonzero(is_fault)
    keys = -values[found] if is_worse_above else values[found]
    order: list[int] = found[np.lexsort((found, keys))].tolist()
    return order
