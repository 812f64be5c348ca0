"""Keys inside bodies: looked for where a body begins, so that nobody sends much without one."""

from typing import Any, Final

from fastapi import Request
from pydantic_core import from_json
from starlette.requests import ClientDisconnect
from starlette.types import Message

MOST_WITHOUT_KEY: Final = 64 * 1024
"""Bytes of a body that are read before its key is known. Clients that put their key into the body
(`inference-sdk`) write it before the images."""


async def with_key_of_body(request: Request) -> tuple[Request, str | None]:
    """Read how a JSON body begins, and return its `api_key`.

    Returns:
        The request, whose body can be read from its start again; and the key, None where the first
        `MOST_WITHOUT_KEY` bytes hold none.

    Raises:
        ClientDisconnect: the client went away.
    """
    messages: list[Message] = []
    num_bytes, is_whole = 0, False
    while num_bytes < MOST_WITHOUT_KEY and not is_whole:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        messages.append(message)
        num_bytes += len(message.get("body", b""))
        is_whole = not message.get("more_body", False)
    beginning = b"".join(message.get("body", b"") for message in messages)[:MOST_WITHOUT_KEY]
    receive = request.receive
    messages.reverse()

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return Request(request.scope, again), _key_in(beginning)


def _key_in(beginning: bytes) -> str | None:
    try:
        body: Any = from_json(beginning, allow_partial=True)
    except ValueError:
        return None
    key = body.get("api_key") if isinstance(body, dict) else None
    return key if isinstance(key, str) else None
