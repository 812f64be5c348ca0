"""Reads by number from what can only be read forwards, for several threads at once."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Chunk = TypeVar("Chunk")


class ForwardReader(Generic[Chunk]):
    """Keeps the chunks read last, as threads ask in nearly but not exactly the order of numbers.

    Asking for one that has been dropped again starts over, which is right but slow.

    Args:
        start: reads chunks from the given number on. It may end before the last of all; it is
            then started again.
        num_kept: chunks that are kept.
    """

    def __init__(self, start: Callable[[int], Iterator[Chunk]], *, num_kept: int) -> None:
        self._start = start
        self._num_kept = num_kept
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Chunk] = OrderedDict()
        self._chunks: Iterator[Chunk] = iter(())
        self._next = -1

    def read(self, number: int) -> Chunk:
        """Return a chunk.

        Raises:
            EOFError: there is none of this number.
            Exception: whatever reading raises.
        """
        with self._lock:
            if number in self._kept:
                return self._kept[number]
            if self._next < 0 or number < self._next:
                self._restart(number)
            while self._next <= number:
                self._advance(number)
            return self._kept[number]

    def _advance(self, number: int) -> None:
        try:
            chunk = next(self._chunks, None)
            if chunk is None:
                self._restart(number)
                chunk = next(self._chunks, None)
            if chunk is None:
                raise EOFError(f"there is no chunk {number}")
        except BaseException:
            self._next = -1  # the next one begins anew
            self._chunks = iter(())
            raise
        self._kept[self._next] = chunk
        self._next += 1
        while len(self._kept) > self._num_kept:
            self._kept.popitem(last=False)

    def _restart(self, number: int) -> None:
        self._chunks = self._start(number)
        self._next = number
