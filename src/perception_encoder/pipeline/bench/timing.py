"""Medians of how long something takes. Knows nothing of models."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """How long a figure is measured.

    Attributes:
        rounds: how often at most.
        seconds: no further round is begun when so many have passed.
    """

    rounds: int
    seconds: float


def median_seconds(work: Callable[[], object], effort: Effort) -> float:
    """Return the median time of a call, after one that is not counted."""
    work()
    measured: list[float] = []
    while len(measured) < effort.rounds and sum(measured) < effort.seconds:
        started = time.perf_counter()
        work()
        measured.append(time.perf_counter() - started)
    return statistics.median(measured)
