"""How many requests a server answers when many ask at once, beside one that is asked one at a time.

A real server in a process of its own, on loopback; wrk in another, whose connections ask again as
soon as they are answered. Images are JPEG files, sent as a request's body; texts are short
captions. Vectors of texts come back as base64.

    python -m benchmarks.serving pe-nano
    python -m benchmarks.serving PE-Core-B16-224
    python -m benchmarks.serving memory
"""

import argparse
import base64
import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from benchmarks.http_load import Requests, load
from benchmarks.report import write_report

CONNECTIONS = 64
NUM_IMAGES = 256
_MEMORY_STEP = 10.0  # seconds
WORDS = ("red", "blue", "small", "old", "dog", "car", "house", "tree", "on", "under", "a", "index")


def images(width: int, height: int) -> list[bytes]:
    """Made JPEG files, blurred so that they are about as large as photos of that size."""
    generator = np.random.default_rng(0)
    files = []
    for _ in range(NUM_IMAGES):
        noise = generator.integers(0, 256, (height, width, 3), np.uint8)
        out = io.BytesIO()
        Image.fromarray(noise).filter(ImageFilter.GaussianBlur(2)).save(out, "JPEG", quality=85)
        files.append(out.getvalue())
    return files


def texts() -> list[str]:
    """Captions of two to eight words."""
    generator = np.random.default_rng(0)
    return [" ".join(generator.choice(WORDS, generator.integers(2, 9))) for _ in range(1000)]


def image_requests(width: int, height: int) -> Requests:
    """One request for each made image, its body."""
    return Requests("/v1/embed", images(width, height), {"Content-Type": "image/jpeg"})


def text_requests() -> Requests:
    """One request for each caption."""
    bodies = [{"texts": [text], "encoding": "base64"} for text in texts()]
    return Requests("/v1/embed", [json.dumps(body).encode() for body in bodies])


def mixed_requests() -> Requests:
    """Texts and images in turn."""
    bodies = []
    for text, file in zip(texts(), 4 * images(96, 96), strict=False):
        bodies.append({"texts": [text], "encoding": "base64"})
        bodies.append({"images": [base64.b64encode(file).decode()], "encoding": "base64"})
    return Requests("/v1/embed", [json.dumps(body).encode() for body in bodies])


@contextlib.contextmanager
def served(
    model: str, *, random_weights: bool, precision: str = "auto"
) -> Iterator[tuple[int, int]]:
    """Run a server; yield its port and process id."""
    port = free_port()
    code = (
        "from perception_encoder.server import ServerSettings;"
        "from perception_encoder.server.options import ModelSettings;"
        "from perception_encoder.server.run import run_server;"
        f"m = ModelSettings(names=({model!r},), random_weights={random_weights},"
        f"precision={precision!r});"
        f"run_server(ServerSettings(models=m), host='127.0.0.1', port={port}, announce=lambda _: 0)"
    )
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    with running([sys.executable, "-c", code], port, "/readiness", environment) as pid:
        yield port, pid


@contextlib.contextmanager
def running(
    command: list[str], port: int, ready: str, environment: dict[str, str]
) -> Iterator[int]:
    """Run a server's process until it answers 200 at a path; yield its id."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            _wait_until_ready(f"http://127.0.0.1:{port}{ready}")
            yield process.pid
        finally:
            process.terminate()
            process.wait(60)


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _wait_until_ready(url: str) -> None:
    for _ in range(900):
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"{url} is not ready after a minute and a half")


def resident_mib(pid: int) -> float:
    """Memory of a process, MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def compared(port: int, pid: int, asked: Requests, seconds: float) -> dict[str, Any]:
    """Ask one at a time, then from all connections."""
    load(port, asked, 8, min(3.0, seconds), pid)  # warm up
    one = load(port, asked, 1, seconds / 3, pid)
    many = load(port, asked, CONNECTIONS, seconds, pid)
    gain = many["requests_per_second"] / one["requests_per_second"]
    return {"one_at_a_time": one, "many": many, "gain": round(gain, 2)}


def measured(name: str, seconds: float) -> dict[str, Any]:
    """Figures of one model."""
    with served(name, random_weights=name != "pe-nano") as (port, pid):
        return {
            "images": compared(port, pid, image_requests(320, 240), seconds),
            "texts": compared(port, pid, text_requests(), seconds),
            "resident_mib": resident_mib(pid),
        }


def memory(most: int) -> dict[str, Any]:
    """Memory of a server of pe-nano over so many requests, texts and images in turn."""
    asked, steps, answered = mixed_requests(), [], 0
    with served("pe-nano", random_weights=False) as (port, pid):
        while answered < most:
            answered += load(port, asked, CONNECTIONS, _MEMORY_STEP, pid)["requests"]
            steps.append({"requests": answered, "resident_mib": resident_mib(pid)})
    return {"steps": steps}


def main() -> None:
    """Measure one thing and write its report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("pe-nano", "PE-Core-B16-224", "memory"))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--requests", type=int, default=100_000)
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
        note="client and server share the cores, the client is wrk and takes little of them; "
        "images are 320x240 JPEG (memory: 96x96); B16 has made weights",
    )
    print(path)


if __name__ == "__main__":
    main()
