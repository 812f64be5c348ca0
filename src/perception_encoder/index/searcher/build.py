"""Builds a searcher for the present version of an index and puts it in the old one's place.

How much is built depends on the index's size: nothing where reading the index itself is quick, a
copy of the vectors for exact search where that is quick, and lists for approximate search above.
An interruption at any point leaves the searcher that was there.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from perception_encoder.index.schema import VectorDtype
from perception_encoder.index.searcher.files import Header, SearcherFolder
from perception_encoder.index.searcher.fragments import Mask, RowPositions, described
from perception_encoder.index.searcher.scan import as_float32
from perception_encoder.index.searcher.searcher import Searcher, candidates_for
from perception_encoder.index.searcher.train import (
    ListFiller,
    copy_vectors,
    lists_for,
    products_in_blocks,
    read_blocks,
    read_rows,
    sample_of,
    train,
)
from perception_encoder.index.searcher.tune import ListTuning, LookInto
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    import lance

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearcherSizes:
    """From how many bytes of float16 vectors something is worth its while.

    Attributes:
        copy: the vectors are copied for exact search; below, the index is read in about 30 ms.
        lists: lists are made; below, exact search takes about 20 ms.
    """

    copy: int = 16 << 20
    lists: int = 256 << 20


DEFAULT_SIZES: Final = SearcherSizes()


def build_searcher(
    dataset: lance.LanceDataset,
    folder: SearcherFolder,
    *,
    embed_dim: int,
    vector_dtype: VectorDtype,
    sizes: SearcherSizes = DEFAULT_SIZES,
) -> Header | None:
    """Build and commit.

    Args:
        dataset: the version of the index.
        folder: where the searcher lies.
        embed_dim: E.
        vector_dtype: how the index stores vectors.
        sizes: what is worthwhile.

    Returns:
        The new header; None where the index is too small to need one.

    Raises:
        OSError, ValueError, RuntimeError: reading or writing failed.
    """
    started = time.monotonic()
    fragments = tuple(described(dataset))
    num_bytes = 2 * embed_dim * sum(part.num_rows - part.num_deleted for part in fragments)
    if num_bytes < sizes.copy or num_bytes == 0:
        folder.remove()
        return None
    header = Header(
        token=folder.begin(),
        version=int(dataset.version),
        embed_dim=embed_dim,
        vector_dtype=vector_dtype,
        fragments=fragments,
        sizes={},
    )
    path = folder.path(header.token, "vectors")
    alive = copy_vectors(dataset, fragments, path, embed_dim)
    logger.info("%s: copied %d vectors in %.1f s", path, len(alive), time.monotonic() - started)
    if num_bytes >= sizes.lists:
        with products_in_blocks():
            header = _with_lists(header, folder, alive)
    header = dataclasses.replace(
        folder.finished(header), build_seconds=round(time.monotonic() - started, 1)
    )
    folder.commit(header)
    return header


def _with_lists(header: Header, folder: SearcherFolder, alive: Mask) -> Header:
    """Make the lists' files; return the header as before where they would not save time."""
    vectors = folder.path(header.token, "vectors")
    started = time.monotonic()
    chosen = sample_of(np.flatnonzero(alive))
    sample = read_rows(vectors, chosen, header.embed_dim)
    trained = train(sample, lists_for(int(np.count_nonzero(alive))))
    logger.info("%s: trained in %.1f s", vectors, time.monotonic() - started)
    started = time.monotonic()
    calibration = ListTuning(sample, chosen, trained.mean)
    filler = ListFiller(trained, len(alive))
    for first, block in read_blocks(vectors, header.embed_dim):
        here = alive[first : first + len(block)]
        numbers = first + np.flatnonzero(here)
        rows = as_float32(block if here.all() else block[here])
        if len(rows):
            filler.add(rows, numbers)
            calibration.add(rows, numbers)
    filler.write(folder.path(header.token, "lists"))
    trained.coarse.save(folder.path(header.token, "coarse"))
    logger.info("%s: filled the lists in %.1f s", vectors, time.monotonic() - started)
    started = time.monotonic()
    header = dataclasses.replace(header, num_lists=len(trained.centers))
    searcher = Searcher(folder, header)
    tuning = calibration.tune(trained.coarse, filler.list_of, _looking_into(searcher))
    logger.info("%s: measured %s in %.1f s", vectors, tuning, time.monotonic() - started)
    if not tuning:
        folder.discard(header.token, ("lists", "coarse"))
        return dataclasses.replace(header, num_lists=0)
    assert searcher.lists is not None  # they were just written
    return dataclasses.replace(header, tuning=tuning, lists_start=searcher.lists.start)


def _looking_into(searcher: Searcher) -> LookInto:
    """Return the searcher's approximate search, of many queries at once."""

    def look_into(queries: Embeddings, k: int, probes: int) -> list[RowPositions]:
        def ask(query: Embeddings) -> RowPositions:
            return searcher.look_into(query, candidates_for(k), probes, None).numbers

        with ThreadPoolExecutor() as pool:
            return list(pool.map(ask, queries))

    return look_into
