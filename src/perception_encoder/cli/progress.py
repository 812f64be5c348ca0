"""Progress on stderr: bars on a terminal, otherwise a line now and then."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from tqdm import tqdm

from perception_encoder.cli.output import escape, say
from perception_encoder.indexing import Progress

if TYPE_CHECKING:
    from types import TracebackType

    from perception_encoder.analysis.contact_sheet import SheetRow

_SECONDS_BETWEEN_LINES: Final = 5.0
_SECONDS_BETWEEN_STEPS: Final = 10.0
_SECONDS_UNTIL_SHOWN: Final = 1.0  # what ends earlier reports nothing
_SECONDS_BETWEEN_UPDATES: Final = 0.5


class ProgressDisplay:
    """Shows a run's `Progress` on stderr while it is inside a `with`.

    Args:
        progress: of the run.
        total: the number of items, where it is known before they are listed.
    """

    def __init__(self, progress: Progress, total: int | None = None) -> None:
        self._progress = progress
        self.total = total
        self._bar = tqdm(unit=" images", disable=None, file=sys.stderr, postfix="starting")
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()

    def update(self) -> None:
        """Show the present state; cheap enough to be called for every item."""
        progress, now = self._progress, time.monotonic()
        if not self._bar.disable:
            self._bar.total = self.total or progress.num_listed
            self._bar.set_postfix_str(format_details(progress), refresh=False)
            self._bar.update(progress.num_done - self._bar.n)
        elif now - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = now
            say(format_progress(progress, now - self._started, self.total))

    def say(self, message: str) -> None:
        """Write a line without breaking the bar."""
        tqdm.write(escape(message), file=sys.stderr)


def format_progress(progress: Progress, seconds: float, total: int | None = None) -> str:
    """Describe a run in one line: images done, rate, and time left.

    With a total, what an earlier run has done is no part of the rate.
    """
    num_done = progress.num_done - (progress.counts["skipped"] if total else 0)
    rate = num_done / seconds if seconds > 0 else 0.0
    is_listing = progress.is_listing and not total
    total = total or progress.num_listed
    parts = [f"{progress.num_done:,} of {total:,} images"]
    if is_listing:
        parts[0] += " and counting"
    parts.append(f"{rate:,.1f}/s")
    if rate > 0 and not is_listing:
        parts.append(f"{format_clock((total - progress.num_done) / rate)} left")
    return ", ".join([*parts, format_details(progress)]).rstrip(", ")


def format_details(progress: Progress) -> str:
    """Describe where a run's time goes, and how many images failed."""
    parts = []
    num_read = progress.counts["embedded"] + progress.counts["reused"]
    if num_read:
        decode_ms = 1000 * progress.decode_seconds / num_read
        encode_ms = 1000 * progress.encode_seconds / num_read
        parts.append(f"decode {decode_ms:.1f} ms + encode {encode_ms:.1f} ms each")
    if progress.counts["failed"]:
        parts.append(f"{progress.counts['failed']:,} failed")
    return ", ".join(parts)


def format_clock(seconds: float) -> str:
    """Return a duration as 0:07, 12:30 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def show_steps(what: str, *, updates: bool = True) -> Iterator[Callable[[str, int, int], None]]:
    """Show work that takes over a second: its name, its present step and the time it has taken.

    Args:
        what: the work, such as "grouping 3,000 images".
        updates: keep the line up to date; False where a library may show bars of its own.

    Yields:
        A function that takes (step, done, total); total is 0 if unknown. Calling it is optional.
    """
    steps = _Steps(what, updates=updates)
    shower = threading.Thread(target=steps.show, daemon=True)
    shower.start()
    try:
        yield steps.report
    finally:
        steps.ended.set()
        shower.join()


class _Steps:
    """The state of `show_steps`; a thread shows it, since libraries report rarely or never."""

    def __init__(self, what: str, *, updates: bool) -> None:
        self._step = what
        self._updates = updates
        self._done = self._total = 0
        self._started = time.monotonic()
        self.ended = threading.Event()

    def report(self, step: str, done: int, total: int) -> None:
        self._step, self._done, self._total = step, done, total

    def show(self) -> None:
        if self.ended.wait(_SECONDS_UNTIL_SHOWN):
            return
        is_terminal = sys.stderr.isatty() and self._updates
        if not is_terminal:
            say(f"{self._line()} …")
        if not self._updates:
            return
        pause = _SECONDS_BETWEEN_UPDATES if is_terminal else _SECONDS_BETWEEN_STEPS
        is_over = False
        while not is_over:
            if is_terminal:
                sys.stderr.write(f"\r\x1b[K{self._line()}, {format_clock(self._seconds)}")
                sys.stderr.flush()
            is_over = self.ended.wait(pause)
            if not is_terminal and not is_over:
                say(f"{self._line()}, {format_clock(self._seconds)}")
        if is_terminal:
            sys.stderr.write("\r\x1b[K")

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._started

    def _line(self) -> str:
        share = f", {self._done:,} of {self._total:,}" if self._total else ""
        return escape(self._step) + share


def draw_sheet(path: Path, rows: Sequence[SheetRow], described: str) -> None:
    """Draw a contact sheet, show how far it is, and report what was saved."""
    from perception_encoder.analysis.contact_sheet import save_contact_sheet

    total = sum(len(row.hits) + (row.image is not None) for row in rows)
    with show_steps(f"drawing {path}") as report:
        num_drawn = 0

        def count() -> None:
            nonlocal num_drawn
            num_drawn += 1
            report(f"drawing {path}", num_drawn, total)

        saved = save_contact_sheet(rows, path, progress=count)
    pages = f", {len(saved)} pages up to {saved[-1].name}" if len(saved) > 1 else ""
    say(f"{path}: {described}{pages}")
