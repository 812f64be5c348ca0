"""The collector of cycles does not look at what stays, again and again."""

import asyncio
import gc
import subprocess
import sys
import weakref

from perception_encoder.server.edge import Edge
from perception_encoder.server.metrics import Metrics
from perception_encoder.server.options import AccessSettings

CHILD = """
import gc, weakref
from perception_encoder.server.pauses import shorten_pauses
class Node: pass
gc.disable()  # collections happen where this asks for them
for _ in range(2):
    shorten_pauses()
assert len(gc.callbacks) == 1
kept = [[number] for number in range(1_500_000)]
gc.collect()
frozen = gc.get_freeze_count()
assert frozen >= len(kept)
node = Node()
node.itself, seen = node, weakref.ref(node)
del node
gc.collect()
assert seen() is None  # what came later is still collected
assert gc.get_freeze_count() == frozen  # and what came later is not kept
"""


def test_what_survives_a_long_collection_is_left_alone():
    subprocess.run([sys.executable, "-c", CHILD], check=True, timeout=60)


class Mark:
    pass


async def answer(_scope, receive, send):
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_a_request_is_gone_when_it_is_answered():
    edge = Edge(answer, AccessSettings(), Metrics())

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
        await edge(scope, receive, send)
        await asyncio.sleep(0.01)
        return weakref.ref(mark)

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(ask())() is None
    finally:
        gc.enable()
