"""Lets one backend answer for its speed, in a process and an environment of its own.

A runner beside this file makes a backend from settings; each of its public methods is a task. Lines
of JSON come in, `{"task": "images", "arguments": [8]}`, and go out with the seconds that the
method took and what it returned. Nothing but the standard library, so that it runs everywhere.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any


def serve(make_backend: Callable[..., Any]) -> None:
    """Make a backend from the settings in the first argument and do what is asked of it."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no reply

    def answer(reply: dict[str, Any]) -> None:
        replies.write(json.dumps(reply) + "\n")
        replies.flush()

    try:
        backend = make_backend(**json.loads(sys.argv[1]))
        answer({"value": "ready"})
        for line in sys.stdin:
            request = json.loads(line)
            task, arguments = getattr(backend, request["task"]), request["arguments"]
            started = time.perf_counter()
            value = task(*arguments)
            answer({"seconds": time.perf_counter() - started, "value": value})
    except Exception as err:  # noqa: BLE001  whatever a peer raises is an answer
        traceback.print_exc()
        answer({"error": f"{type(err).__name__}: {err}"})
