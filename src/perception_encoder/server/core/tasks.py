"""Several awaitables at once, none of which outlives whoever waits for them."""

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

from perception_encoder.server.core.frames import release_frames

ResultT = TypeVar("ResultT")


async def all_of(awaitables: Iterable[Awaitable[ResultT]]) -> list[ResultT]:
    """Await all; the first that raises cancels the others and is raised."""
    waiting = list(awaitables)
    if len(waiting) == 1:  # most requests: no task needed
        return [await waiting[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_awaited(one)) for one in waiting]
    except ExceptionGroup as err:
        raise err.exceptions[0] from err
    return [task.result() for task in tasks]


def begin(awaitable: Awaitable[ResultT]) -> asyncio.Task[ResultT]:
    """Begin to await something, in a task that keeps nothing of it when it is cancelled."""
    return asyncio.create_task(_awaited(awaitable))


async def _awaited(awaitable: Awaitable[ResultT]) -> ResultT:
    try:
        return await awaitable
    except asyncio.CancelledError as err:
        release_frames(err)  # a task keeps it, and `asyncio.timeout` in one of them the task
        raise


async def cancel(tasks: Iterable[asyncio.Task[ResultT]]) -> None:
    """Cancel tasks and wait until they have ended."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
