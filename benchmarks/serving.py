"""How many requests a server answers when many ask at once, beside one that is asked one at a time.

A real server in a process of its own, on loopback; clients in another, one connection each, that
ask again as soon as they are answered. Pictures are JPEG files, sent as a request's body; texts are
short captions. Vectors of texts come back as base64.

    python -m benchmarks.serving pe-nano
    python -m benchmarks.serving PE-Core-B16-224
    python -m benchmarks.serving memory
"""

import argparse
import asyncio
import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from benchmarks.report import write_report

CONNECTIONS = 64
NUM_PICTURES = 256
WORDS = ("red", "blue", "small", "old", "dog", "car", "house", "tree", "on", "under", "a", "table")


def pictures(width: int, height: int) -> list[bytes]:
    """Made JPEG files, blurred so that they are about as large as photos of that size."""
    generator = np.random.default_rng(0)
    files = []
    for _ in range(NUM_PICTURES):
        noise = generator.integers(0, 256, (height, width, 3), np.uint8)
        out = io.BytesIO()
        Image.fromarray(noise).filter(ImageFilter.GaussianBlur(2)).save(out, "JPEG", quality=85)
        files.append(out.getvalue())
    return files


def texts() -> list[str]:
    """Captions of two to eight words."""
    generator = np.random.default_rng(0)
    return [" ".join(generator.choice(WORDS, generator.integers(2, 9))) for _ in range(1000)]


def request(body: bytes, kind: str) -> bytes:
    """Return the bytes of one HTTP request."""
    head = f"POST /v1/embed HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def picture_requests(width: int, height: int) -> list[bytes]:
    """One request for each made picture, its body."""
    return [request(file, "image/jpeg") for file in pictures(width, height)]


def text_requests() -> list[bytes]:
    """One request for each caption."""
    return [
        request(json.dumps({"texts": [text], "encoding": "base64"}).encode(), "application/json")
        for text in texts()
    ]


async def ask(
    port: int, requests: Sequence[bytes], until: float, most: int, waits: list[float], first: int
) -> None:
    """Ask over one connection, again and again."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    number = first
    while time.perf_counter() < until and len(waits) < most:
        started = time.perf_counter()
        writer.write(requests[number % len(requests)])
        number += 1
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        await reader.readexactly(length)
        waits.append(time.perf_counter() - started)
    writer.close()


async def load(
    port: int, requests: Sequence[bytes], connections: int, seconds: float, most: int = 10**9
) -> dict[str, float]:
    """Ask over so many connections for so long; how many were answered, and how fast."""
    waits: list[float] = []
    started = time.perf_counter()
    until = started + seconds
    await asyncio.gather(
        *(ask(port, requests, until, most, waits, 17 * n) for n in range(connections))
    )
    elapsed = time.perf_counter() - started
    p50, p95, p99 = (1000 * float(np.quantile(waits, q)) for q in (0.5, 0.95, 0.99))
    return {
        "connections": connections,
        "requests": len(waits),
        "requests_per_second": round(len(waits) / elapsed, 1),
        "p50_ms": round(p50, 1),
        "p95_ms": round(p95, 1),
        "p99_ms": round(p99, 1),
    }


@contextlib.contextmanager
def served(model: str, *, random_weights: bool) -> Iterator[tuple[int, int]]:
    """Run a server; yield its port and process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = (
        "from perception_encoder.server import ServerSettings;"
        "from perception_encoder.server.options import ModelSettings;"
        "from perception_encoder.server.run import run_server;"
        f"m = ModelSettings(names=({model!r},), random_weights={random_weights});"
        f"run_server(ServerSettings(models=m), host='127.0.0.1', port={port}, announce=lambda _: 0)"
    )
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    log = Path(f"/tmp/serving-{port}.log")
    with log.open("wb") as errors:
        process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=errors)
    try:
        asyncio.run(_until_ready(port))
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(60)
        log.unlink()


async def _until_ready(port: int) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /readiness HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
            if answer.startswith(b"HTTP/1.1 200"):
                return
        await asyncio.sleep(0.1)
    raise RuntimeError("the server is not ready after a minute")


def resident_mib(pid: int) -> float:
    """Memory of a process, MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def compared(port: int, requests: list[bytes], seconds: float) -> dict[str, Any]:
    """Ask one at a time, then from all connections."""
    asyncio.run(load(port, requests, 8, min(3.0, seconds)))  # warm up
    one = asyncio.run(load(port, requests, 1, seconds / 3))
    many = asyncio.run(load(port, requests, CONNECTIONS, seconds))
    gain = many["requests_per_second"] / one["requests_per_second"]
    return {"one_at_a_time": one, "many": many, "gain": round(gain, 2)}


def flat_memory(port: int, pid: int, requests: list[bytes], most: int) -> dict[str, Any]:
    """Ask so many times; memory after each tenth."""
    sizes = []
    for _ in range(10):
        asyncio.run(load(port, requests, CONNECTIONS, 600, most // 10))
        sizes.append(resident_mib(pid))
    return {"requests": most, "resident_mib_after_each_tenth": sizes}


def measured(name: str, seconds: float) -> dict[str, Any]:
    """Figures of one model."""
    with served(name, random_weights=name != "pe-nano") as (port, pid):
        return {
            "pictures": compared(port, picture_requests(320, 240), seconds),
            "texts": compared(port, text_requests(), seconds),
            "resident_mib": resident_mib(pid),
        }


def memory(most: int) -> dict[str, Any]:
    """Memory of a server of pe-nano over so many requests, texts and pictures in turn."""
    mixed = [
        one
        for pair in zip(text_requests(), 4 * picture_requests(96, 96), strict=False)
        for one in pair
    ]
    with served("pe-nano", random_weights=False) as (port, pid):
        return flat_memory(port, pid, mixed, most)


def main() -> None:
    """Measure one thing and write its report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("pe-nano", "PE-Core-B16-224", "memory"))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--requests", type=int, default=50_000)
    arguments = parser.parse_args()
    if arguments.what == "memory":
        figures = memory(arguments.requests)
    else:
        figures = measured(arguments.what, arguments.seconds)
    print(json.dumps(figures, indent=1))
    path = write_report(
        f"serving-{arguments.what.lower()}",
        "How many requests a server answers from 64 connections, beside one at a time.",
        ["perception-encoder", "torch", "fastapi", "uvicorn", "numpy", "pillow"],
        {"model": arguments.what, **figures},
        note="client and server share the cores; pictures are 320x240 JPEG (memory: 96x96), "
        "B16 has made weights",
    )
    print(path)


if __name__ == "__main__":
    main()
