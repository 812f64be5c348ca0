"""Where does the time of an image go on a CPU with AMX, and what makes it shorter?

The model has random weights of the real shapes. All variants of a part are measured in turns, and
the machine's own rate of bf16 matrix products between them, so that a machine that changes its
speed changes all alike: a share is the median of the rounds' ratios. Then OpenVINO times each step
of the graph in its fastest of a few calls.

    python -m benchmarks.amx --work /tmp/amx --prepare           # graphs; 4 GB
    python -m benchmarks.amx --work /tmp/amx --part images-B16   # one by one, on a quiet machine

Each part keeps the figures of the others. "former" is the graph that `amx_graphs` describes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.amx_graphs import former_file, graph_file
from benchmarks.random_models import CAPTIONS, clip_vocabulary
from benchmarks.report import RESULTS, commit, write_report
from perception_encoder.backends.samples import load_drawings
from perception_encoder.checkpoints.load import random_model
from perception_encoder.model.dual_encoder import ImageGraph
from perception_encoder.preprocess import ImageProcessor
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.registry import find
from perception_encoder.registry.config import image_operations, text_operations

NAME = "amx"
MODELS = {"B16": "PE-Core-B16-224", "L14": "PE-Core-L14-336"}
PARTS = ("images-B16", "images-L14", "texts-B16", "torch-B16", "huge-pages-B16")
SIZE = 2048  # of the matrices whose product is the machine's rate, as in `pe bench`
PRODUCTS = 4  # of them in a row
CALLS = 8  # whose steps are timed
INT8_PART = "images-B16"  # ranges of L14 take minutes to measure
STEPS = {
    "FullyConnected": "products",
    "FullyConnectedQuantizedLegacy": "products",
    "Subgraph": "attention",
    "RoPE": "rotation",
    "MVN": "norms",
    "MulAdd": "norms' and pixels' weights",
    "Add": "residual sums",
    "Transpose": "copies to another order",
    "Reorder": "copies to another order",
    "Concat": "copies to another order",
    "PowerStatic": "scaling of queries",
    "Convolution": "patches",
}


@dataclass(frozen=True)
class Variant:
    """What is timed: a call, and how many items it embeds."""

    run: Callable[[], object]
    count: int


def main() -> None:
    """Make the graphs, or measure parts and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="For graphs; kept.")
    parser.add_argument("--prepare", action="store_true", help="Make the graphs only.")
    choices = [*PARTS, "pages-B16"]
    parser.add_argument("--part", action="append", choices=choices, help="Default: all.")
    parser.add_argument("--seconds", type=float, default=40, help="Of a part's rounds.")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    if arguments.prepare:
        for part in arguments.part or PARTS:
            prepare(arguments.work, part)
        return
    path = RESULTS / f"{NAME}.json"
    parts = json.loads(path.read_text(encoding="utf-8"))["parts"] if path.exists() else {}
    for part in arguments.part or PARTS:
        kind, _, model = part.rpartition("-")
        figures = MEASURES[kind](arguments.work, MODELS[model], arguments.seconds)
        if arguments.child:
            print(json.dumps(figures))
            return
        parts[part] = figures | {"commit": commit()}
        print(part, json.dumps(parts[part], indent=1), flush=True)
    write_report(
        NAME,
        "where the time of an image goes on two cores with AMX; random weights, real shapes",
        ["perception-encoder", "openvino", "torch", "nncf", "numpy"],
        {"parts": {part: parts[part] for part in PARTS if part in parts}},
        "rates are items a second or operations a second; shares are of the bf16 matrix rate",
    )


def prepare(work: Path, part: str) -> None:
    """Make the graphs of a part, unless an earlier run has."""
    kind, _, model = part.rpartition("-")
    if part == INT8_PART:
        graph_file(work, MODELS[model], "int8")
    if kind in ("images", "huge-pages"):
        graph_file(work, MODELS[model], "bf16")
        former_file(work, MODELS[model])
    if kind == "texts":
        graph_file(work, MODELS[model], "bf16", "text")
        graph_file(work, MODELS[model], "int8", "text")


