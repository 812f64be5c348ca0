"""Asks an HTTP server from many connections with wrk, a load generator in C, and says what it cost.

wrk takes some 0.02 core-ms a request, a client in Python ten times that; where both ends share a
machine's cores, the client's share is the server's loss. Needs `wrk` (apt-get install wrk).
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_SCRIPT = """
local requests, sent = {}, 0
function init(args)
  wrk.method = "POST"
  for number = 1, COUNT do
    local file = assert(io.open("FOLDER/" .. number, "rb"))
    requests[number] = wrk.format(nil, nil, nil, file:read("*a"))
    file:close()
  end
end
function request()
  sent = sent + 1
  return requests[(sent - 1) % COUNT + 1]
end
function done(summary, latency)
  local wrong = summary.errors
  io.stderr:write(string.format(
    '{"requests": %d, "seconds": %f, "failed": %d, "p50": %f, "p95": %f, "p99": %f}',
    summary.requests, summary.duration / 1e6,
    wrong.status + wrong.connect + wrong.read + wrong.write + wrong.timeout,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3))
end
"""


@dataclass(frozen=True)
class Requests:
    """What is asked, in turn: a path, headers, and a body for each request."""

    path: str
    bodies: Sequence[bytes]
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})


def load(
    port: int, asked: Requests, connections: int, seconds: float, server: int
) -> dict[str, Any]:
    """Ask over so many connections for so long.

    Args:
        port: on loopback.
        asked: the requests.
        connections: each asks again as soon as it is answered.
        seconds: for how long.
        server: the server's process id, whose processor time is measured.

    Returns:
        Requests a second, quantiles of their times, and processor time a request at both ends.

    Raises:
        RuntimeError: a request was not answered with 2xx.
    """
    with tempfile.TemporaryDirectory() as folder:
        for number, body in enumerate(asked.bodies, 1):
            (Path(folder) / str(number)).write_bytes(body)
        script = Path(folder) / "ask.lua"
        lines = _SCRIPT.replace("COUNT", str(len(asked.bodies))).replace("FOLDER", folder)
        script.write_text(lines)
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "60s"]
        for name, value in asked.headers.items():
            command += ["-H", f"{name}: {value}"]
        command += ["-s", str(script), f"http://127.0.0.1:{port}{asked.path}"]
        before, mine = processor_seconds(server), os.times()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        used, after = processor_seconds(server) - before, os.times()
    told = json.loads(done.stderr.strip().splitlines()[-1])
    if told["failed"]:
        raise RuntimeError(f"{told['failed']} of {told['requests']} requests failed: {done.stdout}")
    client = sum(after[2:4]) - sum(mine[2:4])
    answered = max(1, told["requests"])  # none, where a model was being opened all the time
    return {
        "connections": connections,
        "requests": told["requests"],
        "requests_per_second": round(told["requests"] / told["seconds"], 1),
        **{f"{name}_ms": round(told[name], 2) for name in ("p50", "p95", "p99")},
        "server_core_ms": round(1000 * used / answered, 3),
        "client_core_ms": round(1000 * client / answered, 3),
    }


def processor_seconds(pid: int) -> float:
    """Processor time of all threads of a process, system calls among it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
