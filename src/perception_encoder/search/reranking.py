"""Reranking: the index's model finds candidates, and a second model orders them by its own cosine.

The second model embeds the candidates' images from their sources: of a tile that was found, that
part; of a moment of a video, its frame. These embeddings are stored beside the index, by content,
so that a repeated query reads no image. A candidate whose image cannot be read keeps its first
rank, after all others.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception_encoder.embedder.cache import EmbeddingCache
from perception_encoder.embedder.pipeline import embed_in_batches
from perception_encoder.errors import CacheError, ImageError, QueryError
from perception_encoder.index import Hit, Index
from perception_encoder.index.rows import clamp_time
from perception_encoder.index.storage import is_remote, sidecar_path
from perception_encoder.preprocess.crops import CropBox, CroppedImage
from perception_encoder.preprocess.images import num_usable_cores
from perception_encoder.search.calibration import Calibration
from perception_encoder.search.queries import Query
from perception_encoder.search.ranking import (
    SearchOptions,
    SearchResult,
    search_index,
    sort_newest_first,
)
from perception_encoder.sources import read_image
from perception_encoder.types import Embeddings, ModelIdentity

if TYPE_CHECKING:
    from perception_encoder.embedder import EmbeddingModel
    from perception_encoder.preprocess import ImageProcessor

logger = logging.getLogger(__name__)

DEFAULT_CANDIDATES: Final = 100
MAX_CANDIDATES: Final = 10_000

_CACHE_FILE: Final = "rerank.sqlite"
_MAX_CACHED: Final = 50_000  # embeddings of all models; of 1,280 dimensions 260 MB
_CPU_BATCH: Final = 4  # progress comes often, and a large model gains nothing by larger batches
_GPU_BATCH: Final = 32
_REMOTE_THREADS: Final = 16


@dataclass(frozen=True, slots=True)
class RerankReport:
    """What reranking did.

    Attributes:
        model_id: the model that ordered the hits.
        num_candidates: hits of the index's model.
        num_cached: of them, those with a stored embedding.
        failures: why images could not be read, best candidate first.
        seconds: the time it took, without the first search.
    """

    model_id: str
    num_candidates: int
    num_cached: int
    failures: Sequence[str] = ()
    seconds: float = 0.0

    @property
    def num_embedded(self) -> int:
        """Images that were read and embedded."""
        return self.num_candidates - self.num_cached - len(self.failures)


class RerankProgress(NamedTuple):
    """How far reranking is: images done, images to embed, and seconds since it began."""

    num_done: int
    num_images: int
    seconds: float

    @property
    def seconds_left(self) -> float:
        """As long as the images before took."""
        return self.seconds / max(self.num_done, 1) * (self.num_images - self.num_done)


@dataclass(frozen=True, slots=True)
class Reranking:
    """How the hits of a query are reranked.

    Attributes:
        model: orders the candidates.
        query: the query, embedded by this model.
        candidates: how many hits it orders, from 1 to `MAX_CANDIDATES`.
        on_progress: called after each batch of images.
    """

    model: EmbeddingModel
    query: Query
    candidates: int = DEFAULT_CANDIDATES
    on_progress: Callable[[RerankProgress], object] = lambda _: None


def rerank_search(
    index: Index,
    query: Query,
    reranking: Reranking,
    options: SearchOptions,
    *,
    calibration: Calibration | None = None,
    leave_out_own: bool = False,
) -> tuple[list[SearchResult], RerankReport]:
    """Search an index, and order the best hits by another model.

    Args:
        index: the index.
        query: embedded by the index's model.
        reranking: see `Reranking`.
        options: of the search. The threshold and what is folded depend on the index's model.
        calibration: of the index, for a threshold that is a label.
        leave_out_own: as in `search_index`.

    Returns:
        Hits, best first, and a report. Their `kind` is "rerank", but "cosine" for those that could
        not be read. They have no labels: cutoffs of the second model would need its embeddings of
        the whole index.

    Raises:
        QueryError: `check_reranking` refuses it, or as `search_index`.
    """
    model = reranking.model
    check_reranking(index, model.identity, options, reranking.candidates)
    (found,) = search_index(
        index,
        [query],
        first_options(options, reranking.candidates),
        calibration=calibration,
        leave_out_own=leave_out_own,
    )
    started = time.monotonic()
    hits = [one.hit for one in found]
    with closing(CandidateCache(index, model.identity)) as cache:
        vectors = cache.get(hits)
        num_cached = len(vectors)
        left = [hit for hit in hits if hit.id not in vectors]
        failures: list[str] = []
        for batch in _embed(model, left):
            computed = [one for one in batch if one.vector is not None]
            cache.put([one for one in computed if one.is_unchanged])
            vectors |= {one.hit.id: one.vector for one in computed if one.vector is not None}
            failures += [one.failure for one in batch if one.failure is not None]
            num_done = len(vectors) - num_cached + len(failures)
            reranking.on_progress(RerankProgress(num_done, len(left), time.monotonic() - started))
    report = RerankReport(
        model.identity.model_id, len(hits), num_cached, failures, time.monotonic() - started
    )
    ordered = order_candidates(found, vectors, reranking.query.vector)
    return take_page(ordered, options), report


def check_reranking(
    index: Index, identity: ModelIdentity, options: SearchOptions, candidates: int
) -> None:
    """Refuse what cannot be reranked.

    Raises:
        QueryError: the number of candidates is out of range, or smaller than the hits that are
            asked for; or the model is the index's own.
    """
    if not 1 <= candidates <= MAX_CANDIDATES:
        raise QueryError(f"candidates are from 1 to {MAX_CANDIDATES:,}, got {candidates:,}")
    wanted = max(options.k, options.offset + 1)  # a last page may be shorter
    if wanted > candidates:
        raise QueryError(
            f"{wanted:,} hits are asked for, but only {candidates:,} candidates are reranked; "
            "ask for fewer hits or more candidates"
        )
    own = index.identity
    if (identity.fingerprint, identity.preprocess) == (own.fingerprint, own.preprocess):
        raise QueryError(
            f"the images of {index.path} are embedded by {own.model_id} already; rerank by another "
            "model"
        )


def first_options(options: SearchOptions, candidates: int) -> SearchOptions:
    """Return the options of the search for candidates."""
    return replace(options, k=candidates, offset=0, sort="score")


def order_candidates(
    found: Sequence[SearchResult], vectors: Mapping[str, Embeddings], query: Embeddings
) -> list[SearchResult]:
    """Order hits by the second model.

    Args:
        found: the candidates, best first.
        vectors: (E,) by the second model, of unit length, by id; those without come last.
        query: (E,), likewise.
    """
    scored = [
        replace(
            one,
            hit=replace(one.hit, score=float(vectors[one.hit.id] @ query)),
            label=None,
            kind="rerank",
        )
        for one in found
        if one.hit.id in vectors
    ]
    left = [replace(one, label=None) for one in found if one.hit.id not in vectors]
    return [*sorted(scored, key=lambda one: -one.score), *left]


def take_page(ordered: Sequence[SearchResult], options: SearchOptions) -> list[SearchResult]:
    """Return the hits that were asked for, of all candidates in order."""
    page = ordered[options.offset : options.offset + options.k]
    return list(page) if options.sort == "score" else sort_newest_first(page)


@dataclass(slots=True)
class Candidate:
    """A hit, and what the second model makes of it.

    Attributes:
        hit: the hit.
        pixels: (S, S, 3) uint8; None once it is embedded, or where it failed.
        vector: (E,) float32 of unit length.
        is_unchanged: whether the image is the one that was indexed, so that its embedding may be
            stored for it.
        failure: why it could not be read.
    """

    hit: Hit
    pixels: NDArray[np.uint8] | None = None
    vector: Embeddings | None = None
    is_unchanged: bool = True
    failure: str | None = None


class CandidateCache:
    """The embeddings of candidates by one model, beside a local index; it forgets the oldest.

    An index on object storage, or in a folder that cannot be written, has none.
    """

    def __init__(self, index: Index, identity: ModelIdentity) -> None:
        self._cache: EmbeddingCache | None = None
        self._embed_dim = identity.embed_dim
        if is_remote(index.path):
            return
        made_by = f"{identity.fingerprint}/{identity.preprocess}/{identity.embed_dim}"
        try:
            self._cache = EmbeddingCache(
                sidecar_path(index.path, _CACHE_FILE), made_by, max_rows=_MAX_CACHED
            )
        except CacheError as err:
            logger.warning("%s", err)

    def get(self, hits: Sequence[Hit]) -> dict[str, Embeddings]:
        """Return the stored embeddings of hits, by id."""
        if self._cache is None:
            return {}
        keys = {hit.id: self._cache.key("candidate", _content_of(hit)) for hit in hits}
        try:
            stored = self._cache.get(list(keys.values()))
        except CacheError as err:
            self._give_up(err)
            return {}
        return {
            name: stored[key]
            for name, key in keys.items()
            if key in stored and stored[key].shape == (self._embed_dim,)
        }

    def put(self, candidates: Sequence[Candidate]) -> None:
        """Store embeddings; failing only costs time."""
        if self._cache is None or not candidates:
            return
        keys = [self._cache.key("candidate", _content_of(one.hit)) for one in candidates]
        vectors = [one.vector for one in candidates if one.vector is not None]
        try:
            self._cache.put(keys, np.stack(vectors))
        except CacheError as err:
            self._give_up(err)

    def close(self) -> None:
        """Close the file."""
        if self._cache is not None:
            self._cache.close()

    def _give_up(self, err: CacheError) -> None:
        logger.warning("%s; embeddings of candidates are not stored", err)
        self.close()
        self._cache = None


def read_candidate(hit: Hit, read: Callable[[Hit], bytes]) -> tuple[bytes | CroppedImage, bool]:
    """Read the image of a hit, of a tile its part.

    Args:
        hit: the hit.
        read: reads the bytes of its image.

    Returns:
        The image, and whether it is the one that was indexed.

    Raises:
        ImageError: it has gone or cannot be read.
    """
    data = read(hit)
    if hit.moment is not None:
        is_unchanged = _is_unchanged_file(hit)
    else:
        is_unchanged = hit.sha256 is None or hashlib.sha256(data).hexdigest() == hit.sha256
    return data if hit.box is None else CroppedImage(data, CropBox(*hit.box)), is_unchanged


def _content_of(hit: Hit) -> bytes:
    """Return what the embedding of a hit depends on, besides the model."""
    content = hit.sha256 or f"{hit.uri}\0{hit.member}\0{hit.bytes}\0{hit.mtime}"
    return f"{content}{'' if hit.box is None else hit.box.fragment}".encode()


def _is_unchanged_file(hit: Hit) -> bool:
    """Whether a video still has the size and time of its row; its frames have no digest."""
    try:
        status = os.stat(hit.uri)
    except OSError:
        return False
    return (status.st_size, clamp_time(status.st_mtime_ns)) == (hit.bytes, hit.mtime)


def _embed(model: EmbeddingModel, hits: Sequence[Hit]) -> Iterator[list[Candidate]]:
    """Read and embed the images of hits, batch by batch; those that cannot be read say why."""
    if not hits:
        return
    on_network = any(is_remote(hit.uri) for hit in hits)
    num_threads = max(num_usable_cores(), _REMOTE_THREADS if on_network else 1)
    pool = ThreadPoolExecutor(min(num_threads, len(hits)), "decode")
    try:
        yield from embed_in_batches(
            hits,
            lambda hit: pool.submit(_prepare, hit, model.processor),
            partial(_compute, model),
            batch_size=_CPU_BATCH if model.backend.device == "cpu" else _GPU_BATCH,
            concurrency=model.backend.concurrency,
        )
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare(hit: Hit, processor: ImageProcessor) -> Candidate:
    try:
        image, is_unchanged = read_candidate(hit, _read)
        return Candidate(hit, processor(image, item=hit.name), is_unchanged=is_unchanged)
    except ImageError as err:
        return Candidate(hit, failure=str(err))


def _read(hit: Hit) -> bytes:
    return read_image(hit.uri, hit.member, hit.offset)


def _compute(model: EmbeddingModel, batch: list[Candidate]) -> list[Candidate]:
    prepared = [one for one in batch if one.pixels is not None]
    if prepared:
        pixels = np.stack([one.pixels for one in prepared if one.pixels is not None])
        for one, vector in zip(prepared, model.embed_pixels(pixels), strict=True):
            one.vector, one.pixels = vector, None
    return batch
