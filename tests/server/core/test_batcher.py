"""The queue and its worker: sharing, order, limits, and what happens when things go wrong."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest

from perception_encoder.errors import QueueFullError, WorkerCrashedError
from perception_encoder.server.core.batcher import PART, Batcher, BatchLimits


class Observer:
    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.crashes = 0

    def batch(self, size: int, waited_seconds: float, computed_seconds: float) -> None:
        assert waited_seconds >= 0
        assert computed_seconds >= 0
        self.sizes.append(size)

    def crash(self) -> None:
        self.crashes += 1


def doubled(items: Sequence[int]) -> np.ndarray:
    return np.array([[2.0 * item] for item in items], np.float32)


def made(
    compute: Callable = doubled, *, max_batch: int = 4, wait: float = 0.02, capacity: int = 100,
    timeout: float = 20, seconds: float = 1000,
) -> tuple[Batcher[int], Observer]:  # fmt: skip
    observer = Observer()
    limits = BatchLimits(
        max_batch=max_batch,
        batch_seconds=seconds,
        max_wait_seconds=wait,
        capacity=capacity,
        timeout_seconds=timeout,
    )
    return Batcher("a queue", compute, limits, observer), observer


async def asked(batcher: Batcher[int], item: int) -> float:
    with batcher.reserve(1) as place:
        return float((await batcher.run(place, item))[0])


class CompileLock:
    """A computation that waits to be let go, and knows what it was given."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.is_open = threading.Event()

    def __call__(self, items: Sequence[int]) -> np.ndarray:
        self.batches.append(list(items))
        assert self.is_open.wait(100)
        return doubled(items)

    async def entered(self, count: int) -> None:
        while len(self.batches) < count:
            await asyncio.sleep(0.001)


def test_many_askers_share_batches_and_get_their_own_answers():
    gate = CompileLock()
    batcher, observer = made(gate)

    async def run() -> list[float]:
        first = asyncio.create_task(asked(batcher, 0))
        await gate.entered(1)
        others = [asyncio.create_task(asked(batcher, item)) for item in range(1, 10)]
        await asyncio.sleep(0.01)
        gate.is_open.set()
        return [await task for task in (first, *others)]

    assert asyncio.run(run()) == [2.0 * item for item in range(10)]
    batcher.close(10)
    assert gate.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9]]  # longest-waiting first
    assert observer.sizes == [1, 4, 4, 1]


def test_batches_have_few_sizes_and_what_is_left_over_comes_next():
    gate = CompileLock()
    batcher, observer = made(gate, max_batch=100)

    async def run() -> list[float]:
        tasks = [asyncio.create_task(asked(batcher, 0))]
        await gate.entered(1)
        tasks += [asyncio.create_task(asked(batcher, item)) for item in range(1, 78)]
        await asyncio.sleep(0.01)
        gate.is_open.set()
        return [await task for task in tasks]

    assert asyncio.run(run()) == [2.0 * item for item in range(78)]
    batcher.close(10)
    assert observer.sizes == [1, 64, 12, 1]
    assert [item for batch in gate.batches for item in batch] == list(range(78))


def test_a_batch_waits_for_what_is_on_its_way_but_not_for_ever():
    gate = CompileLock()
    gate.is_open.set()
    patient, _ = made(gate, wait=20)
    hasty, _ = made(wait=0.2)

    async def run() -> None:
        with patient.reserve(2) as place:
            first = asyncio.create_task(patient.run(place, 1))
            await asyncio.sleep(0.02)
            assert gate.batches == []  # the second one has a place: it is on its way
            await asyncio.gather(first, patient.run(place, 2))
            assert gate.batches == [[1, 2]]
        with hasty.reserve(2) as place:
            assert (await hasty.run(place, 3))[0] == 6  # the other never comes
        assert (await asked(hasty, 4)) == 8

    asyncio.run(run())
    patient.close(10)
    hasty.close(10)


def test_a_full_queue_refuses_and_says_when_to_come_again():
    gate = CompileLock()
    batcher, _ = made(gate, capacity=3)

    async def run() -> None:
        tasks = [asyncio.create_task(asked(batcher, 0))]
        await gate.entered(1)
        tasks += [asyncio.create_task(asked(batcher, item)) for item in range(1, 4)]
        await asyncio.sleep(0.01)
        with pytest.raises(QueueFullError, match="queue is full") as caught:
            await asked(batcher, 9)
        assert caught.value.retry_after_seconds >= 1
        gate.is_open.set()
        assert [await task for task in tasks] == [0, 2, 4, 6]
        assert await asked(batcher, 9) == 18  # there is room again

    asyncio.run(run())
    batcher.close(10)


def test_whoever_gives_up_takes_their_item_out():
    gate = CompileLock()
    batcher, _ = made(gate)

    async def run() -> None:
        first = asyncio.create_task(asked(batcher, 0))
        await gate.entered(1)
        gone = [asyncio.create_task(asked(batcher, item)) for item in (1, 2, 3)]
        stays = asyncio.create_task(asked(batcher, 4))
        await asyncio.sleep(0.01)
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        gate.is_open.set()
        assert (await first, await stays) == (0, 8)

    asyncio.run(run())
    batcher.close(10)
    assert gate.batches == [[0], [4]]
    assert batcher.num_waiting == 0


