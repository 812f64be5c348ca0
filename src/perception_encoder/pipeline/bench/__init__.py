"""Measures this machine: how fast, how large and how exact each model is with each engine.

Every figure comes from a process of its own, so that memory is one engine's and none disturbs
another. Knows nothing of options or terminals.
"""

from perception_encoder.pipeline.bench.figures import Drift, Figures, Row, Skipped
from perception_encoder.pipeline.bench.run import BenchOptions, bench

__all__ = ["BenchOptions", "Drift", "Figures", "Row", "Skipped", "bench"]
