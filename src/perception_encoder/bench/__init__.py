"""Measure speed, memory and accuracy of models and backends on this machine.

Every figure comes from a process of its own, so that backends do not share memory.
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
