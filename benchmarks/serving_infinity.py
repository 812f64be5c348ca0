"""Our server beside Infinity's: the same model's shapes, the same requests, the same client.

CLIP ViT-B-32 with random weights over `/v1/embeddings` (`/embeddings` there), 64 connections, one
text or image a request. Infinity runs as it does by default on a CPU, in torch and fp32; ours in
fp32, and as it runs by default. Needs an environment with Infinity and CLIP's folder, as
`benchmarks.encoders` does.

    python -m benchmarks.serving_infinity --peers /tmp/peers --work /tmp/encoders
"""

import argparse
import base64
import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.http_load import Requests, load
from benchmarks.random_models import Place, prepare_clip
from benchmarks.report import write_report
from benchmarks.serving import CONNECTIONS, free_port, images, running, served, texts

MODEL = "clip/ViT-B-32"


def requests(path: str, model: str) -> dict[str, Requests]:
    """One text, or one image as a data URI, for each request."""
    uris = [
        f"data:image/jpeg;base64,{base64.b64encode(file).decode()}" for file in images(320, 240)
    ]
    common = {"model": model, "encoding_format": "base64"}
    return {
        "texts": Requests(
            path, [json.dumps({**common, "input": text}).encode() for text in texts()]
        ),
        "images": Requests(
            path,
            [json.dumps({**common, "input": [uri], "modality": "image"}).encode() for uri in uris],
        ),
    }


@contextlib.contextmanager
def infinity(place: Place) -> Iterator[tuple[int, int]]:
    """Run Infinity's server; yield its port and process id."""
    port = free_port()
    command = [str(place.peers / "infinity/bin/infinity_emb"), "v2", "--port", str(port)]
    command += ["--model-id", str(prepare_clip(place)), "--served-model-name", MODEL]
    command += ["--worker", "torch", "--device", "cpu", "--host", "127.0.0.1"]
    command += ["--no-model-warmup", "--no-bettertransformer"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    with running(command, port, "/health", environment) as pid:
        yield port, pid


def measured(port: int, pid: int, path: str, seconds: float) -> dict[str, Any]:
    """Ask for texts and images, one at a time and from all connections."""
    found: dict[str, Any] = {}
    for name, asked in requests(path, MODEL).items():
        load(port, asked, 4, 3, pid)  # warm up
        found[name] = {
            "one_at_a_time": load(port, asked, 1, seconds / 3, pid),
            "many": load(port, asked, CONNECTIONS, seconds, pid),
        }
    return found


def ratios(servers: dict[str, Any]) -> dict[str, Any]:
    """Requests a second of ours over Infinity's."""
    peer = servers["infinity fp32"]
    return {
        server: {
            f"{name} {how}": round(
                figures[name][how]["requests_per_second"] / peer[name][how]["requests_per_second"],
                2,
            )
            for name in figures
            for how in figures[name]
        }
        for server, figures in servers.items()
        if server != "infinity fp32"
    }


def versions(place: Place) -> dict[str, str]:
    """What the peer is made of."""
    code = (
        "import json, importlib.metadata as m;"
        "print(json.dumps({n: m.version(n) for n in ('infinity_emb', 'torch', 'transformers')}))"
    )
    python = str(place.python("infinity"))
    done = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure both servers in turn and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=12)
    arguments = parser.parse_args()
    place = Place(arguments.peers, Path(), arguments.work)
    servers: dict[str, Any] = {}
    with infinity(place) as (port, pid):
        servers["infinity fp32"] = measured(port, pid, "/embeddings", arguments.seconds)
    for precision in ("fp32", "auto"):
        with served(MODEL, random_weights=True, precision=precision) as (port, pid):
            figures = measured(port, pid, "/v1/embeddings", arguments.seconds)
            servers[f"perception-encoder {precision}"] = figures
    report = {"model": MODEL, "servers": servers, "ours_over_infinity": ratios(servers)}
    print(json.dumps(report, indent=1))
    path = write_report(
        "serving-infinity",
        "How many requests our server and Infinity's answer, on the same model's shapes.",
        ["perception-encoder", "openvino", "fastapi", "uvicorn"],
        {"peer_versions": versions(place), **report},
        note="client (wrk) and server share the cores; random weights; images are 320x240 JPEG "
        "as data URIs; vectors come back as base64; auto is bf16 where the processor has it",
    )
    print(path)


if __name__ == "__main__":
    main()
