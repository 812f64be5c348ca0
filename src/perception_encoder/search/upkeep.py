"""What is done after rows have changed, so that no search has to wait for it."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from perception_encoder.errors import (
    IndexBusyError,
    TokenizerNotFoundError,
    UnsupportedOperationError,
)
from perception_encoder.index import Index, write_lock
from perception_encoder.search.calibration import update_calibration

if TYPE_CHECKING:
    from perception_encoder.embedder import EmbeddingModel

VERSIONS_KEPT: Final = datetime.timedelta(days=1)
"""Older versions of an index are removed when it is optimized."""

_AT_ONCE: Final = 1000  # rows removed in one commit


def prepare_for_search(
    index: Index,
    model: EmbeddingModel,
    *,
    num_changed: int,
    older_than: datetime.timedelta | None = VERSIONS_KEPT,
    on_optimize: Callable[[], object] = lambda: None,
) -> None:
    """Calibrate and optimize the index, and add its new rows to the full text, where needed.

    Args:
        index: the index.
        model: whose embeddings it holds.
        num_changed: how many rows were added, replaced or removed; with 0 nothing is done.
        older_than: an optimization removes versions older than this; None keeps them all.
        on_optimize: called before an optimization, which may take minutes.

    Raises:
        IndexBusyError: another process is writing to the index.
        IndexStorageError: the index cannot be read or written.
    """
    if not num_changed:
        return
    # Labels are calibrated by texts. A model that reads none can still search by images.
    with suppress(TokenizerNotFoundError, UnsupportedOperationError):
        update_calibration(index, model, num_changed=num_changed)
    if index.needs_optimize():
        on_optimize()
        index.optimize(older_than=older_than)
    elif index.needs_full_text():
        with suppress(IndexBusyError):  # the other process will do it
            index.update_full_text()


def remove_rows(index: Index, ids: Iterable[str], where: str | None = None) -> int:
    """Remove rows from an index; the images stay where they are.

    Args:
        index: the index.
        ids: of rows.
        where: an SQL condition: rows that meet it are removed too.

    Returns:
        How many rows were removed.

    Raises:
        QueryError: the condition is wrong.
        IndexBusyError: another process is writing to the index.
        IndexStorageError: the index cannot be written.
    """
    chosen = set(ids)
    with write_lock(index.path):
        index.refresh()
        if where is not None:
            chosen.update(row.id for row in index.rows(where=where))
        ordered = sorted(chosen)
        return sum(
            index.delete(ordered[start : start + _AT_ONCE])
            for start in range(0, len(ordered), _AT_ONCE)
        )
