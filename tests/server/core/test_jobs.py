"""Jobs over indexes: shared, one at a time, bounded, and ended when no request wants them."""

import asyncio
import threading

import numpy as np
import pytest

from perception_encoder.analysis.duplicates import Duplicates
from perception_encoder.errors import IndexStorageError, QueueFullError
from perception_encoder.index import Index, Row
from perception_encoder.server.core import analyses
from perception_encoder.server.core import analyses as index_jobs
from perception_encoder.server.core.analyses import (
    DuplicateSearch,
    IndexJobs,
    JobProgress,
    JobResult,
)
from perception_encoder.server.core.indexes import ServedIndex
from perception_encoder.server.core.pools import WorkPool
from perception_encoder.types import ModelIdentity


class Search:
    """Stands in for the search: reports again and again until it is let go."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.asked: list[tuple[str, float | None]] = []
        self.num_running = 0
        self.most_running = 0
        self.num_ended = 0
        self.fails = False

    def __call__(self, index, _read, *, tier, threshold, report) -> Duplicates:
        self.asked.append((tier, threshold))
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        try:
            while not self.is_open.wait(0.005):
                report("comparing images", 0, 0)
            if self.fails:
                raise IndexStorageError("the disk is full")
            return Duplicates((), (), index.count(), 0)
        except BaseException:
            self.num_ended += 1
            raise
        finally:
            self.num_running -= 1


@pytest.fixture
def search(monkeypatch):
    made = Search()
    monkeypatch.setattr(analyses, "find_duplicates", made)
    monkeypatch.setattr(index_jobs, "_PATIENCE_SECONDS", 0.02)
    yield made
    made.is_open.set()


@pytest.fixture
def index(tmp_path):
    made = Index.create(tmp_path / "t.lance", ModelIdentity("pe-nano", "0" * 16, "standard", 4))
    add(made, "a")
    return made


def add(index: Index, uri: str) -> None:
    index.add([Row(uri)], np.array([[1, 0, 0, 0]], np.float32))


@pytest.fixture
def served(index):
    return ServedIndex("t", index.path)


def jobs() -> IndexJobs:
    return IndexJobs(WorkPool("searches", num_threads=2))


def read(_: Row) -> bytes:
    return b""


async def get(made: IndexJobs, served, tier, threshold) -> Duplicates | None:
    """The duplicates; None while the job is running."""
    job = await made.get(served, DuplicateSearch.of(tier, threshold, read))
    if isinstance(job, JobResult):
        return job.value
    assert isinstance(job, JobProgress)
    assert job.seconds >= 0
    assert job.stage in ("waiting", "starting", "comparing images")
    return None


async def until(condition) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def test_equal_requests_share_one_search(search, served):
    async def run() -> None:
        made = jobs()
        asked = [("near", None), ("near", 0.98), ("near", None)] * 5
        assert await asyncio.gather(*(get(made, served, *one) for one in asked)) == [None] * 15
        search.is_open.set()
        results = [await get(made, served, *one) for one in asked]
        assert all(one is results[0] for one in results)
        assert search.asked == [("near duplicate", 0.98)]
        made.close()

    asyncio.run(run())


def test_thresholds_of_tiers_that_have_none_make_no_other_search(search, served):
    async def run() -> None:
        made = jobs()
        for threshold in (None, 0.5, 0.7):
            assert await get(made, served, "bytes", threshold) is None
        assert len(search.asked) == 1
        made.close()

    asyncio.run(run())


def test_one_search_runs_at_a_time_and_only_a_few_wait(search, served):
    async def run() -> None:
        made = jobs()
        thresholds = [n / 100 for n in range(1, 61)]
        replies = await asyncio.gather(
            *(get(made, served, "near", one) for one in thresholds), return_exceptions=True
        )
        refused = [one for one in replies if isinstance(one, QueueFullError)]
        assert len(refused) == 52
        assert refused[0].retry_after_seconds >= 1
        assert [one for one in replies if one not in refused] == [None] * 8
        assert len(search.asked) == search.most_running == 1
        search.is_open.set()
        for threshold in thresholds:  # there is room again, and results make room for others
            async with asyncio.timeout(20):
                while await get(made, served, "near", threshold) is None:
                    pass
        assert search.most_running == 1
        assert len(made._jobs) <= 8
        made.close()

    asyncio.run(run())


def test_a_search_goes_on_when_whoever_asked_is_gone(search, served):
    async def run() -> None:
        made = jobs()
        request = asyncio.create_task(get(made, served, "near", None))
        await until(lambda: search.num_running)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        search.is_open.set()
        await until(lambda: not search.num_running)
        found = await get(made, served, "near", None)
        assert found is not None
        assert found.num_images == 1
        assert len(search.asked) == 1
        made.close()

    asyncio.run(run())


def test_a_search_that_nobody_asks_for_any_more_ends_and_can_be_asked_for_again(
    search, served, monkeypatch
):
    async def run() -> None:
        made = jobs()
        assert await get(made, served, "near", None) is None
        assert await get(made, served, "near", 0.5) is None  # waits
        monkeypatch.setattr(index_jobs, "_ABANDONED_SECONDS", 0.0)
        await until(lambda: search.num_ended == 1 and not search.num_running)
        monkeypatch.setattr(index_jobs, "_ABANDONED_SECONDS", 60.0)
        search.is_open.set()
        async with asyncio.timeout(20):
            while await get(made, served, "near", None) is None:
                pass
        assert search.asked.count(("near duplicate", 0.5)) <= 1
        made.close()

    asyncio.run(run())


def test_a_search_of_what_an_index_was_before_ends(search, served, index):
    async def run() -> None:
        made = jobs()
        assert await get(made, served, "near", None) is None
        await until(lambda: search.num_running)
        add(index, "b")
        served._looked = -1e9
        assert await get(made, served, "near", None) is None
        await until(lambda: search.num_ended == 1)
        search.is_open.set()
        async with asyncio.timeout(20):
            while (found := await get(made, served, "near", None)) is None:
                pass
        assert found.num_images == 2
        made.close()

    asyncio.run(run())


def test_a_search_that_fails_is_told_and_tried_again(search, served):
    async def run() -> None:
        made = jobs()
        search.fails = True
        search.is_open.set()
        with pytest.raises(IndexStorageError):
            await get(made, served, "near", None)
        search.fails = False
        assert await get(made, served, "near", None) is not None
        made.close()

    asyncio.run(run())


def test_closing_ends_all_searches(search, served):
    async def run() -> None:
        made = jobs()
        assert await get(made, served, "near", None) is None
        assert await get(made, served, "near", 0.5) is None
        made.close()
        await until(lambda: search.num_ended == 1)
        assert len(search.asked) == 1

    asyncio.run(run())
