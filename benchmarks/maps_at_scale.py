"""How long do clusters and maps of large indexes take, and how much memory?

Synthetic vectors (`synthetic_vectors`) in an index; each job in a process of its own.

    python -m benchmarks.maps_at_scale [--cluster 100000 1000000] [--map 10000 100000] [--dim 1024]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import write_report
from benchmarks.synthetic_vectors import SyntheticVectors
from perception_encoder.index import Index, Row
from perception_encoder.types import ModelIdentity

JOBS = {
    "cluster": "from perception_encoder.analysis.clusters import find_clusters\n"
    "told = len(find_clusters(index).clusters)",
    "map": "from perception_encoder.analysis.ranked_images import rank_images\n"
    "from perception_encoder.analysis.index_map import map_index\n"
    "told = len(map_index(index, rank_images(index, 'first', None)).places)",
}
CHILD = """
import json, resource, sys, time
from perception_encoder.index import Index
index = Index.open(sys.argv[1])
start = time.perf_counter()
{job}
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({{"result": told, "seconds": round(seconds, 1), "peak_mb": round(peak)}}))
"""


def main() -> None:
    """Measure all and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cluster", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--map", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--dim", type=int, default=1024)
    given = parser.parse_args()
    figures: dict[str, dict[str, Any]] = {name: {} for name in JOBS}
    for num_rows in sorted({*given.cluster, *given.map}):
        with tempfile.TemporaryDirectory() as folder:
            index = f"{folder}/index"
            make_index(index, num_rows, given.dim)
            for name, sizes in (("cluster", given.cluster), ("map", given.map)):
                if num_rows in sizes:
                    figures[name][str(num_rows)] = measured(JOBS[name], index)
                    print(name, num_rows, figures[name][str(num_rows)], flush=True)
    packages = ["numpy", "faiss-cpu", "openTSNE", "scikit-learn", "pylance"]
    question = f"time and memory of clusters and maps; rows of E = {given.dim}"
    write_report("maps_at_scale", question, packages, figures)


def make_index(path: str, num_rows: int, embed_dim: int) -> None:
    """Write the made vectors into an index of half floats."""
    identity = ModelIdentity("pe-nano", "0123456789abcdef", "standard", embed_dim)
    index = Index.create(path, identity)
    start = 0
    for block in SyntheticVectors(embed_dim).blocks(num_rows):
        rows = [Row(uri=f"/images/{start + place:08}.jpg") for place in range(len(block))]
        index.append(rows, block)
        start += len(block)


def measured(job: str, index: str) -> dict[str, Any]:
    """Run a job in a process of its own."""
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(job=job), index],
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},  # as `pe` sets it
        cwd=Path(__file__).parent.parent,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found | {"seconds_with_start": round(time.perf_counter() - begun, 1)}


if __name__ == "__main__":
    main()
