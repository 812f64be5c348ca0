"""The file of a run, written as figures come, and the time that the run may take."""

import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from benchmarks.report import write_report

_MARGIN = 1.2
"""A step may take this much longer than the last of its kind."""


class Results:
    """What was measured so far; after each addition it lies on the disk whole."""

    def __init__(self, path: Path, device: str) -> None:
        self._path = path
        self._figures: dict[str, Any] = {
            "device": device,
            "rates": {},
            "models": {},
            "seconds": {},
            "left_out": {},
        }

    def add(self, part: str, figures: dict[str, Any]) -> None:
        """Add figures to "rates", which are the device's, or to those of a model."""
        place = self._figures if part in self._figures else self._figures["models"]
        _merge(place.setdefault(part, {}), figures)
        self._write()
        print(part, figures, file=sys.stderr)

    def leave_out(self, step: str, why: str) -> None:
        """Say that a step was not measured."""
        self.add("left_out", {step: why})

    @contextmanager
    def running(self, step: str) -> Iterator[None]:
        """Name the step that runs, so that a file that was cut off says where; note its failure."""
        self._figures["running"] = step
        self._write()
        started = time.perf_counter()
        try:
            yield
        except Exception as err:  # noqa: BLE001  the other steps are measured all the same
            traceback.print_exc()
            self.leave_out(step, f"{type(err).__name__}: {err}")
        del self._figures["running"]
        self.add("seconds", {step: time.perf_counter() - started})

    def _write(self) -> None:
        write_report(
            self._path.stem,
            "images and texts to vectors on a GPU, beside peers; random weights, real shapes",
            ["perception-encoder", "torch", "triton", "open_clip_torch", "timm", "numpy"],
            self._figures,
            "rates are items a second, medians of rounds in turns",
            folder=self._path.parent,
        )


class Deadline:
    """Ends the process when its time is up, wherever it stands; tells whether a step still fits."""

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._seconds_of_a_unit: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def allows(self, kind: str, guess: float, units: float) -> bool:
        """Whether a step should end in time: by the last of its kind, else by a guess, in seconds.

        Args:
            kind: of steps whose time grows with their units.
            guess: seconds of a unit where none of that kind was measured yet.
            units: of this step.
        """
        expected = self._seconds_of_a_unit.get(kind, guess) * units
        return time.monotonic() + expected < self._ends

    def learn(self, kind: str, seconds: float, units: float) -> None:
        """Note how long a step took."""
        self._seconds_of_a_unit[kind] = seconds / units * _MARGIN

    @staticmethod
    def _end() -> None:
        print("the time is up", file=sys.stderr, flush=True)
        os._exit(0)  # a compiler or a kernel that runs cannot be asked to stop


def _merge(old: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            _merge(old[key], value)
        else:
            old[key] = value
