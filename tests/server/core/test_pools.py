"""Threads whose places are held until they end, whoever waits for them."""

import asyncio
import subprocess
import sys
import threading

import pytest

from perception_encoder.errors import QueueFullError, WorkerCrashedError
from perception_encoder.server.core import pools
from perception_encoder.server.core.pools import DaemonThreads, WorkPool


class CompileLock:
    """Work that takes until it is let go, and knows how many threads are at it."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.num_begun = 0

    def __call__(self, value: int = 0) -> int:
        self.num_begun += 1
        assert self.is_open.wait(100)
        return value

    async def begun(self, count: int) -> None:
        while self.num_begun < count:
            await asyncio.sleep(0.001)


@pytest.fixture
def gate():
    made = CompileLock()
    yield made
    made.is_open.set()


def test_results_and_errors_come_back():
    pool = WorkPool("work", num_threads=2)

    async def run() -> None:
        assert await asyncio.gather(*(pool.run(divmod, n, 3) for n in range(20))) == [
            divmod(n, 3) for n in range(20)
        ]
        with pytest.raises(ZeroDivisionError):
            await pool.run(divmod, 1, 0)
        with pytest.raises(TimeoutError, match="of the work itself"):
            await pool.run(raises, TimeoutError("of the work itself"))

    asyncio.run(run())


def raises(err: Exception) -> None:
    raise err


def test_whoever_waits_too_long_is_told_and_the_place_is_held_until_the_thread_ends(gate):
    pool = WorkPool("work", num_threads=1, timeout_seconds=0.05)

    async def run() -> None:
        for _ in range(3):
            with pytest.raises(WorkerCrashedError, match=r"work: not done within 0\.05 s"):
                await pool.run(gate)
        assert gate.num_begun == 1  # the others never had a place
        gate.is_open.set()
        while True:
            try:
                assert await pool.run(gate, 7) == 7
                break
            except WorkerCrashedError:  # the thread has not ended yet
                pass

    asyncio.run(run())


def test_who_is_cancelled_holds_the_place_until_the_thread_ends(gate):
    pool = WorkPool("work", num_threads=2)

    async def run() -> None:
        tasks = [asyncio.create_task(pool.run(gate)) for _ in range(20)]
        await gate.begun(2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        last = asyncio.create_task(pool.run(gate, 7))
        await asyncio.sleep(0.02)
        assert gate.num_begun == 2
        gate.is_open.set()
        assert await last == 7
        assert gate.num_begun == 3  # what was cancelled before it began never does

    asyncio.run(run())


def test_too_many_who_wait_are_refused(gate):
    pool = WorkPool("work", num_threads=1, max_waiting=3)

    async def run() -> None:
        tasks = [asyncio.create_task(pool.run(gate, n)) for n in range(3)]
        await gate.begun(1)
        with pytest.raises(QueueFullError, match="ask again later") as caught:
            await pool.run(gate)
        assert caught.value.retry_after_seconds >= 1
        gate.is_open.set()
        assert await asyncio.gather(*tasks) == [0, 1, 2]
        assert await pool.run(gate, 4) == 4

    asyncio.run(run())


def test_what_is_slow_makes_room_for_others_but_not_without_end(gate, monkeypatch):
    monkeypatch.setattr(pools, "_SLOW_SECONDS", 0.01)
    pool = WorkPool("work", num_threads=1, num_slow=2)

    async def run() -> None:
        slow = [asyncio.create_task(pool.run(gate, n)) for n in range(2)]
        await gate.begun(2)
        assert await pool.run(divmod, 7, 2) == (3, 1)  # though two are at work already
        slow.append(asyncio.create_task(pool.run(gate, 2)))
        await gate.begun(3)
        late = asyncio.create_task(pool.run(divmod, 7, 2))
        await asyncio.sleep(0.05)
        assert not late.done()
        gate.is_open.set()
        assert await asyncio.gather(*slow) == [0, 1, 2]
        assert await late == (3, 1)

    asyncio.run(run())


def test_a_thread_that_hangs_does_not_keep_a_process_from_ending():
    code = """
import asyncio, contextlib, threading
from perception_encoder.errors import WorkerCrashedError
from perception_encoder.server.core.pools import WorkPool

async def run():
    pool = WorkPool("work", num_threads=1, timeout_seconds=0.01)
    with contextlib.suppress(WorkerCrashedError):
        await pool.run(threading.Event().wait)
    pool.close()

asyncio.run(run())
"""
    subprocess.run([sys.executable, "-c", code], timeout=200, check=True)


def test_many_short_works_use_few_threads():
    threads = DaemonThreads(3, "work")
    seen = {threads.submit(threading.get_ident).result(10) for _ in range(50)}
    assert len(seen) <= 3
    futures = [threads.submit(lambda n=n: n * n) for n in range(500)]
    assert [future.result(10) for future in futures] == [n * n for n in range(500)]
    threads.close()
