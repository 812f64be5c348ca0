"""What waits in a batcher's queue, and how results come back to the event loops that wait."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

ItemT = TypeVar("ItemT")


@dataclass(slots=True, eq=False)
class Job(Generic[ItemT]):
    """An item that waits, and who waits for it since when (`time.monotonic`)."""

    item: ItemT
    future: "asyncio.Future[NDArray[np.float32]]"
    loop: asyncio.AbstractEventLoop
    since: float


def deliver(
    batch: Sequence[Job[ItemT]], outcomes: Sequence[NDArray[np.float32] | Exception]
) -> None:
    """Hand outcomes over to the event loops that wait for them, with one wake-up for each."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Job[ItemT], object]]] = {}
    for pair in zip(batch, outcomes, strict=True):
        by_loop.setdefault(pair[0].loop, []).append(pair)
    for loop, pairs in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, pairs)
        except RuntimeError:  # the loop is closed: nobody waits any more
            logger.debug("results of %d items came too late", len(pairs))


def _settle(pairs: "Sequence[tuple[Job[ItemT], object]]") -> None:
    for job, outcome in pairs:
        if job.future.done():
            continue
        if isinstance(outcome, Exception):
            job.future.set_exception(outcome)
        else:
            assert isinstance(outcome, np.ndarray)
            job.future.set_result(outcome)
