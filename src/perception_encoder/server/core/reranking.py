"""Reranks the hits of a request by another of the server's models; see `search.reranking`.

Images are read and embedded a few at a time, between the items of other requests, and their
embeddings are stored as they come: a request that was given up has not computed for nothing.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from perception_encoder.errors import ImageError
from perception_encoder.index import Hit
from perception_encoder.search.calibration import Calibration
from perception_encoder.search.queries import Query
from perception_encoder.search.ranking import SearchOptions, SearchResult
from perception_encoder.search.reranking import (
    Candidate,
    CandidateCache,
    RerankReport,
    check_reranking,
    first_options,
    order_candidates,
    read_candidate,
    take_page,
)
from perception_encoder.server.core.images import LoadedImage, Thumbnails
from perception_encoder.server.core.indexes import ServedIndex
from perception_encoder.server.core.model_worker import ModelWorker
from perception_encoder.server.core.pools import Pools, gather_all, release_frames
from perception_encoder.types import Embeddings

_READ_AT_ONCE: Final = 8  # whole files in memory, and items of one request in the model's queue


@dataclass(frozen=True)
class RerankedSearch:
    """A query as both models embed it, and which hits are wanted.

    Attributes:
        query: by the index's model.
        again: by the model that reranks.
        options: of the search.
        candidates: how many hits are reranked.
        calibration: of the index, for a threshold that is a label.
        leave_out_own: as in `search_index`.
    """

    query: Query
    again: Query
    options: SearchOptions
    candidates: int
    calibration: Calibration | None = None
    leave_out_own: bool = True


class Reranker:
    """Searches indexes, and reranks the hits.

    Args:
        thumbnails: reads the images of indexes, remote ones only where that is allowed.
        pools: the threads that read and search.
    """

    def __init__(self, thumbnails: Thumbnails, pools: Pools) -> None:
        self._thumbnails = thumbnails
        self._pools = pools

    async def search(
        self, served: ServedIndex, worker: ModelWorker, asked: RerankedSearch
    ) -> tuple[list[SearchResult], RerankReport]:
        """Return the hits of a page and a report; as `rerank_search`.

        Raises:
            QueryError: as `rerank_search`.
            ServingError: too much is waiting, or computing failed or took too long.
        """
        check_reranking(served.index, worker.identity, asked.options, asked.candidates)
        found = await self._pools.searches.run(
            served.search,
            asked.query,
            first_options(asked.options, asked.candidates),
            asked.calibration,
            leave_out_own=asked.leave_out_own,
        )
        started = time.monotonic()
        hits = [one.hit for one in found]
        # Not closed here, but by the last reference: a thread may still use it when a request has
        # been given up.
        cache = await self._pools.searches.run(CandidateCache, served.index, worker.identity)
        vectors = await self._pools.searches.run(cache.get, hits)
        num_cached = len(vectors)
        failures: list[str] = []
        left = [hit for hit in hits if hit.id not in vectors]
        for start in range(0, len(left), _READ_AT_ONCE):
            candidates = await self._embed(worker, left[start : start + _READ_AT_ONCE])
            vectors |= {one.hit.id: one.vector for one in candidates if one.vector is not None}
            failures += [one.failure for one in candidates if one.failure is not None]
            stored = [one for one in candidates if one.vector is not None and one.is_unchanged]
            await self._pools.searches.run(cache.put, stored)
        report = RerankReport(
            worker.name, len(hits), num_cached, failures, time.monotonic() - started
        )
        ordered = order_candidates(found, vectors, asked.again.vector)
        return take_page(ordered, asked.options), report

    async def _embed(self, worker: ModelWorker, hits: Sequence[Hit]) -> list[Candidate]:
        read = await gather_all(map(self._read, hits))
        embedded = await worker.embed_images(
            [image for image, _ in read], [hit.name for hit in hits]
        )
        candidates = []
        for place, (hit, (_, is_unchanged)) in enumerate(zip(hits, read, strict=True)):
            failure: ImageError | None = embedded.errors.get(place)
            vector: Embeddings | None = None if failure is not None else embedded.vectors[place]
            message = None if failure is None else str(failure)
            candidates.append(
                Candidate(hit, vector=vector, is_unchanged=is_unchanged, failure=message)
            )
        return candidates

    async def _read(self, hit: Hit) -> tuple[LoadedImage | ImageError, bool]:
        try:
            return await self._pools.files.run(read_candidate, hit, self._original)
        except ImageError as err:
            release_frames(err)
            return err, False

    def _original(self, hit: Hit) -> bytes:
        return self._thumbnails.original(hit.row)
