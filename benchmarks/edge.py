"""What do models cost on one core with 1 GiB of memory, and which fit?

    python -m benchmarks.edge prepare --work /tmp/edge      # exports with random weights: 12 GB
    python -m benchmarks.edge measure --work /tmp/edge [--model PE-Core-T16-384] [--backend onnx]
    python -m benchmarks.edge table                         # into docs/reference/benchmarks.md

The same as `pe bench --profile edge`, in two steps, because exporting takes longer than
running. What is not named keeps its figures in the results.
"""

import argparse
import json
import re
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.plots import short
from benchmarks.report import RESULTS, commit, write_report
from perception_encoder import AutoModel
from perception_encoder.bench import EDGE_MODELS, EdgeOptions, SkippedCase, bench_edge
from perception_encoder.export import export_pretrained

NAME = "edge"
PAGE = Path(__file__).parent.parent / "docs/reference/benchmarks.md"
MARK = "<!-- edge.json, written by benchmarks/edge.py -->"
# Backend, precision it runs in, precision it is stored in.
CASES = (
    ("onnx", "int8", "int8"),
    ("onnx", "fp16", "fp16"),
    ("onnx", "fp32", "fp32"),
    ("openvino", "int8", "int8"),
    ("openvino", "bf16", "fp16"),
    ("openvino", "fp32", "fp32"),
)
HEADER = (
    "model", "backend", "images/s", "one image", "one text", "12 MP JPEG",
    "files: images + texts", "memory: images", "memory: both",
)  # fmt: skip


def main() -> None:
    """Do one of the three steps."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("step", choices=["prepare", "measure", "table"])
    parser.add_argument("--work", type=Path, help="Folder of the exports.")
    parser.add_argument("--model", action="append", choices=EDGE_MODELS)
    parser.add_argument("--backend", action="append", choices=["onnx", "openvino"])
    arguments = parser.parse_args()
    if arguments.step == "table":
        write_table()
        return
    for model in arguments.model or EDGE_MODELS:
        for backend, precision, stored in CASES:
            if backend in (arguments.backend or (backend,)):
                exported = arguments.work / f"{model}-{backend}-{stored}"
                if arguments.step == "prepare":
                    prepare(model, backend, stored, exported)
                else:
                    measure(model, precision, exported)


def prepare(model: str, backend: Any, stored: Any, exported: Path) -> None:
    """Export a model with random weights, unless that was done."""
    weights = exported.parent / f"{model}-weights"
    if not weights.exists():
        with AutoModel.from_pretrained(
            model, random_weights=True, backend="torch", device="cpu", precision="fp32"
        ) as made_up:
            made_up.save_pretrained(weights)
    if not exported.exists():
        export_pretrained(weights, exported, backend=backend, precision=stored)


def measure(model: str, precision: Any, exported: Path) -> None:
    """Measure an export and put its row into the results."""
    (row,) = bench_edge(EdgeOptions(models=[str(exported)], precisions=[precision], is_quick=True))
    if isinstance(row, SkippedCase):
        print(row)
        return
    figures = asdict(row) | {
        "model": model,
        "has_random_weights": True,
        "date": datetime.now(tz=UTC).date().isoformat(),
        "commit": commit(),
    }
    path = RESULTS / f"{NAME}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else {}
    rows[f"{model} {row.backend} {precision}"] = figures
    named = [f"{model} {case[0]} {case[1]}" for model in EDGE_MODELS for case in CASES]
    write_report(
        NAME,
        "one core and 1 GiB of private memory (RLIMIT_DATA): speed, files, memory, and what fits",
        ["perception-encoder", "onnxruntime", "openvino", "numpy", "pillow"],
        {"rows": {name: rows[name] for name in named if name in rows}},
        "random weights of the real shapes; medians of three rounds, up to seven in rows of "
        "OpenVINO with T16 and B16; see EdgeRow for the figures; each row has its own date and "
        "commit",
    )
    print(json.dumps(figures))


def write_table() -> None:
    """Replace what stands between the two marks of the page."""
    report = json.loads((RESULTS / f"{NAME}.json").read_text(encoding="utf-8"))
    lines = ["| " + " | ".join(HEADER) + " |", "|---|---|" + "---:|" * (len(HEADER) - 2)]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in report["rows"].values()]
    dates = sorted({row["date"] for row in report["rows"].values()})
    versions = ", ".join(
        f"{name} {report['versions'][name]}" for name in ("onnxruntime", "openvino")
    )
    table = "\n".join(lines) + f"\n\n{' and '.join(dates)}; {report['machine']}; {versions}."
    page = PAGE.read_text(encoding="utf-8")
    page = re.sub(f"{MARK}.*{MARK}", lambda _: f"{MARK}\n\n{table}\n\n{MARK}", page, flags=re.S)
    PAGE.write_text(page, encoding="utf-8")


def cells(row: dict[str, Any]) -> list[str]:
    """Return one row of the table."""
    files = (row["image_file_bytes"], row["text_file_bytes"])
    return [
        row["model"].removeprefix("PE-Core-"),
        f"{row['backend']} {row['precision']}",
        "–" if row["images_per_second"] is None else short(row["images_per_second"]),
        *(
            "–" if row[name] is None else f"{short(row[name])} ms"
            for name in ("image_ms", "text_ms", "decode_ms")
        ),
        " + ".join(f"{count / 2**20:,.0f}" for count in files) + " MB",
        memory(row["image_memory"]),
        memory(row["both_memory"]),
    ]


def memory(told: dict[str, Any]) -> str:
    """The most that was held, and whether that fits."""
    size = f"{told['peak_bytes'] / 2**20:,.0f} MB"
    return size if told["fits"] else f"does not fit: {size}"


if __name__ == "__main__":
    main()
