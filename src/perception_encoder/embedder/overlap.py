"""Calls that run beside each other, a few at once, with their results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def overlapped(
    call: Callable[[_In], _Out], inputs: Iterable[_In], at_once: int
) -> Iterator[tuple[_In, _Out]]:
    """Yield each input and its result, in order; up to `at_once` calls run beside each other.

    Inputs are taken no further ahead than that. The first call that fails ends it, once those that
    run are over.
    """
    if at_once == 1:
        yield from ((one, call(one)) for one in inputs)
        return
    running: deque[tuple[_In, Future[_Out]]] = deque()
    with ThreadPoolExecutor(at_once) as pool:
        for one in inputs:
            if len(running) == at_once:
                done, future = running.popleft()
                yield done, future.result()
            running.append((one, pool.submit(call, one)))
        for done, future in running:
            yield done, future.result()
