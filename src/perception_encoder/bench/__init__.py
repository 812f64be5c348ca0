"""Measures this machine: how fast, how large and how exact each model is with each backend.

Every figure comes from a process of its own, so that memory is one backend's and none disturbs
another. Knows nothing of options or terminals.
"""

from perception_encoder.bench.edge import EDGE_MODELS, EdgeOptions, bench_edge
from perception_encoder.bench.figures import (
    BenchRow,
    Drift,
    EdgeRow,
    Figures,
    Memory,
    SkippedCase,
)
from perception_encoder.bench.run import BenchOptions, bench

__all__ = [
    "EDGE_MODELS",
    "BenchOptions",
    "BenchRow",
    "Drift",
    "EdgeOptions",
    "EdgeRow",
    "Figures",
    "Memory",
    "SkippedCase",
    "bench",
    "bench_edge",
]