def test_an_item_that_cannot_be_computed_fails_alone():
    def picky(items: Sequence[int]) -> np.ndarray:
        if 3 in items:
            raise ValueError("not three")
        return doubled(items)

    gate = CompileLock()

    def compute(items: Sequence[int]) -> np.ndarray:
        gate(items)
        return picky(items)

    batcher, observer = made(compute, max_batch=8)

    async def run() -> list[object]:
        first = asyncio.create_task(asked(batcher, 0))
        await gate.entered(1)
        tasks = [asyncio.create_task(asked(batcher, item)) for item in range(1, 7)]
        await asyncio.sleep(0.01)
        gate.is_open.set()
        await first
        return await asyncio.gather(*tasks, return_exceptions=True)

    outcomes = asyncio.run(run())
    assert isinstance(outcomes[2], WorkerCrashedError)
    assert [one for one in outcomes if not isinstance(one, Exception)] == [2, 4, 8, 10, 12]
    assert observer.crashes == 0
    batcher.close(10)


def test_a_worker_that_ends_is_replaced_and_its_askers_are_told():
    def compute(items: Sequence[int]) -> np.ndarray:
        if 13 in items:
            raise SystemExit("killed")
        return doubled(items)

    batcher, observer = made(compute)

    async def run() -> None:
        for _ in range(3):
            with pytest.raises(WorkerCrashedError, match="replaced"):
                await asked(batcher, 13)
            assert await asked(batcher, 1) == 2

    asyncio.run(run())
    assert observer.crashes == 3
    batcher.close(10)


def test_a_worker_that_hangs_is_replaced():
    release = threading.Event()

    def compute(items: Sequence[int]) -> np.ndarray:
        if 13 in items:
            release.wait(20)
        return doubled(items)

    batcher, observer = made(compute, timeout=1)  # enough for a fresh worker's answer

    async def run() -> None:
        with pytest.raises(WorkerCrashedError, match="no answer within"):
            await asked(batcher, 13)
        assert await asked(batcher, 1) == 2

    asyncio.run(run())
    assert observer.crashes == 1
    release.set()
    batcher.close(10)


def test_closing_finishes_what_was_accepted_and_takes_nothing_new():
    gate = CompileLock()
    batcher, _ = made(gate)

    async def run() -> None:
        tasks = [asyncio.create_task(asked(batcher, item)) for item in range(6)]
        await gate.entered(1)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        while not batcher._is_closing:  # a thread begins to close it
            await asyncio.sleep(0.001)
        with pytest.raises(WorkerCrashedError, match="shutting down"):
            await asked(batcher, 9)
        gate.is_open.set()
        assert sorted([await task for task in tasks]) == [0, 2, 4, 6, 8, 10]
        await closing

    asyncio.run(run())


def test_of_a_slow_model_fewer_are_computed_at_once():
    sizes = []

    def compute(items: Sequence[int]) -> np.ndarray:
        sizes.append(len(items))
        time.sleep(0.02 * len(items))
        return doubled(items)

    batcher, _ = made(compute, max_batch=64, seconds=0.1)

    async def run() -> None:
        await asyncio.gather(*(asked(batcher, item) for item in range(64)))

    asyncio.run(run())
    asyncio.run(run())
    batcher.close(10)
    assert max(sizes[-5:]) <= 5


