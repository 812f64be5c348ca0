"""Random access, from several threads, to what can only be read forwards."""

import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Final, Generic, TypeVar

Chunk = TypeVar("Chunk")

_NUM_RECEIVED: Final = 8


class ForwardReader(Generic[Chunk]):
    """Keeps the last chunks, as threads ask for them in nearly the order of their numbers.

    A chunk that has been dropped is read again from the start, which is slow. A pickled reader
    loses its chunks; all copies that one process unpickles are one object there.

    Args:
        start: reads chunks from the given number on. It may end before the last chunk; it is
            then called again.
        num_kept: how many chunks are kept.
        size_of: the size of a chunk, for `max_size`.
        max_size: the largest total size of the kept chunks; the last chunk is always kept.
        key: identifies the reader in all processes; a new one if None.
    """

    def __init__(
        self,
        start: Callable[[int], Iterator[Chunk]],
        *,
        num_kept: int,
        size_of: Callable[[Chunk], int] | None = None,
        max_size: int = 0,
        key: str | None = None,
    ) -> None:
        self._key = key or uuid.uuid4().hex
        self._start = start
        self._num_kept = num_kept
        self._size_of = size_of
        self._max_size = max_size
        self._size = 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Chunk] = OrderedDict()
        self._chunks: Iterator[Chunk] = iter(())
        self._next = -1

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Pickle the arguments only."""
        arguments = (self._key, self._start, self._num_kept, self._size_of, self._max_size)
        return _received, arguments

    def read(self, number: int) -> Chunk:
        """Return a chunk.

        Raises:
            EOFError: there is no chunk of this number.
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
            self._next = -1  # the next call starts again
            self._chunks = iter(())
            raise
        if (before := self._kept.pop(self._next, None)) is not None:  # read again after a restart
            self._size -= self._measured(before)
        self._kept[self._next] = chunk
        self._size += self._measured(chunk)
        self._next += 1
        while len(self._kept) > self._num_kept or (
            self._size > self._max_size and self._size_of is not None and len(self._kept) > 1
        ):
            _, dropped = self._kept.popitem(last=False)
            self._size -= self._measured(dropped)

    def _measured(self, chunk: Chunk) -> int:
        return 0 if self._size_of is None else self._size_of(chunk)

    def _restart(self, number: int) -> None:
        self._chunks = self._start(number)
        self._next = number


_readers: OrderedDict[str, ForwardReader[Any]] = OrderedDict()
_readers_lock = threading.Lock()


def _received(
    key: str,
    start: Callable[[int], Iterator[Chunk]],
    num_kept: int,
    size_of: Callable[[Chunk], int] | None,
    max_size: int,
) -> ForwardReader[Chunk]:
    """Return this process's reader with that key."""
    with _readers_lock:
        reader = _readers.pop(key, None) or ForwardReader(
            start, num_kept=num_kept, size_of=size_of, max_size=max_size, key=key
        )
        _readers[key] = reader
        while len(_readers) > _NUM_RECEIVED:
            _readers.popitem(last=False)
        return reader
