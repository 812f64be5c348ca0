"""What is done after rows have changed, so that no search has to wait for it."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from perception_encoder.errors import (
    ImageError,
    IndexBusyError,
    QueryError,
    TokenizerNotFoundError,
    UnsupportedOperationError,
)
from perception_encoder.index import Index, write_lock
from perception_encoder.search.calibration import update_calibration
from perception_encoder.search.queries import read_queries
from perception_encoder.search.saved_store import SavedSearches

if TYPE_CHECKING:
    from perception_encoder.embedder import EmbeddingModel

VERSIONS_KEPT: Final = datetime.timedelta(days=1)
"""Older versions of an index are removed when it is optimized."""

_NOT_EMBEDDED: Final = (
    ImageError,
    QueryError,
    TokenizerNotFoundError,
    UnsupportedOperationError,
)
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


def finish_reembedding(index: Index, model: EmbeddingModel, *, num_rows: int) -> list[str]:
    """Do what follows a change of the index's model: for saved searches, labels and the searcher.

    Older versions stay, as programs that have the index open still read the one before.

    Args:
        index: opened after the change.
        model: the new model.
        num_rows: how many rows have a new embedding.

    Returns:
        Notes on saved searches whose query cannot be embedded by the new model.

    Raises:
        IndexBusyError, IndexStorageError: as `prepare_for_search`.
    """
    notes, searches = list[str](), SavedSearches(index.path)
    for search in searches.load():
        if not search.terms or search.embedded(index.identity) is not None:
            continue
        try:
            (query,) = read_queries(index, [search.terms], lambda: model)
        except _NOT_EMBEDDED as err:
            notes.append(f"the saved search {search.name!r} has no embedding of this model: {err}")
        else:
            searches.renew(search, query, index.identity)
    prepare_for_search(index, model, num_changed=num_rows, older_than=None)
    return notes


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
