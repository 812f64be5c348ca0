"""One loaded model behind two queues: encoded images and texts in, unit embeddings out.

Images are decoded in a pool before they enter the queue, so that a bad one never joins a batch.
Long texts are tokenized in another pool, so that they do not delay others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.embedder.relevance import Relevance
from perception_encoder.errors import CheckpointError, ImageError, WorkerCrashedError
from perception_encoder.preprocess.images import ImageProcessor, ResizedImage
from perception_encoder.server.core.batcher import Batcher, BatchLimits, BatchObserver, QueueSlot
from perception_encoder.server.core.images import LoadedImage, name_images
from perception_encoder.server.core.pools import WorkPool, release_frames
from perception_encoder.types import Embeddings, ModelIdentity, PreprocessName

_RECENT_SECONDS: Final = 5.0
_LONG_TEXT: Final = 512
"""Characters from which on a text is tokenized before it joins a batch: odd ones of this length
take a millisecond or two, of which a batch can bear 64."""


@dataclass(frozen=True)
class EmbeddedBatch:
    """The embeddings of a request's images, in its order.

    Attributes:
        vectors: (N, E) float32 of unit length; zeros where an image failed.
        errors: by position, why an image could not be used.
        sizes: by position, width and height of an image when upright.
    """

    vectors: Embeddings
    errors: dict[int, ImageError] = field(default_factory=dict)
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)

    def require(self) -> Embeddings:
        """Return the vectors if every image could be embedded.

        Raises:
            ImageError: the error of the first image that could not; `item` names it.
        """
        for position in sorted(self.errors):
            raise self.errors[position]
        return self.vectors


@dataclass(eq=False)
class _QueuedText:
    """A text in the queue, and its token ids once it has been tokenized."""

    text: str
    token_ids: list[int] | None = None


class ModelWorker:
    """A model that many requests share.

    Attributes:
        is_outdated: whether the file of its weights was overwritten, so that it cannot compute any
            more and has to be opened again.

    Args:
        name: the model's name in requests.
        model: the model; `close` closes it.
        limits: of each of the two queues.
        decoders: the pool that decodes images.
        tokenizers: the pool that tokenizes long texts.
        observe: returns the observer of the batches of "image" or "text".
    """

    def __init__(
        self,
        name: str,
        model: EmbeddingModel,
        limits: BatchLimits,
        decoders: WorkPool,
        tokenizers: WorkPool,
        observe: Callable[[str], BatchObserver],
    ) -> None:
        self.name = name
        self.model = model
        self.is_outdated = False
        self._decoders = decoders
        self._tokenizers = tokenizers
        self._images: Batcher[NDArray[np.uint8]] = Batcher(
            f"images of {name}", self._encode_images, limits, observe("image")
        )
        self._texts: Batcher[_QueuedText] = Batcher(
            f"texts of {name}", self._encode_texts, limits, observe("text")
        )

    @property
    def identity(self) -> ModelIdentity:
        """The model, weights and preprocessing that decide its embeddings."""
        return self.model.identity

    def prepared_by(self, preprocess: PreprocessName | None) -> EmbeddingModel:
        """Return the model with the preprocessing of an index; None for its own."""
        return self.model if preprocess is None else self.model.prepared_by(preprocess)

    @property
    def embed_dim(self) -> int:
        """E, the length of a vector."""
        return self.identity.embed_dim

    @property
    def logit_scale(self) -> float:
        """What a cosine is multiplied by before a softmax over labels."""
        return self.model.logit_scale

    @property
    def num_waiting(self) -> dict[str, int]:
        """Items in each queue, those that are being decoded included."""
        return {"image": self._images.num_waiting, "text": self._texts.num_waiting}

    async def embed_images(
        self,
        images: Sequence[LoadedImage | ImageError],
        names: Sequence[str] | None = None,
        *,
        preprocess: PreprocessName | None = None,
    ) -> EmbeddedBatch:
        """Embed encoded images; a bad one fails alone.

        Args:
            images: files' bytes, or parts of their images; an error stands for an image that could
                not even be had.
            names: what errors call each; "image 0", "image 1", … by default.
            preprocess: of the index that they are compared with; None for the model's own.

        Raises:
            QueueFullError: too much is waiting.
            WorkerCrashedError: computing failed or took too long.
        """
        vectors = np.zeros((len(images), self.embed_dim), np.float32)
        errors: dict[int, ImageError] = {}
        sizes: dict[int, tuple[int, int]] = {}
        if not images:
            return EmbeddedBatch(vectors)
        called = name_images(len(images)) if names is None else names
        processor = self.prepared_by(preprocess).processor

        async def embed(place: QueueSlot, position: int) -> Embeddings | ImageError:
            resized = await self._resize_image(processor, place, images[position], called[position])
            if isinstance(resized, ImageError):
                return resized
            sizes[position] = resized.width, resized.height
            return await self._images.run(place, resized.pixels)

        for position, outcome in enumerate(await self._images.run_all(len(images), embed)):
            if isinstance(outcome, ImageError):
                errors[position] = outcome
            else:
                vectors[position] = outcome
        return EmbeddedBatch(vectors, errors, sizes)

    async def explain(self, image: LoadedImage, texts: Sequence[str], *, item: str) -> Relevance:
        """Divide the cosines of an encoded image with texts among its patches.

        Args:
            image: a file's bytes, or a part of it.
            texts: at least one.
            item: what errors call the image.

        Raises:
            ImageError: the image cannot be used.
            UnsupportedOperationError: the model cannot explain.
            QueueFullError, WorkerCrashedError, TextTooLargeError: as `embed_and_count`.
        """
        resized = await self._decoders.run(self.model.processor.resize_measured, image, item=item)
        vectors = await self.embed_texts(texts)
        return await self._decoders.run(self._explain, resized, vectors)

    async def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """Embed texts: (N, E) float32 of unit length; see `embed_and_count`."""
        return (await self.embed_and_count(texts))[0]

    async def embed_and_count(self, texts: Sequence[str]) -> tuple[Embeddings, list[int]]:
        """Embed texts, and count their tokens. What does not fit the context is cut.

        Returns:
            (N, E) float32 of unit length; and the number of tokens of each text, start and end
            included. Of a text of thousands of characters only more than the model reads are
            counted.

        Raises:
            QueueFullError: too much is waiting.
            WorkerCrashedError: computing failed or took too long.
            TextTooLargeError: a text has more than `MAX_TEXT_BYTES`.
            UnsupportedOperationError: the model reads no text.
        """
        self.model.tokenizer.check_sizes(texts)
        items = [_QueuedText(text) for text in texts]
        vectors = np.zeros((len(texts), self.embed_dim), np.float32)

        async def embed(place: QueueSlot, position: int) -> Embeddings:
            item = items[position]
            if len(item.text) >= _LONG_TEXT:
                encoded = await self._tokenizers.run(self.model.tokenizer.encode, [item.text])
                item.token_ids = encoded[0]
            return await self._texts.run(place, item)

        for position, vector in enumerate(await self._texts.run_all(len(texts), embed)):
            vectors[position] = vector
        return vectors, [len(item.token_ids or ()) for item in items]

    async def check(self) -> None:
        """Check that the model answers.

        A model that has just computed a batch does; an idle one embeds a gray image.

        Raises:
            ServingError: it does not answer.
        """
        if min(self._images.seconds_since_done, self._texts.seconds_since_done) < _RECENT_SECONDS:
            return
        side = self.model.processor.image_size
        with self._images.reserve(1) as place:
            gray = np.full((side, side, 3), 128, np.uint8)
            vector = await self._images.run(place, gray)
        if not np.isfinite(vector).all():
            raise WorkerCrashedError(f"{self.name}: the model gives vectors that are no numbers")

    def close(self, timeout_seconds: float | None = None) -> None:
        """Finish accepted items, then close the model."""
        self._images.close(timeout_seconds)
        self._texts.close(timeout_seconds)
        self.model.close()

    async def _resize_image(
        self,
        processor: ImageProcessor,
        place: QueueSlot,
        image: LoadedImage | ImageError,
        item: str,
    ) -> ResizedImage | ImageError:
        """Decode one image in the pool; return its error, and give up its place, if it is bad."""
        try:
            if isinstance(image, ImageError):
                raise image
            return await self._decoders.run(processor.resize_measured, image, item=item)
        except ImageError as err:
            self._images.give_up(place)
            release_frames(err)
            return err

    def _encode_images(self, pixels: Sequence[NDArray[np.uint8]]) -> Embeddings:
        with self._note_outdated():
            return self.model.embed_pixels(np.stack(pixels))

    def _explain(self, image: ResizedImage, texts: Embeddings) -> Relevance:
        with self._note_outdated():
            return self.model.explain_resized(image, texts)

    def _encode_texts(self, texts: Sequence[_QueuedText]) -> Embeddings:
        short = [item for item in texts if item.token_ids is None]
        encoded = self.model.tokenizer.encode([item.text for item in short])
        for item, token_ids in zip(short, encoded, strict=True):
            item.token_ids = token_ids
        with self._note_outdated():
            return self.model.embed_tokens([item.token_ids or [] for item in texts])

    @contextmanager
    def _note_outdated(self) -> Iterator[None]:
        try:
            yield
        except CheckpointError:
            self.is_outdated = True
            raise
