"""One loaded model behind two queues: encoded pictures and words in, unit vectors out, shared.

Pictures are decoded on a pool before they wait, so that a bad one is found before it shares a batch
with others; nothing can be wrong with a text. Knows no HTTP.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.embedder.vectors import unit
from perception_encoder.errors import ImageError, WorkerCrashedError
from perception_encoder.server.core.batcher import Batcher, BatchLimits, BatchObserver, Place
from perception_encoder.types import Embeddings, ModelIdentity

ResultT = TypeVar("ResultT")

_RECENT_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Embedded:
    """What became of a request's pictures, in its order.

    Attributes:
        vectors: (N, E) float32 of unit length; zeros where a picture failed.
        errors: by position, why a picture could not be used.
    """

    vectors: Embeddings
    errors: dict[int, ImageError] = field(default_factory=dict)

    def require(self) -> Embeddings:
        """Return the vectors if every picture was good.

        Raises:
            ImageError: the first one that was not; `item` names it.
        """
        for position in sorted(self.errors):
            raise self.errors[position]
        return self.vectors


class Engine:
    """A model that many requests share.

    Args:
        name: what clients call it.
        model: owned from now on; `close` closes it.
        limits: of each of its two queues.
        decoders: the pool that decodes.
        observe: returns who is told of the batches of "image" or "text".
    """

    def __init__(
        self,
        name: str,
        model: EmbeddingModel,
        limits: BatchLimits,
        decoders: Executor,
        observe: Callable[[str], BatchObserver],
    ) -> None:
        self.name = name
        self.model = model
        self._decoders = decoders
        self._images: Batcher[NDArray[np.uint8]] = Batcher(
            f"pictures of {name}", self._encode_images, limits, observe("image")
        )
        self._texts: Batcher[str] = Batcher(
            f"texts of {name}", self._encode_texts, limits, observe("text")
        )

    @property
    def identity(self) -> ModelIdentity:
        """What decides its vectors."""
        return self.model.identity

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
        self, images: Sequence[bytes | ImageError], names: Sequence[str] | None = None
    ) -> Embedded:
        """Embed encoded pictures; a bad one fails alone.

        Args:
            images: files' bytes; an error stands for a picture that could not even be had.
            names: what errors call each; "image 0", "image 1", … by default.

        Raises:
            QueueFullError: there is no room for all of them.
            WorkerCrashedError: computing failed or took too long.
        """
        vectors = np.zeros((len(images), self.embed_dim), np.float32)
        errors: dict[int, ImageError] = {}
        if not images:
            return Embedded(vectors)
        names = image_names(len(images)) if names is None else names
        with self._images.reserve(len(images)) as place:
            embed = (
                self._embed_image(place, image, name)
                for image, name in zip(images, names, strict=True)
            )
            for position, outcome in enumerate(await _all(embed)):
                if isinstance(outcome, ImageError):
                    errors[position] = outcome
                else:
                    vectors[position] = outcome
        return Embedded(vectors, errors)

    async def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """Embed texts: (N, E) float32 of unit length. What does not fit the context is cut.

        Raises:
            QueueFullError: there is no room for all of them.
            WorkerCrashedError: computing failed or took too long.
            UnsupportedOperationError: the model reads no text.
        """
        self.model.tokenizer  # noqa: B018  tells at once that the model reads no text
        vectors = np.zeros((len(texts), self.embed_dim), np.float32)
        with self._texts.reserve(len(texts)) as place:
            runs = (self._texts.run(place, _unicode(text)) for text in texts)
            for position, vector in enumerate(await _all(runs)):
                vectors[position] = vector
        return vectors

    async def check(self) -> None:
        """Make sure that the model answers.

        While batches are being done it does; an idle model is asked for one grey picture.

        Raises:
            ServingError: it does not answer.
        """
        if min(self._images.seconds_since_done, self._texts.seconds_since_done) < _RECENT_SECONDS:
            return
        side = self.model.processor.image_size
        with self._images.reserve(1) as place:
            grey = np.full((side, side, 3), 128, np.uint8)
            vector = await self._images.run(place, grey)
        if not np.isfinite(vector).all():
            raise WorkerCrashedError(f"{self.name}: the model gives vectors that are no numbers")

    def close(self, timeout_seconds: float | None = None) -> None:
        """Finish what was accepted, then give the model's memory back."""
        self._images.close(timeout_seconds)
        self._texts.close(timeout_seconds)
        self.model.close()

    async def _embed_image(
        self, place: Place, image: bytes | ImageError, item: str
    ) -> Embeddings | ImageError:
        """Decode one picture on the pool, then queue it; what is wrong with it is returned."""
        try:
            if isinstance(image, ImageError):
                raise image
            loop = asyncio.get_running_loop()
            prepare = partial(self.model.processor, image, item=item)
            pixels = await loop.run_in_executor(self._decoders, prepare)
        except ImageError as err:
            self._images.give_up(place)
            return err
        return await self._images.run(place, pixels)

    def _encode_images(self, pixels: Sequence[NDArray[np.uint8]]) -> Embeddings:
        return unit(self.model.backend.encode_image(np.stack(pixels)))

    def _encode_texts(self, texts: Sequence[str]) -> Embeddings:
        return unit(self.model.backend.encode_text(self.model.tokenizer(texts)))


def image_names(count: int) -> list[str]:
    """Return what errors call the images of a request, by their positions."""
    return [f"image {position}" for position in range(count)]


def _unicode(text: str) -> str:
    """Return a text that every tokenizer reads: halves of characters become question marks."""
    return text.encode("utf-8", "replace").decode()


async def _all(awaitables: Iterable[Awaitable[ResultT]]) -> list[ResultT]:
    """Await all; the first that raises cancels the others and is raised."""
    waiting = list(awaitables)
    if len(waiting) == 1:  # most requests: no task needed
        return [await waiting[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_awaited(one)) for one in waiting]
    except ExceptionGroup as err:
        raise err.exceptions[0] from err
    return [task.result() for task in tasks]


async def _awaited(awaitable: Awaitable[ResultT]) -> ResultT:
    return await awaitable
