"""Queries of requests: terms with weights become one embedding of an index's model.

Texts and images go through the model's queues; items of the index have embeddings already.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.embedder.text_tower import find_text_twin
from perception_encoder.errors import (
    PerceptionEncoderError,
    QueryError,
    UnsupportedOperationError,
)
from perception_encoder.search.calibration import (
    Calibration,
    calibrate,
    can_be_calibrated,
    is_calibrated_by_writers,
    read_calibration,
)
from perception_encoder.search.grammar import QueryTerm, combine_vectors
from perception_encoder.search.queries import Query
from perception_encoder.search.query_model import match_model
from perception_encoder.server.core.images import LoadedImage
from perception_encoder.server.core.indexes import ServedIndex
from perception_encoder.server.core.model_worker import ModelWorker
from perception_encoder.server.core.pools import WorkPool
from perception_encoder.server.core.served_models import ServedModels
from perception_encoder.types import Embeddings, PreprocessName

logger = logging.getLogger(__name__)

_TEXTS_SECONDS: Final = 3.0  # a request waits for `embed_once`, then does without


@dataclass(frozen=True)
class Term:
    """One part of a query; exactly one of the four kinds is given, or an item and an image.

    Attributes:
        weight: negative to search for what is unlike the term.
        text: a text.
        image: an encoded image, or a part of one.
        item: the id of an item of the index; with an image, that is the part of it that counts.
        vector: (E,) float32, such as an earlier reply gave.
    """

    weight: float = 1.0
    text: str | None = None
    image: LoadedImage | None = None
    item: str | None = None
    vector: Embeddings | None = None


class Queries:
    """Builds queries for indexes.

    Args:
        served_models: the models, among them those of the indexes.
        searches: the threads that read indexes.
    """

    def __init__(self, served_models: ServedModels, searches: WorkPool) -> None:
        self._served_models = served_models
        self._searches = searches
        self._calibrating: dict[str, asyncio.Task[None]] = {}
        self._embedding: dict[tuple[str, str], asyncio.Task[Embeddings]] = {}

    async def read(self, served: ServedIndex, terms: Sequence[Term]) -> Query:
        """Embed the terms of a query and combine them.

        Raises:
            QueryError: no terms, no such item, or terms that cancel each other out.
            ImageError: an image cannot be used.
            IndexMismatchError: the server's model of that name is not the index's.
            ServingError: the model cannot answer now.
        """
        if not terms:
            raise QueryError("the query is empty; give a text, an image or an item")
        vectors = np.zeros((len(terms), served.identity.embed_dim), np.float32)
        items = [n for n, term in enumerate(terms) if term.item is not None]
        for number in items:
            if terms[number].image is not None:
                continue
            key = terms[number].item or ""
            vectors[number] = (await self._searches.run(served.with_vector, key))[1]
        for number, term in enumerate(terms):
            if term.vector is not None:
                vectors[number] = _unit_vector(term.vector, vectors.shape[1])
        await self._embed(served, terms, vectors)
        return Query(
            terms=tuple(_query_term(term) for term in terms),
            vector=combine_vectors(vectors, [term.weight for term in terms]),
            own=frozenset(terms[number].item or "" for number in items),
        )

    async def read_by(self, worker: ModelWorker, terms: Sequence[Term]) -> Query:
        """Embed the terms of a query by a model that is not the index's; items need their images.

        Raises:
            QueryError: a term is an embedding, or the terms cancel each other out.
            ImageError, ServingError: as `read`.
            UnsupportedOperationError: the model reads no text.
        """
        if any(term.vector is not None for term in terms):
            raise QueryError(
                "a vector is one of the index's model, which another model cannot read; to rerank, "
                "send the terms again instead of the query.vector of an earlier reply"
            )
        vectors = np.zeros((len(terms), worker.embed_dim), np.float32)
        await _embed_texts(worker, terms, vectors)
        await _embed_images(worker, terms, vectors)
        return Query(
            terms=tuple(_query_term(term) for term in terms),
            vector=combine_vectors(vectors, [term.weight for term in terms]),
            own=frozenset(term.item for term in terms if term.item is not None),
        )

    @asynccontextmanager
    async def text_worker(
        self, served: ServedIndex
    ) -> AsyncIterator[tuple[ModelWorker, EmbeddingModel]]:
        """Lend the model that embeds texts for an index, and it under the index's identity.

        Raises:
            UnsupportedOperationError: the index's model reads no text, and the server does not
                have its twin.
            IndexMismatchError: the server's model is not the index's, nor a twin of it.
            ServingError: the model cannot answer now.
        """
        model_id = served.identity.model_id
        name = self._served_models.text_model_of(model_id)
        if name is None:
            twin = find_text_twin(model_id)
            assert twin is not None  # else the model itself would be asked
            raise UnsupportedOperationError(
                f"the index {served.name} was made with {model_id}, which reads no text: search "
                f"with an image. For texts, the server needs its twin {twin.id} too: "
                f"pe serve --model {twin.id}"
            )
        async with self._served_models.use(name) as worker:
            model = worker.prepared_by(served.identity.preprocess)
            if model.identity == served.identity:
                yield worker, model
            else:  # files may have to be read to compare the vision towers
                yield worker, await asyncio.to_thread(match_model, served.index, model)

    async def calibration(self, served: ServedIndex, query: Query) -> Calibration | None:
        """Return the calibration of an index, if it is stored.

        Otherwise it is computed in the background, for later queries; of an index in a bucket,
        by who writes to it.
        """
        index = served.index
        if not await self._searches.run(can_be_calibrated, index):
            return None
        known = await self._searches.run(read_calibration, index, [query])
        if is_calibrated_by_writers(index):
            return known
        if known is None and served.name not in self._calibrating:
            task = asyncio.create_task(self._calibrate(served))
            self._calibrating[served.name] = task
            task.add_done_callback(lambda _: self._calibrating.pop(served.name, None))
        return known

    async def embed_once(
        self, worker: ModelWorker, texts: Callable[[], list[str]]
    ) -> Embeddings | None:
        """Return the embeddings of a fixed list of texts, such as `read_prompts`.

        They are embedded once for each model. None while that takes longer than a few seconds, and
        where the model is too busy or reads no text.
        """
        key = (worker.identity.fingerprint, texts.__name__)
        if key not in self._embedding:
            self._embedding[key] = asyncio.create_task(worker.embed_texts(texts()))
        task = self._embedding[key]
        done, _ = await asyncio.wait([task], timeout=_TEXTS_SECONDS)
        if done and (task.cancelled() or task.exception() is not None):
            self._embedding.pop(key, None)  # the next request tries again
            return None
        return task.result() if done else None

    async def close(self) -> None:
        """Wait for calibrations that are being computed."""
        for embedding in self._embedding.values():
            embedding.cancel()
        for task in list(self._calibrating.values()):
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _calibrate(self, served: ServedIndex) -> None:
        try:
            if self._served_models.text_model_of(served.identity.model_id) is None:
                # Without prompts: what images reach says how well another image fits.
                if await asyncio.to_thread(read_calibration, served.index, []) is None:
                    await asyncio.to_thread(calibrate, served.index, _no_model, [])
                return
            async with self.text_worker(served) as (_, model):
                await asyncio.to_thread(calibrate, served.index, lambda: model)
        except PerceptionEncoderError as err:
            logger.warning("%s could not be calibrated: %s", served.name, err)

    async def _embed(self, served: ServedIndex, terms: Sequence[Term], vectors: Embeddings) -> None:
        """Write the embeddings of texts and images into their rows."""
        if all(term.text is None and term.image is None for term in terms):
            return
        model_id = served.identity.model_id
        has_text = any(term.text is not None for term in terms)
        if has_text or self._served_models.text_model_of(model_id) is not None:
            # A twin embeds images, too: the vision-only model need not be in memory.
            async with self.text_worker(served) as (worker, _):
                await _embed_texts(worker, terms, vectors)
                await _embed_images(worker, terms, vectors, served.identity.preprocess)
            return
        async with self._served_models.use(model_id) as worker:
            preprocess = served.identity.preprocess
            served.index.check(worker.prepared_by(preprocess).identity)
            await _embed_images(worker, terms, vectors, preprocess)


async def _embed_texts(worker: ModelWorker, terms: Sequence[Term], vectors: Embeddings) -> None:
    texts = [n for n, term in enumerate(terms) if term.text is not None]
    if texts:
        vectors[texts] = await worker.embed_texts([terms[n].text or "" for n in texts])


async def _embed_images(
    worker: ModelWorker,
    terms: Sequence[Term],
    vectors: Embeddings,
    preprocess: PreprocessName | None = None,
) -> None:
    images = [n for n, term in enumerate(terms) if term.image is not None]
    if images:
        embedded = await worker.embed_images(
            [terms[n].image or b"" for n in images],
            [f"terms[{n}].image" for n in images],
            preprocess=preprocess,
        )
        vectors[images] = embedded.require()


def _no_model() -> EmbeddingModel:
    raise AssertionError("no prompts, no model")


def _query_term(term: Term) -> QueryTerm:
    if term.text is not None:
        return QueryTerm(term.weight, "text", term.text)
    if term.item is not None:
        return QueryTerm(term.weight, "item", term.item)
    return QueryTerm(term.weight, "image", "")


def _unit_vector(vector: Embeddings, embed_dim: int) -> Embeddings:
    length = float(np.linalg.norm(vector)) if vector.shape == (embed_dim,) else 0.0
    if not np.isfinite(length) or length == 0:
        raise QueryError(f"a query's vector must be {embed_dim} finite numbers, not all zero")
    return np.asarray(vector / length, dtype=np.float32)
