"""The collector of cycles does not look at what stays, again and again."""

import asyncio
import gc
import subprocess
import sys
import weakref

import pytest
from small_models import open_tiny

from perception_encoder.server import ServerSettings, create_app
from perception_encoder.server.http.middleware import RequestMiddleware
from perception_encoder.server.http.telemetry import Metrics
from perception_encoder.server.options import AccessSettings

CHILD = """
import gc, weakref
from perception_encoder.server.run import freeze_objects
class Node: pass
def ring():
    node = Node()
    node.itself = node
    return weakref.ref(node)
gc.disable()  # collections happen where this asks for them
kept, early = [[number] for number in range(100_000)], ring()
freeze_objects()
frozen = gc.get_freeze_count()
assert frozen >= len(kept)
assert early() is None  # garbage is not kept
later = ring()
gc.collect()
assert later() is None  # what comes later is still collected
assert gc.get_freeze_count() <= frozen  # and never kept
"""
THRESHOLD = """
import gc
from perception_encoder.cli import main
before = gc.get_threshold()
main.build_app = lambda _: lambda **_: None
main.main()
assert gc.get_threshold() == before
"""


@pytest.mark.parametrize("program", [CHILD, THRESHOLD], ids=["what is kept", "how often"])
def test_what_the_collector_looks_at(program):
    subprocess.run([sys.executable, "-c", program], check=True, timeout=200)


def test_what_is_there_once_the_models_are_open_is_left_alone():
    seen = []
    app = create_app(
        ServerSettings(),
        open_model=lambda _: open_tiny(),
        on_ready=lambda: seen.append(app.state.services.served_models.states()[0].is_loaded),
    )

    async def start():
        async with app.router.lifespan_context(app):
            while not app.state.services.served_models.is_ready:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0)

    asyncio.run(start())
    assert seen == [True]


def test_a_program_that_runs_the_app_keeps_its_own_frozen_objects():
    app = create_app(ServerSettings(), open_model=lambda _: open_tiny())
    interval = sys.getswitchinterval()
    gc.freeze()
    try:
        before = gc.get_freeze_count()
        assert before

        async def start():
            async with app.router.lifespan_context(app):
                while not app.state.services.served_models.is_ready:
                    await asyncio.sleep(0.01)

        asyncio.run(start())  # opens a model and closes it
        assert gc.get_freeze_count() > before // 2
        assert sys.getswitchinterval() == interval
    finally:
        gc.unfreeze()


class Mark:
    pass


async def answer(_scope, receive, send):
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_a_request_is_gone_when_it_is_answered():
    middleware = RequestMiddleware(answer, AccessSettings(), Metrics())

    async def ask():
        mark, is_read, gone = Mark(), False, asyncio.Event()

        async def receive():
            nonlocal is_read
            if is_read:
                await gone.wait()  # the client stays
            is_read = True
            return {"type": "http.request", "body": b""}

        async def send(message):
            pass

        scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "mark": mark}
        await middleware(scope, receive, send)
        await asyncio.sleep(0.01)
        return weakref.ref(mark)

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(ask())() is None
    finally:
        gc.enable()
