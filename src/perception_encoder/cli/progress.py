"""Shows how far a run is: a bar on a terminal, a plain line every few seconds elsewhere."""

import sys
import time
from types import TracebackType
from typing import Final, Self

from tqdm import tqdm

from perception_encoder.cli.output import printable, say
from perception_encoder.pipeline import Progress

_SECONDS_BETWEEN_LINES: Final = 5.0


class ProgressDisplay:
    """Shows a run's `Progress` on stderr while it is inside a `with`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bar = tqdm(unit=" pictures", disable=None, file=sys.stderr)
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def update(self) -> None:
        """Look at the progress again; cheap enough to be called for every item."""
        progress, now = self._progress, time.monotonic()
        if not self._bar.disable:
            self._bar.total = progress.num_listed
            self._bar.set_postfix_str(details(progress), refresh=False)
            self._bar.update(progress.num_done - self._bar.n)
        elif now - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = now
            say(line(progress, now - self._started))

    def say(self, message: str) -> None:
        """Write a line without spoiling the bar."""
        tqdm.write(printable(message), file=sys.stderr)


def line(progress: Progress, seconds: float) -> str:
    """Tell of a run in one line: how much of what, how quickly, and how long it will still take."""
    rate = progress.num_done / seconds if seconds > 0 else 0.0
    parts = [f"{progress.num_done:,} of {progress.num_listed:,} pictures"]
    if progress.is_listing:
        parts[0] += " and counting"
    parts.append(f"{rate:,.1f}/s")
    if rate > 0 and not progress.is_listing:
        parts.append(f"{_clock((progress.num_listed - progress.num_done) / rate)} left")
    return ", ".join([*parts, details(progress)]).rstrip(", ")


def details(progress: Progress) -> str:
    """Tell where the time goes, and of failures."""
    parts = []
    num_read = progress.counts["embedded"] + progress.counts["reused"]
    if num_read:
        decode_ms = 1000 * progress.decode_seconds / num_read
        encode_ms = 1000 * progress.encode_seconds / num_read
        parts.append(f"decode {decode_ms:.1f} ms + encode {encode_ms:.1f} ms each")
    if progress.counts["failed"]:
        parts.append(f"{progress.counts['failed']:,} failed")
    return ", ".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
