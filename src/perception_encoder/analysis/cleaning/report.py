"""What cleaning found: the images of each kind, as rows, as a table, or as one HTML page."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias, get_args

from perception_encoder.analysis.cleaning.classes import ClassBalance
from perception_encoder.index import Row

if TYPE_CHECKING:
    import pandas as pd

    from perception_encoder.analysis.ranked_images import ReportStep

Kind: TypeAlias = Literal[
    "leak",
    "wrong label",
    "outlier",
    "blurry",
    "dark",
    "bright",
    "blank",
    "low information",
    "odd aspect ratio",
]
"""What can be wrong with an image."""

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Finding:
    """An image and what is wrong with it.

    Attributes:
        kind: what is wrong.
        row: the image, without digest and metadata.
        score: how wrong, in the unit of the kind (see `CleaningReport`).
        detail: the reason, for people.
        label: the label of the image, if it has one.
        split: its split, if it has one.
        suggested: of a wrong label, the label that fits better.
        other: of a leak, the image of another split.
        other_split: the split of that one.
    """

    kind: Kind
    row: Row
    score: float
    detail: str
    label: str | None = None
    split: str | None = None
    suggested: str | None = None
    other: Row | None = None
    other_split: str | None = None

    def to_record(self) -> dict[str, Any]:
        """Return the finding as one JSON object."""
        record: dict[str, Any] = {
            "kind": self.kind,
            "uri": self.row.uri,
            "member": self.row.member,
            "score": round(self.score, 6),
            "detail": self.detail,
        }
        texts = {"label": self.label, "split": self.split, "suggested": self.suggested}
        record |= {name: value for name, value in texts.items() if value is not None}
        if self.other is not None:
            record["other"] = {
                "uri": self.other.uri,
                "member": self.other.member,
                "split": self.other_split,
            }
        return record


class DuplicateCounts(NamedTuple):
    """How many images are redundant: with identical bytes, and nearly identical."""

    num_copies: int
    num_near: int


@dataclass(frozen=True)
class CleaningReport:
    """What cleaning found in an index. Nothing was changed.

    A finding's score is, by kind: leak: the cosine with the other image; wrong label: the
    probability of the suggested label minus that of the label; outlier: the mean of 1 - cosine with
    the nearest images; blurry, dark, bright, blank, low information: a field of `PixelStatistics`
    (blur, brightest, darkest, spread, information); odd aspect ratio: the longer side over the
    shorter one.

    Attributes:
        index_path: the index.
        num_images: images that were looked at.
        findings: by kind, the worst first.
        duplicates: how many images are redundant; `pe duplicates` lists them.
        classes: the sizes of the classes; None without labels.
        sizes_of_splits: the number of images of each split.
        unreadable: images that could not be read, and why.
        num_unreadable: how many.
        damaged: images that were left out because their embedding is damaged.
        notes: what was not looked at, and why.
    """

    index_path: str
    num_images: int
    findings: Mapping[Kind, Sequence[Finding]]
    duplicates: DuplicateCounts | None = None
    classes: ClassBalance | None = None
    sizes_of_splits: Mapping[str, int] = field(default_factory=dict)
    unreadable: Sequence[tuple[Row, str]] = ()
    num_unreadable: int = 0
    damaged: Sequence[Row] = ()
    notes: Sequence[str] = ()

    def __iter__(self) -> Iterator[Finding]:
        for found in self.findings.values():
            yield from found

    def __len__(self) -> int:
        return sum(map(len, self.findings.values()))

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        counts = [f"{len(found):,} {kind}" for kind, found in self.findings.items() if found]
        return f"<CleaningReport: {self.num_images:,} images; {', '.join(counts) or 'nothing'}>"

    def to_pandas(self) -> pd.DataFrame:
        """Return a data frame with a row for each finding; needs pandas."""
        import pandas as pd

        columns = ("kind", "uri", "member", "score", "detail", "label", "split", "suggested")
        records = [one.to_record() for one in self]
        frame = pd.DataFrame.from_records(records, columns=[*columns, "other"])
        frame["other"] = [one.other.name if one.other is not None else None for one in self]
        return frame

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        title: str | None = None,
        limit: int = 100,
        report: ReportStep | None = None,
    ) -> None:
        """Write one HTML page with the images. It needs no other file and no network.

        Args:
            path: of the page.
            title: the name of the collection; None takes the path of the index.
            limit: the most images of a kind that it shows; each takes about 6 kB.
            report: called before each image.

        Raises:
            OutputError: the page cannot be written.
            ValueError: a limit below 1.
        """
        from perception_encoder.analysis.cleaning.page import save_page

        save_page(self, path, title=title, limit=limit, report=report)
