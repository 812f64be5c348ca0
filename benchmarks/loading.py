"""How much memory and time does loading a checkpoint take?

A checkpoint with Meta's names and random float32 weights is made in a temporary folder, as
safetensors and as a torch zip, and deleted afterwards. Each case then loads it in a process of its
own and reports that process's peak resident memory (`ru_maxrss`; mapped file pages count), once
after loading and once after every weight has been read. The bar: at most 1.2 times the larger of
file and result. Times are with the file in the page cache, once each.

    python benchmarks/loading.py [--model PE-Core-T16-384]
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "loading.json"
BAR = 1.2
FORMATS = ("safetensors", "pt")
DTYPES = ("native", "float32", "bfloat16")


def main() -> int:
    """Run every case and write the results; 1 where one exceeds the bar."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="PE-Core-G14-448")
    model = parser.parse_args().model
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{model}.safetensors"
        _child("make", model, path)
        for form in FORMATS:
            cases += [_child("load", model, path.with_suffix(f".{form}"), d) for d in DTYPES]
    report = {
        "question": "peak memory and time of loading a float32 checkpoint",
        "bar": f"peak_rss_bytes <= {BAR} * max(file_bytes, weights_bytes)",
        "date": datetime.now(tz=UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {_num_cores()} cores, {platform.system()}",
        "versions": _child("versions", model, path),
        "commit": _commit(),
        "model": model,
        "cases": cases,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for case in cases:
        print(
            f"{case['format']:12} {case['dtype']:9} {case['seconds']:6.2f} s "
            f"({case['cpu_seconds']:.2f} s of CPU)  peak "
            f"{case['peak_rss_bytes'] / 2**30:6.2f} GiB = {case['ratio']:.2f} x, all read "
            f"{case['ratio_all_read']:.2f} x"
        )
    return int(any(max(case["ratio"], case["ratio_all_read"]) > BAR for case in cases))


def _child(task: str, model: str, path: Path, dtype: str = "") -> dict:
    # This process stays small: a child's ru_maxrss starts at its parent's size.
    command = [sys.executable, __file__, "--child", task, model, str(path), dtype]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def _commit() -> str:
    command = ["git", "-C", str(RESULTS.parent.parent), "rev-parse", "HEAD"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _num_cores() -> int:
    import os

    return len(os.sched_getaffinity(0))


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _make(model: str, path: Path, _: str) -> dict:
    """Write both files, a tensor at a time, so that making them needs no memory either."""
    import torch
    from safetensors.torch import load_file

    from perception_encoder.checkpoints.load import empty_model
    from perception_encoder.checkpoints.names import recognize_scheme
    from perception_encoder.registry import find

    scheme = recognize_scheme(["visual.conv1.weight"])
    shapes = {}
    for name, parameter in empty_model(find(model).config).named_parameters():
        key, transform = scheme.source(name)
        shapes[key] = transform.file_shapes(tuple(parameter.shape))[0]
    header, end = {}, 0
    for key, shape in shapes.items():
        size = 4 * torch.Size(shape).numel()
        header[key] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = torch.Generator().manual_seed(0)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            file.write(torch.rand(shape, generator=generator).numpy().tobytes())
    torch.save(load_file(path), path.with_suffix(".pt"))
    return {}


def _load(model: str, path: Path, dtype: str) -> dict:
    import torch

    from perception_encoder.checkpoints import locate
    from perception_encoder.checkpoints.load import load_model

    located = locate(path, model=model, local_files_only=True)
    before = _peak_bytes()
    start, cpu_start = time.perf_counter(), time.process_time()
    loaded = load_model(located, dtype=None if dtype == "native" else getattr(torch, dtype))
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    peak = _peak_bytes()
    for parameter in loaded.model.parameters():
        parameter.sum()
    weights_bytes = sum(parameter.nbytes for parameter in loaded.model.parameters())
    size = max(path.stat().st_size, weights_bytes)
    return {
        "format": path.suffix.removeprefix("."),
        "dtype": dtype,
        "file_bytes": path.stat().st_size,
        "weights_bytes": weights_bytes,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu_seconds, 3),
        "rss_before_bytes": before,
        "peak_rss_bytes": peak,
        "peak_rss_all_read_bytes": _peak_bytes(),
        "ratio": round(peak / size, 3),
        "ratio_all_read": round(_peak_bytes() / size, 3),
    }


def _versions(*_: object) -> dict:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "safetensors", "perception-encoder")}


if __name__ == "__main__":
    if "--child" in sys.argv:
        task, model, path, dtype = sys.argv[2:]
        print(
            json.dumps(
                {"make": _make, "load": _load, "versions": _versions}[task](
                    model, Path(path), dtype
                )
            )
        )
    else:
        sys.exit(main())