def test_results_reach_several_event_loops():
    batcher, _ = made()
    answers: dict[int, float] = {}

    def ask(item: int) -> None:
        answers[item] = asyncio.run(asked(batcher, item))

    threads = [threading.Thread(target=ask, args=(item,)) for item in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {item: 2.0 * item for item in range(8)}
    batcher.close(10)


async def asked_all(batcher: Batcher[int], items: Sequence[int]) -> list[float]:
    rows = await batcher.run_all(
        len(items), lambda place, position: batcher.run(place, items[position])
    )
    return [float(row[0]) for row in rows]


def test_a_request_larger_than_the_queue_is_fed_to_it_in_parts():
    most_waiting = 0

    def compute(items: Sequence[int]) -> np.ndarray:
        nonlocal most_waiting
        most_waiting = max(most_waiting, batcher.num_waiting)
        return doubled(items)

    batcher, observer = made(compute, max_batch=8, capacity=10)
    assert asyncio.run(asked_all(batcher, range(500))) == [2.0 * item for item in range(500)]
    batcher.close(10)
    assert most_waiting <= 10
    assert sum(observer.sizes) == 500
    assert batcher.num_waiting == 0


def test_large_requests_take_turns_and_none_of_ten_is_refused():
    gate = CompileLock()
    batcher, _ = made(gate, max_batch=64, capacity=1024)
    starts = [10_000 * n for n in range(10)]

    async def run() -> list[list[float]]:
        requests = [
            asyncio.create_task(asked_all(batcher, range(start, start + 500))) for start in starts
        ]
        await gate.entered(1)
        late = asyncio.create_task(asked(batcher, 99_999))
        await asyncio.sleep(0.01)
        assert batcher.num_waiting <= 1024
        gate.is_open.set()
        assert await late == 199_998
        assert not all(request.done() for request in requests)  # it did not wait for all of them
        return [await request for request in requests]

    assert asyncio.run(run()) == [[2.0 * n for n in range(start, start + 500)] for start in starts]
    batcher.close(10)


def test_those_who_are_turned_away_are_told_to_come_one_after_the_other():
    gate = CompileLock()
    batcher, _ = made(gate, max_batch=10, capacity=PART, seconds=10)  # ten a second are assumed

    async def run() -> list[int]:
        first = asyncio.create_task(asked_all(batcher, range(100)))
        await gate.entered(1)
        seconds = []
        for _ in range(3):
            with pytest.raises(QueueFullError) as caught:
                await asked_all(batcher, range(PART))
            seconds.append(caught.value.retry_after_seconds)
        gate.is_open.set()
        await first
        return seconds

    seconds = asyncio.run(run())
    batcher.close(10)
    assert 8 <= seconds[0] <= 10  # what was accepted, and is not being computed, has to be done
    steps = [later - earlier for earlier, later in pairwise(seconds)]
    assert all(PART // 10 <= step <= PART // 10 + 1 for step in steps)


def test_large_requests_wait_in_a_line_until_there_is_room():
    gate = CompileLock()
    batcher, _ = made(gate, max_batch=8, capacity=PART)
    starts = [1000 * n for n in range(10)]

    async def run() -> list[list[float]]:
        requests = [
            asyncio.create_task(asked_all(batcher, range(start, start + 100))) for start in starts
        ]
        await gate.entered(1)
        given_up = asyncio.create_task(asked_all(batcher, range(100)))
        with pytest.raises(QueueFullError):
            await asked_all(batcher, range(PART))  # a small request does not wait
        given_up.cancel()
        gate.is_open.set()
        return [await request for request in requests]

    assert asyncio.run(run()) == [[2.0 * n for n in range(start, start + 100)] for start in starts]
    batcher.close(10)
    assert (batcher.num_waiting, batcher._later, len(batcher._line)) == (0, 0, 0)


@pytest.mark.parametrize(("num_requests", "timeout"), [(18, 60), (2, 0.2)])
def test_a_large_request_is_refused_where_the_line_is_too_long(num_requests, timeout):
    gate = CompileLock()
    batcher, _ = made(gate, max_batch=8, capacity=PART, timeout=timeout)

    async def run() -> None:
        requests = [
            asyncio.create_task(asked_all(batcher, range(100))) for _ in range(num_requests)
        ]
        await gate.entered(1)
        with pytest.raises(QueueFullError, match="queue is full"):
            await requests[-1]
        gate.is_open.set()
        await asyncio.gather(*requests, return_exceptions=True)

    asyncio.run(run())
    batcher.close(10)
    assert (batcher.num_waiting, batcher._later, len(batcher._line)) == (0, 0, 0)


def test_closing_refuses_who_stands_in_the_line():
    gate = CompileLock()
    batcher, _ = made(gate, max_batch=8, capacity=PART)

    async def run() -> None:
        requests = [asyncio.create_task(asked_all(batcher, range(100))) for _ in range(2)]
        await gate.entered(1)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        with pytest.raises(WorkerCrashedError, match="shutting down"):
            await requests[1]
        gate.is_open.set()
        assert await requests[0] == [2.0 * item for item in range(100)]
        await closing

    asyncio.run(run())


@pytest.mark.parametrize("way", ["cancelled", "failed"])
def test_a_large_request_that_ends_early_leaves_no_places_behind(way):
    gate = CompileLock()
    batcher, _ = made(gate, max_batch=8, capacity=64)

    async def place(place, position):
        if way == "failed" and position == 70:
            raise ValueError("a bad item")
        return await batcher.run(place, position)

    async def run() -> None:
        request = asyncio.create_task(batcher.run_all(1000, place))
        await gate.entered(1)
        if way == "cancelled":
            request.cancel()
        gate.is_open.set()
        with pytest.raises((asyncio.CancelledError, ValueError)):
            await request
        assert await asked(batcher, 5) == 10
        assert await asked_all(batcher, range(100)) == [2.0 * item for item in range(100)]

    asyncio.run(run())
    batcher.close(10)
    assert (batcher.num_waiting, batcher._later) == (0, 0)
    assert sum(map(len, gate.batches)) < 500


def test_closing_finishes_a_large_request_that_was_accepted():
    gate = CompileLock()
    batcher, _ = made(gate, max_batch=8, capacity=64)

    async def run() -> None:
        request = asyncio.create_task(asked_all(batcher, range(300)))
        await gate.entered(1)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        while not batcher._is_closing:
            await asyncio.sleep(0.001)
        gate.is_open.set()
        assert await request == [2.0 * item for item in range(300)]
        await closing

    asyncio.run(run())
