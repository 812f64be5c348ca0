"""Clients that connect all at once are accepted at once, however busy the event loop is."""

import asyncio
import socket
import sys

import pytest

from perception_encoder.server.run import copy_listener

NUM_CLIENTS = 128


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop is not for Windows")
def test_a_turn_of_the_loop_accepts_many():
    import uvloop

    async def turns_needed() -> int:
        """Count the turns of the loop until everybody is accepted."""
        loop = asyncio.get_running_loop()
        num_accepted = num_turns = 0

        class Accepted(asyncio.Protocol):
            def connection_made(self, transport):
                nonlocal num_accepted
                num_accepted += 1
                transport.close()

        first = socket.create_server(("127.0.0.1", 0), backlog=NUM_CLIENTS)
        listeners = copy_listener(first)
        clients = [socket.create_connection(first.getsockname()) for _ in range(NUM_CLIENTS)]
        servers = [await loop.create_server(Accepted, sock=one) for one in listeners]
        while num_accepted < NUM_CLIENTS:
            num_turns += 1
            assert num_turns < 100 * NUM_CLIENTS
            await asyncio.sleep(0)
        for one in (*servers, *clients):
            one.close()  # type: ignore[attr-defined]
        return num_turns

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(turns_needed()) <= NUM_CLIENTS / 8
