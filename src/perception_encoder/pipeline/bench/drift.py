"""How far the vectors of one precision are from those of another."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception_encoder.embedder.vectors import unit
from perception_encoder.pipeline.bench.figures import Drift


def drifts(path: Path, reference: Path) -> tuple[Drift | None, Drift | None]:
    """Compare two files of `measure`: pictures, then texts; None where there are none.

    A slow engine computes fewer vectors than a fast one; the first that both have are compared.
    """
    with np.load(path) as ours, np.load(reference) as theirs:
        pictures, texts = (_drift(ours[name], theirs[name]) for name in ("pictures", "texts"))
    return pictures, texts


def _drift(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> Drift | None:
    count = min(len(ours), len(theirs))
    if not count:
        return None
    # Summed in float64: a drift of bf16 is a few millionths.
    cosines = (unit(ours[:count]) * unit(theirs[:count])).sum(axis=1, dtype=np.float64)
    return Drift(worst=float(cosines.min()), mean=float(cosines.mean()))
