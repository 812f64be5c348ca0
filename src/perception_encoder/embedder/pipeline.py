"""Prefetch, embed in batches, keep order: the loop that every bulk job shares.

Inputs are prepared ahead on threads, grouped into batches in their order, and embedded by as many
calls at once as the backend takes. Memory is bounded: inputs are taken only as far ahead as needed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Final, TypeVar

InputT = TypeVar("InputT")
PreparedT = TypeVar("PreparedT")
ResultT = TypeVar("ResultT")

_BATCHES_AHEAD: Final = 2  # threads begin the next batch while the last images of one are prepared


def embed_in_batches(
    inputs: Iterable[InputT],
    submit: Callable[[InputT], Future[PreparedT]],
    embed: Callable[[list[PreparedT]], ResultT],
    *,
    batch_size: int,
    concurrency: int,
) -> Generator[ResultT]:
    """Prepare inputs ahead, embed them in batches, and yield each batch's result in order.

    Close the generator to stop early; then cancel what `submit` has started.

    Args:
        inputs: taken as they are needed, at most `2 * batch_size` ahead of the batches.
        submit: starts to prepare one input, on a thread or another machine. A failure that should
            not end the job is a result of the future, not its exception.
        embed: embeds one batch of prepared inputs.
        batch_size: inputs of a batch; the last one may have fewer.
        concurrency: how many calls of `embed` run at once.

    Raises:
        ValueError: `batch_size` is below 1.
    """
    check_batch_size(batch_size)
    with closing(await_in_order(submit, inputs, _BATCHES_AHEAD * batch_size)) as prepared:
        batches = iter(lambda: [one for _, one in islice(prepared, batch_size)], [])
        for _, result in map_ahead(embed, batches, concurrency):
            yield result


def map_ahead(
    call: Callable[[InputT], ResultT], inputs: Iterable[InputT], num_threads: int
) -> Iterator[tuple[InputT, ResultT]]:
    """Yield each input and its result, in order, with up to `num_threads` calls at once.

    Inputs are taken no further ahead than that. The first call that fails ends the iteration, once
    the calls that run have ended. A single thread is the caller's own.
    """
    if num_threads == 1:
        yield from ((one, call(one)) for one in inputs)
        return
    with ThreadPoolExecutor(num_threads) as pool:
        yield from await_in_order(lambda one: pool.submit(call, one), inputs, num_threads)


def await_in_order(
    submit: Callable[[InputT], Future[ResultT]], inputs: Iterable[InputT], window: int
) -> Generator[tuple[InputT, ResultT]]:
    """Submit inputs, up to `window` at once, and yield each with its result in order."""
    running: deque[tuple[InputT, Future[ResultT]]] = deque()
    for one in inputs:
        if len(running) == window:
            first, future = running.popleft()
            yield first, future.result()
        running.append((one, submit(one)))
    while running:
        first, future = running.popleft()
        yield first, future.result()


def check_batch_size(batch_size: int) -> None:
    """Refuse a batch size below 1.

    Raises:
        ValueError: it is.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
