"""A change of an index's model in a process of its own: what `test_reembed_kills.py` kills."""

from multiprocessing.connection import Connection
from pathlib import Path
from unittest.mock import patch

from small_models import CLIP, open_tiny

from perception_encoder.index import Index
from perception_encoder.indexing import Reembedding, ReembedOptions, commit


def work(index: Path, signal: Connection | None = None) -> None:
    """Change the model, in commits of a few rows so that there are many of them."""
    model = open_tiny(CLIP)
    if signal is not None:
        signal.send("begins")
    with patch.object(commit, "_ROWS_OF_A_COMMIT", 6):
        for _ in Reembedding(Index.open(index), model, ReembedOptions(batch_size=3)).outcomes():
            pass
    if signal is not None:
        signal.send("done")
