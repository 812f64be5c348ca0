"""Where listed items are prepared: on threads here, unless a run is given another place.

Knows nothing of how items are listed or what becomes of them.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, NamedTuple, Protocol

from perception_encoder.index import Outcome
from perception_encoder.pipeline.prepare import Prepared, prepare
from perception_encoder.pipeline.sources import Item
from perception_encoder.preprocess import ImageProcessor, num_usable_cores

_REMOTE_THREADS: Final = 16  # they wait for the network, not for a core


class Listed(NamedTuple):
    """An item to prepare, and whether the table has no row of its key."""

    item: Item
    is_new: bool


class Preparing(Protocol):
    """A place where items are prepared; of use for one run."""

    chunk_size: int
    """How many items it takes at once."""
    window: int
    """How many items may be on their way to their rows: it bounds the memory of a run."""

    def submit(
        self, chunk: Sequence[Listed], donor_of: Callable[[str], str | None]
    ) -> Future[list[Prepared | Outcome]]:
        """Begin to prepare up to `chunk_size` items.

        Args:
            chunk: the items.
            donor_of: the key of a row with that SHA-256, or None; may be called from any thread.
        """
        ...

    def close(self) -> None:
        """Give up what has not begun."""
        ...


class Threads:
    """A `Preparing`: a thread for each core, and some more for what lies behind a network.

    Args:
        processor: the model's preprocessing.
        window: see `Preparing`.
    """

    chunk_size = 1

    def __init__(self, processor: ImageProcessor, *, window: int) -> None:
        self.window = window
        self._processor = processor
        self._pool = ThreadPoolExecutor(num_usable_cores(), "decode")
        self._remote_pool = ThreadPoolExecutor(_REMOTE_THREADS, "fetch")

    def submit(
        self, chunk: Sequence[Listed], donor_of: Callable[[str], str | None]
    ) -> Future[list[Prepared | Outcome]]:
        """See `Preparing.submit`."""
        pool = self._remote_pool if chunk[0].item.is_remote else self._pool
        return pool.submit(self._prepare, chunk, donor_of)

    def close(self) -> None:
        """See `Preparing.close`. Threads that wait for a network end when it answers."""
        self._remote_pool.shutdown(wait=False, cancel_futures=True)
        self._pool.shutdown(cancel_futures=True)

    def _prepare(
        self, chunk: Sequence[Listed], donor_of: Callable[[str], str | None]
    ) -> list[Prepared | Outcome]:
        return [
            prepare(listed.item, self._processor, donor_of, is_new=listed.is_new)
            for listed in chunk
        ]
