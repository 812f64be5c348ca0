"""Shows what `pe classify` finds: lines, JSON or paths as they come, counts and a sheet at the end.

Of any number of images only the counts are kept, the few that are drawn, and names to be moved.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from perception_encoder.cli.output import images, say, write_json, write_line, write_path

if TYPE_CHECKING:
    from perception_encoder.analysis.zero_shot import LabelScore, LabelScores
    from perception_encoder.index import Outcome, Row

_SHOWN_FAILURES: Final = 10
_SHOWN_COUNTS: Final = 20
_SHEET_LABELS: Final = 40
_SHEET_IMAGES: Final = 10
NO_LABEL: Final = "-"


@dataclass(frozen=True, slots=True)
class ClassifyOutput:
    """What of the results is shown, and how.

    Attributes:
        k: labels of each image.
        min_probability: of the best label; below it an image has none.
        only: labels whose images are shown, `NO_LABEL` among them; empty for all.
        as_json: one object a line.
        paths: names only, and without `only` those of images with a label.
        null: NUL ends a name, not a newline.
        sheet: where to draw.
        move_to: where images are moved into a folder for each label; then moves are written in
            place of results.
        dry_run: only show what would be moved.
    """

    k: int
    min_probability: float
    only: frozenset[str]
    as_json: bool
    paths: bool
    null: bool
    sheet: Path | None
    move_to: Path | None
    dry_run: bool


class _Drawn(NamedTuple):
    """An image that may come on the sheet; the first that came wins among equals."""

    probability: float
    order: int
    row: "Row"


class Results:
    """Writes results as they come; `finish` says how many there were."""

    def __init__(self, labels: Sequence[str], wanted: ClassifyOutput) -> None:
        self._wanted = wanted
        self._width = max(len("label"), *map(len, labels))
        self._counts = Counter[str](dict.fromkeys(labels, 0))
        self._drawn: dict[str, list[_Drawn]] = defaultdict(list)
        self._to_move: list[tuple[Row, LabelScore]] = []
        self._has_header = False
        self.num_failed = 0

    def add(self, rows: "Sequence[Row]", found: "LabelScores") -> None:
        """Write the labels of some images."""
        for row, best in zip(rows, found.best(self._wanted.k), strict=True):
            is_sure = best[0].probability >= self._wanted.min_probability
            label = best[0].label if is_sure else NO_LABEL
            if self._wanted.sheet is not None:
                self._keep(label, best[0].probability, row)
            self._counts[label] += 1
            if not self._is_wanted(label):
                continue
            if self._wanted.move_to is None:
                self._write(row, best, label)
            elif is_sure:
                self._to_move.append((row, best[0]))  # later: sources may still be listing

    def add_failed(self, failures: "Sequence[Outcome]", tell: Callable[[str], None]) -> None:
        """Tell of images that could not be read, by that function."""
        for failure in failures:
            self.num_failed += 1
            if self.num_failed <= _SHOWN_FAILURES:
                tell(f"pe: {failure.message}")
            if self._wanted.as_json:
                problem = {"error": failure.reason, "message": failure.message}
                write_json({"uri": failure.uri, "member": failure.member, **problem})

    def finish(self) -> None:
        """Draw the sheet, move images, and say how many each label has."""
        if self._wanted.sheet is not None and self._drawn:
            self._draw(self._wanted.sheet)
        if self._wanted.move_to is not None:
            self._move(self._wanted.move_to)
        counts = self._counts.most_common()
        listed = [f"{count:,} {label}" for label, count in counts if label != NO_LABEL]
        if len(listed) > _SHOWN_COUNTS:
            listed = [*listed[:_SHOWN_COUNTS], f"and {len(listed) - _SHOWN_COUNTS} more labels"]
        unsure = self._counts[NO_LABEL]
        rest = f"; {unsure:,} without a label" if unsure else ""
        rest += f"; {self.num_failed:,} failed" if self.num_failed else ""
        say(f"{images(self._counts.total())}: {', '.join(listed)}{rest}")

    def _is_wanted(self, label: str) -> bool:
        if self._wanted.only:
            return label in self._wanted.only
        return label != NO_LABEL or not self._wanted.paths

    def _write(self, row: "Row", best: "Sequence[LabelScore]", label: str) -> None:
        if self._wanted.paths:
            write_path(row.name, null=self._wanted.null)
        elif self._wanted.as_json:
            write_json(_record(row, best, label))
        else:
            if not self._has_header:
                self._has_header = True
                write_line(f"probability  {'label'.ljust(self._width)}  image")
            shown = best if label != NO_LABEL else [best[0]._replace(label=NO_LABEL)]
            for one in shown:
                name = one.label.ljust(self._width)
                write_line(f"{one.probability:11.3f}  {name}  {row.name}")

    def _move(self, folder: Path) -> None:
        from perception_encoder.analysis.moving import MANIFEST, sort_into

        num_moved = 0
        try:
            for move in sort_into(str(folder), self._to_move, dry_run=self._wanted.dry_run):
                if move.problem:
                    say(f"{move.source}: stays: it {move.problem}")
                    continue
                num_moved += 1
                if self._wanted.as_json:
                    write_json({"from": move.source, "to": move.target, "label": move.label})
                else:
                    write_line(f"{move.source} -> {move.target}")
        finally:  # also where the disk is full half way
            if self._wanted.dry_run:
                say(f"{images(num_moved)} would move into {folder}; nothing was touched")
            elif num_moved:
                say(f"{images(num_moved)} moved, written down in {folder / MANIFEST}")

    def _keep(self, label: str, probability: float, row: "Row") -> None:
        """Keep the likeliest images of a label."""
        heap = self._drawn[label]
        heapq.heappush(heap, _Drawn(probability, -self._counts.total(), row))
        if len(heap) > _SHEET_IMAGES:
            heapq.heappop(heap)

    def _draw(self, path: Path) -> None:
        from perception_encoder.analysis import SheetHit, SheetRow
        from perception_encoder.analysis.thumbnails import short_name, stored_image
        from perception_encoder.cli.progress import draw_sheet

        labels = [label for label in self._counts if self._drawn.get(label)]
        shown = [label for label, _ in self._counts.most_common() if label in labels]
        shown = sorted(shown[:_SHEET_LABELS], key=labels.index)
        rows = [
            SheetRow(
                [
                    SheetHit(stored_image(one.row), one.probability, short_name(one.row))
                    for one in sorted(self._drawn[label], reverse=True)
                ],
                text=f"{'no label' if label == NO_LABEL else label} ({self._counts[label]:,})",
            )
            for label in shown
        ]
        draw_sheet(path, rows, f"the likeliest images of {len(rows)} of {len(labels)} labels")


def _record(row: "Row", best: "Sequence[LabelScore]", label: str) -> dict[str, Any]:
    return {
        "uri": row.uri,
        "member": row.member,
        "label": None if label == NO_LABEL else label,
        "labels": [
            {
                "label": one.label,
                "score": round(one.score, 6),
                "probability": round(one.probability, 6),
            }
            for one in best
        ],
    }
