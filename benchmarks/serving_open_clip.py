"""Our server beside the one that people write first: FastAPI, open_clip, a pass for each request.

PE-Core-B16's shapes with random weights, the same file for both. open_clip runs as its README uses
it, in fp32; ours in fp32, and as it runs by default. Needs open_clip's environment, as
`benchmarks.encoders` does, with what `peers/requirements-open_clip.txt` names.

    python -m benchmarks.serving_open_clip --peers /tmp/peers --work /tmp/encoders
"""

import argparse
import contextlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.http_load import Requests, load
from benchmarks.random_models import B16, OPEN_CLIP_NAMES, Place, prepare, weights_file
from benchmarks.report import write_report
from benchmarks.serving import (
    CONNECTIONS,
    free_port,
    image_requests,
    running,
    served,
    text_requests,
)

_SERVER = Path(__file__).parent / "peers" / "serve_open_clip.py"


@contextlib.contextmanager
def open_clip(place: Place) -> Iterator[tuple[int, int]]:
    """Run the server around open_clip; yield its port and process id."""
    port = free_port()
    command = [str(place.python("open_clip")), str(_SERVER)]
    command += [OPEN_CLIP_NAMES[B16], weights_file(place, B16), str(port)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with running(command, port, "/ready", environment) as pid:
        yield port, pid


def measured(
    server: Callable[[], AbstractContextManager[tuple[int, int]]],
    asked: dict[str, Requests],
    seconds: float,
) -> dict[str, dict[str, Any]]:
    """Ask for images and texts, one at a time and from all connections.

    Each of a new server: one that does not notice that clients have gone still answers them.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, requests in asked.items():
        with server() as (port, pid):
            load(port, requests, 1, 8, pid)  # warm up: the first pass takes seconds
            found[name] = {
                "one_at_a_time": load(port, requests, 1, seconds / 2, pid),
                "many": load(port, requests, CONNECTIONS, seconds, pid),
            }
    return found


def main() -> None:
    """Measure the servers in turn and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=16)
    arguments = parser.parse_args()
    place = Place(arguments.peers, Path(), arguments.work)
    prepare(place, B16)
    asked = {"images": image_requests(320, 240), "texts": text_requests()}
    theirs = {
        "images": replace(asked["images"], path="/image"),
        "texts": replace(asked["texts"], path="/text"),
    }
    servers: dict[str, Any] = {}
    servers["open_clip fp32"] = measured(partial(open_clip, place), theirs, arguments.seconds)
    for precision in ("fp32", "auto"):
        ours = partial(served, str(place.weights(B16)), random_weights=False, precision=precision)
        servers[f"perception-encoder {precision}"] = measured(ours, asked, arguments.seconds)
    print(json.dumps(servers, indent=1))
    path = write_report(
        "serving-open_clip",
        "How many requests our server answers, and FastAPI around open_clip, a pass for each.",
        ["perception-encoder", "openvino", "fastapi", "uvicorn"],
        {"model": B16, "servers": servers},
        note="client (wrk) and server share the cores; random weights; images are 320x240 JPEG, "
        "vectors come back as base64; auto is bf16 where the processor has it; peer's versions: "
        "peers/requirements-open_clip.txt",
    )
    print(path)


if __name__ == "__main__":
    main()
