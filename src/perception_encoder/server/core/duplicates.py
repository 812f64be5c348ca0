"""Looks for a table's duplicates in the background, once for each state of the table."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Final, Literal, TypeAlias

from perception_encoder.analysis.duplicates import Duplicates, Tier, find_duplicates
from perception_encoder.index import Row
from perception_encoder.server.core.indexes import ServedIndex

TierName: TypeAlias = Literal["bytes", "pixels", "near", "similar"]

_TIERS: Final[dict[TierName, Tier]] = {
    "bytes": "identical bytes",
    "pixels": "identical pixels",
    "near": "near duplicate",
    "similar": "similar",
}
_REMEMBERED: Final = 8
_AT_ONCE_SECONDS: Final = 1.0  # a search that takes no longer is answered at once

_Key: TypeAlias = tuple[str, tuple[int, str], TierName, float | None]


class DuplicateJobs:
    """Searches that run or have ended, by what was asked for. Belongs to one event loop.

    Args:
        read: returns a picture's encoded bytes.
    """

    def __init__(self, read: Callable[[Row], bytes]) -> None:
        self._read = read
        self._jobs: OrderedDict[_Key, asyncio.Task[Duplicates]] = OrderedDict()
        self._running = asyncio.Semaphore(1)  # each takes all the machine can give

    async def get(
        self, served: ServedIndex, tier: TierName, threshold: float | None
    ) -> Duplicates | None:
        """Return what was found in the table as it is now; None while it is being looked for.

        Raises:
            IndexStorageError: the table cannot be read.
        """
        state = await asyncio.to_thread(lambda: served.fresh().state)
        key = (served.name, state, tier, threshold)
        if key not in self._jobs:
            self._jobs[key] = asyncio.create_task(self._find(served, tier, threshold))
            while len(self._jobs) > _REMEMBERED:
                self._jobs.popitem(last=False)[1].cancel()
        job = self._jobs[key]
        await asyncio.wait([job], timeout=_AT_ONCE_SECONDS)
        if not job.done():
            return None
        if job.cancelled() or job.exception() is not None:
            del self._jobs[key]  # the next request tries again
        return job.result()

    async def _find(
        self, served: ServedIndex, tier: TierName, threshold: float | None
    ) -> Duplicates:
        async with self._running:
            find = partial(
                find_duplicates, served.index, self._read, tier=_TIERS[tier], threshold=threshold
            )
            return await asyncio.to_thread(find)
