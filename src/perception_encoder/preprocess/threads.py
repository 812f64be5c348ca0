"""How many pictures to prepare at once. Knows nothing of what is done with them."""

import os


def num_usable_cores() -> int:
    """Return how many cores this process may run on, which a container or taskset may limit.

    Reading, hashing, decoding and resizing all release the interpreter's lock, so one thread a core
    keeps every core busy, and more only take memory: 12 megapixels are 48 MB while they are decoded
    (figures: benchmarks/results/decoding.json).
    """
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
