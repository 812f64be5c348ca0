"""What does Python's collector of cycles cost a search, and a server under load?

A search is a process: its processor time as it is, with the collector called a seventieth as often,
and with the last look at all objects that the interpreter takes before it ends. A server is asked
for texts over 64 connections: how long its collections take, with the interpreter's lock held, as
it is and without the freezing of what is there once its model is open.

    python -m benchmarks.collector --work /tmp/collector
"""

import argparse
import asyncio
import gc
import json
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import uvicorn

from benchmarks.report import write_report
from benchmarks.startup import GALLERY, pe
from perception_encoder.server.options import ServerSettings
from perception_encoder.server.run import freeze_objects, uvicorn_config

RUNS = 25
NUM_CONNECTIONS = 64
NUM_REQUESTS = 100  # of each connection
SEARCH = """
import gc, sys
{change}
from perception_encoder.cli.main import main
main()
"""
CHANGES = {
    "as it is": "",
    "threshold of 50,000 objects": "gc.set_threshold(50_000)",
    "without freezing at the end": "gc.freeze = lambda: None",
}


def main() -> None:
    """Measure both and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="For an index; kept.")
    parser.add_argument("--server", choices=("as it is", "without freezing"), help="Only that.")
    given = parser.parse_args()
    if given.server is not None:
        print(json.dumps(collections(is_frozen=given.server == "as it is")))
        return
    given.work.mkdir(parents=True, exist_ok=True)
    figures = {"search": searches(given.work / "gallery.lance"), "server": {}}
    for kind in ("as it is", "without freezing"):
        command = [sys.executable, "-m", __spec__.name, "--work", given.work, "--server", kind]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        figures["server"][kind] = json.loads(done.stdout)
    print(json.dumps(figures, indent=1))
    question = "what Python's collector of cycles costs a search, and a server under load"
    print(write_report("collector", question, ["perception-encoder", "fastapi"], figures))


def searches(index: Path) -> dict[str, Any]:
    """Return the processor seconds of `pe search` with each change, in turns."""
    if not index.exists():
        pe("index", GALLERY, "--index", index)
    seconds: dict[str, list[float]] = {name: [] for name in CHANGES}
    for _ in range(RUNS):
        for name, change in CHANGES.items():
            program = SEARCH.format(change=change)
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            command = [sys.executable, "-c", program, "search", "red heart", "--index", str(index)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds[name].append(
                after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            )
    return {name: {"min": min(all_), "median": median(all_)} for name, all_ in seconds.items()}


def collections(*, is_frozen: bool) -> dict[str, Any]:
    """Return the milliseconds of each generation's collections while a server is asked."""
    on_ready = freeze_objects if is_frozen else (lambda: None)
    server = uvicorn.Server(uvicorn_config(ServerSettings(), on_ready=on_ready))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    while httpx2.get(f"{url}/readiness").status_code != 200:
        time.sleep(0.01)
    took: dict[int, list[float]] = {0: [], 1: [], 2: []}
    began = 0.0

    def note(phase: str, info: dict[str, int]) -> None:
        nonlocal began
        if phase == "start":
            began = time.thread_time()
        else:
            took[info["generation"]].append(1000 * (time.thread_time() - began))

    gc.callbacks.append(note)
    client = [sys.executable, "-c", f"from {__spec__.name} import ask; ask({url!r})"]
    subprocess.run(client, check=True)
    gc.callbacks.remove(note)
    server.should_exit = True
    thread.join()
    return {
        "requests": NUM_CONNECTIONS * NUM_REQUESTS,
        "milliseconds": {
            f"generation {number}": {
                "count": len(all_),
                "sum": sum(all_),
                "max": max(all_, default=0),
            }
            for number, all_ in took.items()
        },
    }


def ask(url: str) -> None:
    """Ask for texts over many connections, in a process of its own."""

    async def one(client: httpx2.AsyncClient, number: int) -> None:
        for turn in range(NUM_REQUESTS):
            body = {"texts": [f"a red heart, {number} times {turn}"]}
            (await client.post("/v1/embed", json=body)).raise_for_status()

    async def everybody() -> None:
        limits = httpx2.Limits(max_connections=NUM_CONNECTIONS)
        async with httpx2.AsyncClient(base_url=url, limits=limits, timeout=60) as client:
            await asyncio.gather(*(one(client, number) for number in range(NUM_CONNECTIONS)))

    asyncio.run(everybody())


if __name__ == "__main__":
    main()