def images(work: Path, model: str, seconds: float) -> dict[str, Any]:
    """Prepared images: batches, settings, int8, and the former graph."""
    config = find(model).config
    pixels = prepared(model, 32)
    graphs = {"former": former_file(work, model), "now": graph_file(work, model, "bf16")}
    large = model != MODELS["B16"]
    if not large:
        graphs["int8"] = graph_file(work, model, "int8")
    batch = 2 if large else 8
    bf16 = graphs["now"]
    variants = {
        **{name: opened(path, pixels[:batch]) for name, path in graphs.items()},
        **{
            f"now, batch of {size}": opened(bf16, pixels[:size])
            for size in ((1, 8) if large else (1, 2, 4, 16, 32))
        },
        "now, batch fixed": opened(bf16, pixels[:batch], is_fixed=True),
        "now, two streams": streams(bf16, pixels[: batch // 2]),
        "now, one thread": opened(bf16, pixels[:batch], {"INFERENCE_NUM_THREADS": 1}),
    }
    operations = image_operations(config.vision, config.embed_dim)
    tokens = config.vision.grid_size**2 + int(config.vision.has_class_token)
    attention = 4 * tokens**2 * config.vision.width * config.vision.depth
    found = in_turns(variants, operations, seconds)
    rate_of = {name: figures["rate"] for name, figures in found["variants"].items()}
    return {
        "batch": batch,
        "operations_of_an_item": operations,
        **found,
        **({} if large else {"int8_over_bf16": rate_of["int8"] / rate_of["now"]}),
        "lowest_cosine_with_fp32": drift(graphs, pixels[:batch]),
        "attention_operations_of_an_item": attention,
        "steps_of_a_batch": {
            name: steps(path, pixels[:batch], operations - attention)
            for name, path in graphs.items()
        },
    }


def texts(work: Path, model: str, seconds: float) -> dict[str, Any]:
    """Tokens of ordinary captions."""
    config = find(model).config
    assert config.text is not None
    assert config.embed_dim is not None
    captions = Path(CAPTIONS).read_text(encoding="utf-8").splitlines()
    rows = Tokenizer(clip_vocabulary(), config.text.context_length).encode(captions)
    lengths = [len(row) for row in rows]
    token_ids = np.zeros((len(rows), max(lengths)), np.int64)
    for place, row in enumerate(rows):
        token_ids[place, : len(row)] = row
    token_ids = np.resize(token_ids, (128, max(lengths)))
    bf16 = graph_file(work, model, "bf16", "text")
    int8 = graph_file(work, model, "int8", "text")
    variants = {
        **{f"bf16, batch of {n}": opened(bf16, token_ids[:n]) for n in (1, 8, 32, 64, 128)},
        **{f"int8, batch of {n}": opened(int8, token_ids[:n]) for n in (1, 64)},
    }
    operations = text_operations(config.text, config.embed_dim, round(statistics.mean(lengths)))
    return {
        "columns": max(lengths),
        "mean_tokens": statistics.mean(lengths),
        "operations_of_an_item": operations,
        **in_turns(variants, operations, seconds),
        "steps_of_a_batch": {"64 texts": steps(bf16, token_ids[:64], operations)},
    }


def torch_alone(work: Path, model: str, seconds: float) -> dict[str, Any]:
    """PyTorch itself in bf16, which multiplies with oneDNN: as it is, and compiled by Inductor."""
    config = find(model).config
    pixels = prepared(model, 8)
    graph = ImageGraph(random_model(config).bfloat16().eval())
    batch = torch.from_numpy(pixels)

    def variant(call: Callable[[Tensor], Tensor]) -> Variant:
        @torch.no_grad()
        def run() -> Tensor:
            return call(batch)

        run()
        return Variant(run, len(batch))

    variants = {"torch bf16": variant(graph)}
    for name, is_tuned in (("Inductor", False), ("Inductor, tuned", True)):
        # Frozen: weights are laid out once, as a server would.
        options = {"freezing": True, "max_autotune": is_tuned}
        variants[f"torch bf16, {name}"] = variant(torch.compile(graph, options=options))
    openvino = opened(graph_file(work, model, "bf16"), pixels)
    operations = image_operations(config.vision, config.embed_dim)
    return in_turns({**variants, "now": openvino}, operations, seconds)


def huge_pages(work: Path, _: str, seconds: float) -> dict[str, Any]:
    """The same in a process whose heap asks for huge pages, and in one whose does not."""
    found = {}
    for name, tunables in (("4 KiB", ""), ("2 MiB", "glibc.malloc.hugetlb=1")):
        command = [sys.executable, "-m", "benchmarks.amx", "--work", str(work), "--child"]
        command += ["--part", "pages-B16", "--seconds", str(seconds / 2)]
        environment = os.environ | {"GLIBC_TUNABLES": tunables}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
        found[name] = json.loads(done.stdout)
    return found


def pages(work: Path, model: str, seconds: float) -> dict[str, Any]:
    """What each process of `huge_pages` measures."""
    config = find(model).config
    variant = opened(graph_file(work, model, "bf16"), prepared(model, 8))
    operations = image_operations(config.vision, config.embed_dim)
    return in_turns({"now": variant}, operations, seconds)


MEASURES: dict[str, Callable[[Path, str, float], dict[str, Any]]] = {
    "images": images,
    "texts": texts,
    "torch": torch_alone,
    "huge-pages": huge_pages,
    "pages": pages,
}


def opened(
    path: Path,
    batch: NDArray[Any],
    settings: Mapping[str, Any] | None = None,
    *,
    is_fixed: bool = False,
) -> Variant:
    """A graph as the backend opens it, but for the settings."""
    request = compiled(path, batch if is_fixed else None, settings).create_infer_request()
    return Variant(
        lambda: request.infer([batch], share_inputs=True, share_outputs=True), len(batch)
    )


def streams(path: Path, batch: NDArray[Any]) -> Variant:
    """Two calls at once, of one core each."""
    graph = compiled(path, None, {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": 2})
    requests = [graph.create_infer_request() for _ in range(2)]

    def run() -> None:
        for request in requests:
            request.start_async([batch], share_inputs=True)
        for request in requests:
            request.wait()

    return Variant(run, 2 * len(batch))


def compiled(
    path: Path, fixed: NDArray[Any] | None = None, settings: Mapping[str, Any] | None = None
) -> ov.CompiledModel:
    """The graph of embeddings with the backend's settings, and others over them."""
    core = ov.Core()
    whole = core.read_model(path)
    graph = ov.Model([whole.output("embeddings")], whole.get_parameters())
    if fixed is not None:
        graph.reshape({0: list(fixed.shape)})
    chosen = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "bf16"}
    return core.compile_model(
        graph, "CPU", chosen | {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 128} | dict(settings or {})
    )


def in_turns(variants: Mapping[str, Variant], operations: int, seconds: float) -> dict[str, Any]:
    """Measure all in turns until the time is over; medians of the rounds."""
    factor = torch.randn(SIZE, SIZE).bfloat16()
    bytes_ = torch.randint(-127, 127, (SIZE, SIZE)).to(torch.int8)
    products = {
        "bf16": lambda: torch.mm(factor, factor.T),
        "int8": lambda: torch._int_mm(bytes_, bytes_.T),
    }
    for work in (*products.values(), *(variant.run for variant in variants.values())):
        work()
        work()
    rounds: list[dict[str, float]] = []
    started = time.perf_counter()
    while time.perf_counter() - started < seconds or len(rounds) < 3:
        found = {
            name: PRODUCTS * 2 * SIZE**3 / sum(timed(multiply) for _ in range(PRODUCTS))
            for name, multiply in products.items()
        }
        for name, variant in variants.items():
            found[f"={name}"] = variant.count / timed(variant.run)
        rounds.append(found)
    return {
        "rounds": len(rounds),
        "matrix_rates": {name: median(row[name] for row in rounds) for name in products},
        "variants": {
            name: {
                "rate": median(row[f"={name}"] for row in rounds),
                "best_rate": max(row[f"={name}"] for row in rounds),
                "share_of_matrix_rate": median(
                    row[f"={name}"] * operations / row["bf16"] for row in rounds
                ),
            }
            for name in variants
        },
    }


def timed(work: Callable[[], object]) -> float:
    """Seconds of a call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def median(values: Any) -> float:
    """The median of some numbers."""
    return statistics.median(values)


def steps(path: Path, batch: NDArray[Any], operations: int) -> dict[str, Any]:
    """Milliseconds of each kind of step, and how fast the products are.

    Args:
        path: of the graph.
        batch: that it embeds.
        operations: of an item's products.
    """
    request = compiled(path, None, {"PERF_COUNT": True}).create_infer_request()
    request.infer([batch])
    factor = torch.randn(SIZE, SIZE).bfloat16()
    calls: list[tuple[dict[str, float], float]] = []
    kernels: set[str] = set()
    for _ in range(CALLS):
        request.infer([batch], share_inputs=True)
        found: dict[str, float] = defaultdict(float)
        for info in request.profiling_info:
            if info.status == info.Status.EXECUTED:
                kind = STEPS.get(info.node_type, "other")
                found[kind] += 1000 * info.real_time.total_seconds()
                if kind == "products":
                    kernels.add(info.exec_type)
        calls.append((found, 2 * SIZE**3 / timed(lambda: torch.mm(factor, factor.T))))
    fastest = min((found for found, _ in calls), key=lambda found: sum(found.values()))
    return {
        "fastest_ms": dict(sorted(fastest.items(), key=lambda item: -item[1])),
        "median_ms": {kind: median(found[kind] for found, _ in calls) for kind in fastest},
        "products_over_matrix_rate": median(
            1000 * operations * len(batch) / found["products"] / rate for found, rate in calls
        ),
        "kernels": sorted(kernels),
    }


def drift(graphs: Mapping[str, Path], pixels: NDArray[np.uint8]) -> dict[str, float]:
    """Lowest cosines with fp32, over drawings."""
    exact = vectors(compiled(graphs["now"], None, {"INFERENCE_PRECISION_HINT": "f32"}), pixels)
    named = {"bf16": graphs["now"], **{name: graphs[name] for name in graphs if name == "int8"}}
    return {
        name: float((vectors(compiled(path), pixels) * exact).sum(axis=1).min())
        for name, path in named.items()
    }


def vectors(graph: ov.CompiledModel, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Unit embeddings."""
    rows = graph.create_infer_request().infer([pixels])[0].astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def prepared(model: str, count: int) -> NDArray[np.uint8]:
    """(count, S, S, 3): drawings of the gallery."""
    config = find(model).config
    processor = ImageProcessor(config.image, config.vision.image_size)
    return np.stack([processor(data) for data in load_drawings(count)])


if __name__ == "__main__":
    main()
