"""A run in a process of its own, to be killed: what `test_kills.py` starts."""

from multiprocessing.connection import Connection
from pathlib import Path
from unittest.mock import patch

from small_models import open_tiny

from perception_encoder.index import Index
from perception_encoder.indexing import Run, RunOptions, commit
from perception_encoder.sources import SourceOptions, open_sources
from perception_encoder.video.names import can_decode


def work(folder: Path, index: Path, signal: Connection | None = None) -> None:
    """Bring the folder into the index, in commits of a few rows so that there are many of them."""
    model = open_tiny()
    sources = open_sources([str(folder)], SourceOptions(videos=can_decode()))
    if signal is not None:
        signal.send("begins")
    options = RunOptions(batch_size=3, prune=True)
    with patch.object(commit, "_ROWS_OF_A_COMMIT", 6):
        for _ in Run(model, Index.open(index), sources, options).outcomes():
            pass
    if signal is not None:
        signal.send("done")
