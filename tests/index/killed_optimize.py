"""Optimizing in a process of its own, to be killed: what `test_optimize_kills.py` starts."""

import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from unittest.mock import patch

from lance.dataset import DatasetOptimizer

from perception_encoder.index import optimize
from perception_encoder.index.searcher.build import SearcherSizes

SIZES = SearcherSizes(copy=1, lists=1)  # so that a small index gets a searcher with lists


def work(index: Path, signal: Connection | None = None) -> optimize.OptimizeReport:
    """Optimize, and tell when compaction and when building begin."""
    compact, build = DatasetOptimizer.compact_files, optimize.build_searcher  # type: ignore[attr-defined]

    def told(name: str, step: object) -> object:
        def run(*arguments: object, **options: object) -> object:
            if signal is not None:
                signal.send(name)
            return step(*arguments, **options)  # type: ignore[operator]

        return run

    with (
        patch.object(DatasetOptimizer, "compact_files", told("compacts", compact)),
        patch.object(optimize, "build_searcher", told("builds", build)),
    ):
        done = optimize.optimize_index(str(index), datetime.timedelta(0), sizes=SIZES)
    if signal is not None:
        signal.send("done")
    return done
