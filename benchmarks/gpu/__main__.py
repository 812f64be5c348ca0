"""How near to a GPU's own rate do images and texts become vectors, and how do peers fare there?

Everything runs in this process, one model after another: first each backend as it opens, then what
is asked of our own (kernels, cuDNN's attention, streams, drift), then what has to be compiled. The
file is written as figures come, and no step begins that would not end within the time given: so a
machine that is there for minutes leaves the figures that matter most.

    python -m benchmarks.gpu                                # into benchmarks/results
    python -m benchmarks.gpu --minutes 7 --out build/gpu    # within seven minutes

Peers (open_clip_torch and timm, in this environment) that are not installed are left out and named.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.probes import copy_rate, device_name, free_memory, matrix_rates
from benchmarks.gpu.results import Deadline, Results
from benchmarks.gpu.steps import KINDS, Job, Kind
from benchmarks.report import RESULTS

# The models that matter most come first; with the sizes of batches that are tried.
BATCHES = {
    "PE-Core-L14-336": (1, 32, 64, 128, 256),
    "PE-Core-G14-448": (1, 16, 32, 64),
    "PE-Core-B16-224": (1, 64, 256, 512),
}
OTHER_BATCHES = (1, 8)
TEXT_BATCHES = (1, 64, 256, 1024)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the steps that fit into the time and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", action="append", help="Default: L14, G14 and B16.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", action="append", type=int, help="Images; default: several.")
    parser.add_argument("--text-batch", action="append", type=int, help="Likewise.")
    parser.add_argument("--minutes", type=float, default=30, help="The run ends within them.")
    parser.add_argument("--out", type=Path, default=RESULTS, help="The folder of gpu.json.")
    chosen = parser.parse_args(arguments)
    jobs = [
        Job(
            model,
            chosen.device,
            chosen.batch or BATCHES.get(model, OTHER_BATCHES),
            chosen.text_batch or TEXT_BATCHES,
        )
        for model in chosen.model or BATCHES
    ]
    results = Results(chosen.out / "gpu.json", device_name(chosen.device))
    with Deadline(chosen.minutes * 60) as deadline:
        results.add("rates", {"matrix_operations_a_second": matrix_rates(chosen.device)})
        results.add("rates", {"copied_bytes_a_second": copy_rate(chosen.device)})
        for kind in KINDS:
            for job in jobs:
                take(kind, job, results, deadline)


def take(kind: Kind, job: Job, results: Results, deadline: Deadline) -> None:
    """Take a step, if it should end in time."""
    step, units = f"{job.model} {kind.name}", kind.units(job)
    if not deadline.allows(kind.name, kind.seconds_of_a_unit, units):
        results.leave_out(step, "the time that was given was too short")
        return
    started = time.perf_counter()
    with results.running(step):
        for figures in kind.run(job):
            results.add(job.model, figures)
    free_memory()
    deadline.learn(kind.name, time.perf_counter() - started, units)


if __name__ == "__main__":
    main()
