"""Results of `pe classify`: lines, JSON or paths as they come, counts and a sheet at the end.

Only the counts, the images for the sheet and the names to move are kept in memory.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from perception_encoder.cli.output import format_images, say, write_json, write_line, write_path

if TYPE_CHECKING:
    from perception_encoder.analysis.classifiers import LabelScore, LabelScores
    from perception_encoder.index import Outcome, Row
    from perception_encoder.search.calibration import Label
    from perception_encoder.types import Embeddings

_MAX_FAILURES: Final = 10
_MAX_COUNTS: Final = 20
_SHEET_LABELS: Final = 40
_SHEET_IMAGES: Final = 10
NO_LABEL: Final = "-"
FITS: Final = ("strong", "weak", "none")


@dataclass(frozen=True, slots=True)
class ClassifyOutput:
    """Which results are written, and how.

    Attributes:
        k: labels of each image.
        min_probability: an image whose best label has less gets no label.
        min_fit: an image whose best label fits less gets no label.
        only: labels whose images are shown, `NO_LABEL` among them; empty for all.
        as_json: write one object a line.
        paths: write names only; without `only`, those of images with a label.
        null: NUL ends a name, not a newline.
        sheet: the contact sheet to draw.
        move_to: the folder to move images into, in a folder for each label; moves are then written
            instead of results.
        dry_run: only show the moves.
    """

    k: int
    min_probability: float
    min_fit: Label
    only: frozenset[str]
    as_json: bool
    paths: bool
    null: bool
    sheet: Path | None
    move_to: Path | None
    dry_run: bool


class _SheetCandidate(NamedTuple):
    """An image that may be drawn on the sheet; of equal ones the first counts."""

    score: float
    order: int
    row: Row


_Best: TypeAlias = "Sequence[tuple[LabelScore, Label | None]]"


class Results:
    """Writes results as they come; `finish` reports the counts.

    Args:
        labels: all of them.
        wanted: which results to write.
        prompts: (P, E) unrelated prompts that tell how well a label fits; None for labels that were
            learned from examples.
    """

    def __init__(
        self, labels: Sequence[str], wanted: ClassifyOutput, prompts: Embeddings | None
    ) -> None:
        self._wanted = wanted
        self._prompts = prompts
        self._is_single = len(labels) == 1 and prompts is not None
        self._width = max(len("label"), *map(len, labels))
        self._counts = Counter[str](dict.fromkeys(labels, 0))
        self._fits: dict[str, Counter[str]] = defaultdict(Counter)
        self._candidates: dict[str, list[_SheetCandidate]] = defaultdict(list)
        self._to_move: list[tuple[Row, LabelScore]] = []
        self._has_header = False
        self._num_images = 0
        self.num_failed = 0

    def add(self, rows: Sequence[Row], vectors: Embeddings, found: LabelScores) -> None:
        """Write the labels of some images."""
        import numpy as np

        from perception_encoder.search.calibration import fit_labels

        labels = found.best(self._wanted.k)
        fits: Sequence[Sequence[Label | None]] = [[None] * len(best) for best in labels]
        if self._prompts is not None:
            scores = np.array([[one.score for one in best] for best in labels], np.float32)
            fits = fit_labels(scores.reshape(len(rows), -1), vectors, self._prompts)
        for row, best, fit, given in zip(rows, labels, fits, found.given(), strict=True):
            is_sure = found.applies is not None or self._is_sure(best[0], fit[0])
            named = given if is_sure and given else (NO_LABEL,)
            self._add(row, list(zip(best, fit, strict=True)), named)

    def _add(self, row: Row, best: _Best, given: Sequence[str]) -> None:
        """Count and write the labels of an image."""
        first, fit = best[0]
        self._num_images += 1
        for label in given:
            if self._wanted.sheet is not None:
                self._keep(label, first.score, row)
            self._counts[label] += 1
            if fit is not None:
                self._fits[label][fit] += 1
        if not any(map(self._is_wanted, given)):
            return
        if self._wanted.move_to is None:
            self._write(row, best, given)
        elif given != (NO_LABEL,):
            self._to_move.append((row, first))  # later: sources may still be listing

    def add_failed(self, failures: Sequence[Outcome], tell: Callable[[str], None]) -> None:
        """Report images that could not be read; `tell` writes a line to stderr."""
        for failure in failures:
            self.num_failed += 1
            if self.num_failed <= _MAX_FAILURES:
                tell(f"pe: {failure.message}")
            if self._wanted.as_json:
                error = {"error": failure.reason, "message": failure.message}
                write_json({"uri": failure.uri, "member": failure.member, **error})

    def finish(self) -> None:
        """Draw the sheet, move images, and report how many each label has."""
        if self._wanted.sheet is not None and self._candidates:
            self._draw(self._wanted.sheet)
        if self._wanted.move_to is not None:
            self._move(self._wanted.move_to)
        counts = self._counts.most_common()
        listed = [
            f"{count:,} {label}{self._list_fits(label)}"
            for label, count in counts
            if label != NO_LABEL
        ]
        if len(listed) > _MAX_COUNTS:
            listed = [*listed[:_MAX_COUNTS], f"and {len(listed) - _MAX_COUNTS} more labels"]
        unsure = self._counts[NO_LABEL]
        rest = f"; {unsure:,} without a label" if unsure else ""
        rest += f"; {self.num_failed:,} failed" if self.num_failed else ""
        say(f"{format_images(self._num_images)}: {', '.join(listed)}{rest}")

    def _list_fits(self, label: str) -> str:
        fits = self._fits[label]
        named = [f"{fits[name]:,} {name}" for name in ("strong", "weak") if fits[name]]
        if fits["none"]:
            named.append(f"{fits['none']:,} unlikely")
        return f" ({', '.join(named)})" if named else ""

    def _is_sure(self, best: LabelScore, fit: Label | None) -> bool:
        is_fit = fit is None or FITS.index(fit) <= FITS.index(self._wanted.min_fit)
        return is_fit and best.probability >= self._wanted.min_probability

    def _is_wanted(self, label: str) -> bool:
        if self._wanted.only:
            return label in self._wanted.only
        return label != NO_LABEL or not self._wanted.paths

    def _write(self, row: Row, best: _Best, given: Sequence[str]) -> None:
        if self._wanted.paths:
            write_path(row.name, null=self._wanted.null)
            return
        if self._wanted.as_json:
            write_json(_record(row, best, given))
            return
        if not self._has_header:
            self._has_header = True
            measure = "cosine" if self._is_single else "probability"
            column = "" if self._prompts is None else "fit     "
            write_line(f"{measure}  {column}{'label'.ljust(self._width)}  image")
        if given == (NO_LABEL,):
            best = [(best[0][0]._replace(label=NO_LABEL), best[0][1])]
        elif self._prompts is None and self._wanted.k == 1 and len(given) > 1:
            best = [(best[0][0]._replace(label=", ".join(given)), None)]
        for one, fit in best:
            number = f"{one.score:6.3f}" if self._is_single else f"{one.probability:11.3f}"
            shown = "" if fit is None else f"{fit if fit != 'none' else '-':6}  "
            write_line(f"{number}  {shown}{one.label.ljust(self._width)}  {row.name}")

    def _move(self, folder: Path) -> None:
        from perception_encoder.analysis.file_moves import MANIFEST, sort_files

        num_moved = 0
        try:
            for move in sort_files(str(folder), self._to_move, dry_run=self._wanted.dry_run):
                if move.error:
                    say(f"{move.source}: stays: it {move.error}")
                    continue
                num_moved += 1
                if self._wanted.as_json:
                    write_json({"from": move.source, "to": move.target, "label": move.label})
                else:
                    write_line(f"{move.source} -> {move.target}")
        finally:  # also after an error half way
            if self._wanted.dry_run:
                say(f"{format_images(num_moved)} would move into {folder}; nothing was touched")
            elif num_moved:
                say(f"{format_images(num_moved)} moved, listed in {folder / MANIFEST}")

    def _keep(self, label: str, score: float, row: Row) -> None:
        """Keep the images nearest to a label."""
        heap = self._candidates[label]
        heapq.heappush(heap, _SheetCandidate(score, -self._num_images, row))
        if len(heap) > _SHEET_IMAGES:
            heapq.heappop(heap)

    def _draw(self, path: Path) -> None:
        from perception_encoder.analysis import SheetHit, SheetRow
        from perception_encoder.analysis.drawing import image_source_of, short_name_of
        from perception_encoder.cli.progress import draw_sheet

        labels = [label for label in self._counts if self._candidates.get(label)]
        shown = [label for label, _ in self._counts.most_common() if label in labels]
        shown = sorted(shown[:_SHEET_LABELS], key=labels.index)
        rows = [
            SheetRow(
                [
                    SheetHit(image_source_of(one.row), one.score, short_name_of(one.row))
                    for one in sorted(self._candidates[label], reverse=True)
                ],
                text=f"{'no label' if label == NO_LABEL else label} ({self._counts[label]:,})",
            )
            for label in shown
        ]
        draw_sheet(path, rows, f"the nearest images of {len(rows)} of {len(labels)} labels")


def _record(row: Row, best: _Best, given: Sequence[str]) -> dict[str, Any]:
    labels = [label for label in given if label != NO_LABEL]
    return {
        "uri": row.uri,
        "member": row.member,
        "label": labels[0] if labels else None,
        **({"applies": labels} if best[0][1] is None else {}),
        "labels": [
            {
                "label": one.label,
                "score": round(one.score, 6),
                "probability": round(one.probability, 6),
                **({} if fit is None else {"fit": fit}),
            }
            for one, fit in best
        ],
    }
