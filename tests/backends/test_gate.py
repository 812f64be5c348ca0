"""Many at once, or one alone."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from perception_encoder.backends.torch_devices import CompileLock

SOON = 100


@pytest.mark.parametrize("count", [2, 5])
def test_those_who_share_are_inside_together(count):
    gate, meeting = CompileLock(), threading.Barrier(count)

    def enter():
        with gate.shared():
            return meeting.wait(SOON)

    with ThreadPoolExecutor(count) as pool:
        assert sorted(pool.map(lambda _: enter(), range(count))) == list(range(count))


def test_one_alone_waits_for_the_others_and_keeps_newcomers_out():
    gate, order = CompileLock(), []
    claimed, may_leave = threading.Event(), threading.Event()

    def alone():
        claimed.set()
        with gate.exclusive():
            order.append("alone")

    def newcomer():
        with gate.shared():
            order.append("newcomer")

    with ThreadPoolExecutor(2) as pool:
        with gate.shared():
            first = pool.submit(alone)
            assert claimed.wait(SOON)
            while not gate._is_claimed:  # it waits for this thread to leave
                may_leave.wait(0.001)
            second = pool.submit(newcomer)
            may_leave.wait(0.05)
            assert order == []
        first.result(SOON)
        second.result(SOON)
    assert order == ["alone", "newcomer"]


def test_whoever_fails_inside_leaves():
    gate = CompileLock()
    with pytest.raises(ValueError, match="inside"), gate.shared():
        raise ValueError("inside")
    with pytest.raises(ValueError, match="alone"), gate.exclusive():
        raise ValueError("alone")
    with gate.shared():
        pass
