"""What a feed hands to a model: some inputs to compute, and some vectors that are known."""

import itertools
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from perception_encoder.embedder.cache import EmbeddingCache
from perception_encoder.embedder.options import Failures
from perception_encoder.errors import (
    ImageError,
    ImageValueError,
    TokenizerNotFoundError,
    UnsupportedOperationError,
)
from perception_encoder.preprocess import ImageInput, ImageProcessor, num_usable_cores
from perception_encoder.preprocess.files import read_image_file
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.registry import ModelConfig
from perception_encoder.types import ColorFormat, Pixels, TokenIds

logger = logging.getLogger(__name__)
InputT = TypeVar("InputT")
_In = TypeVar("_In")
_Out = TypeVar("_Out")
_MAX_THREADS = 16  # decoding scales with cores; past this the interpreter's lock is the limit
_CHUNKS_AHEAD = 2  # while the last images of one are prepared, threads go on with the next


@dataclass(frozen=True, slots=True)
class Chunk(Generic[InputT]):
    """A part of the caller's images or texts.

    Attributes:
        rows: positions, in the whole input, of what is in `inputs`.
        inputs: pixels or token ids, one row for each of `rows`.
        keys: their names in the cache; empty without one.
        known: vectors from the cache, by position.
        num_skipped: images of this part that cannot be used.
    """

    rows: list[int]
    inputs: InputT
    keys: list[bytes]
    known: dict[int, NDArray[np.float32]]
    num_skipped: int = 0


def check_batch_size(batch_size: int) -> None:
    """Refuse a batch size below 1.

    Raises:
        ValueError: it is.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")


def overlapped(
    call: Callable[[_In], _Out], inputs: Iterable[_In], at_once: int
) -> Iterator[tuple[_In, _Out]]:
    """Yield each input and its result, in order; up to `at_once` calls run beside each other.

    Inputs are taken no further ahead than that. The first call that fails ends it, once those that
    run are over.
    """
    if at_once == 1:
        yield from ((one, call(one)) for one in inputs)
        return
    running: deque[tuple[_In, Future[_Out]]] = deque()
    with ThreadPoolExecutor(at_once) as pool:
        for one in inputs:
            if len(running) == at_once:
                done, future = running.popleft()
                yield done, future.result()
            running.append((one, pool.submit(call, one)))
        for done, future in running:
            yield done, future.result()


@dataclass(slots=True)
class _Item:
    """One image on its way: as given or its file's bytes, then resized, or found in the cache."""

    row: int
    image: ImageInput
    name: str
    key: bytes | None = None
    resized: NDArray[np.uint8] | None = None
    vector: NDArray[np.float32] | None = None


class ImageFeed:
    """Cuts a list of images into chunks and prepares each while the one before is computed.

    Args:
        processor: makes pixels of images.
        cache: knows some embeddings already.
        color_format: channel order of numpy arrays.
        failures: takes the errors of images that cannot be used, which are then left out of the
            chunks; without it the first one is raised.

    Raises:
        ValueError: there is no such channel order.
    """

    def __init__(
        self,
        processor: ImageProcessor,
        cache: EmbeddingCache | None,
        color_format: ColorFormat,
        failures: Failures | None = None,
    ) -> None:
        if color_format not in ("bgr", "rgb"):
            raise ValueError(f"input_color_format must be 'bgr' or 'rgb', got {color_format!r}")
        self._processor = processor
        self._cache = cache
        self._color_format = color_format
        self._failures = failures

    def chunks(self, images: Sequence[ImageInput], batch_size: int) -> Iterator[Chunk[Pixels]]:
        """Yield the images in order, at most `batch_size` to a chunk.

        Raises:
            ImageError: an image cannot be used, and failures are not collected.
            ValueError: `batch_size` is below 1.
        """
        check_batch_size(batch_size)
        named = [_Item(row, image, _name(image, row)) for row, image in enumerate(images)]
        parts = [named[start : start + batch_size] for start in range(0, len(named), batch_size)]
        if len(named) <= 1:
            yield from (self._prepare(part, pool=None) for part in parts)
            return
        num_threads = min(_MAX_THREADS, num_usable_cores(), len(named))
        with ThreadPoolExecutor(num_threads) as pool:
            prepared = overlapped(partial(self._prepare, pool=pool), parts, _CHUNKS_AHEAD)
            yield from (chunk for _, chunk in prepared)

    def _prepare(self, items: list[_Item], *, pool: ThreadPoolExecutor | None) -> Chunk[Pixels]:
        apply = map if pool is None else pool.map
        if self._cache is not None:
            list(apply(self._read, items))
            self._look_up(item for item in items if item.key is not None)
        missing = [item for item in items if item.vector is None]
        list(apply(self._resize, missing))
        if self._cache is not None:
            for item in missing:
                if item.key is None and item.resized is not None:
                    item.key = self._cache.key("resized", item.resized.tobytes())
            self._look_up(missing)
        return self._as_chunk(items)

    def _as_chunk(self, items: list[_Item]) -> Chunk[Pixels]:
        todo = [item for item in items if item.resized is not None and item.vector is None]
        side = self._processor.image_size
        resized = np.empty((len(todo), side, side, 3), np.uint8)
        for item, out in zip(todo, resized, strict=True):
            assert item.resized is not None
            out[:] = item.resized
        chunk = Chunk(
            rows=[item.row for item in todo],
            inputs=resized,
            keys=[item.key for item in todo if item.key is not None],
            known={item.row: item.vector for item in items if item.vector is not None},
            num_skipped=sum(item.resized is None and item.vector is None for item in items),
        )
        for item in items:  # the list of items lives as long as the run; the images need not
            item.resized = item.vector = None
            item.image = b""
        return chunk

    def _read(self, item: _Item) -> None:
        """Read a file once for both its key and its image."""
        assert self._cache is not None
        if isinstance(item.image, str | os.PathLike):
            try:
                item.image = read_image_file(item.image, item=item.name)
            except ImageError:
                return  # decoding reports what is wrong with it
        if isinstance(item.image, bytes | bytearray | memoryview):
            item.key = self._cache.key("file", bytes(item.image))

    def _resize(self, item: _Item) -> None:
        try:
            item.resized = self._processor(
                item.image, input_color_format=self._color_format, item=item.name
            )
        except ImageError as err:
            if self._failures is None:
                raise
            self._failures[item.row] = err
        except TypeError as err:  # such as the None that cv2.imread returns for a damaged file
            if self._failures is None:
                raise
            self._failures[item.row] = ImageValueError(str(err), item=item.name)

    def _look_up(self, items: Iterable[_Item]) -> None:
        assert self._cache is not None
        wanted, keyed = itertools.tee(item for item in items if item.key is not None)
        vectors = self._cache.get([item.key for item in keyed if item.key is not None])
        for item in wanted:
            item.vector = vectors.get(item.key) if item.key is not None else None


def _name(image: ImageInput, row: int) -> str:
    """What errors call an image: its path, or its position counted from 0."""
    return os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {row}"


def tokenizer_of(config: ModelConfig, found: Tokenizer | None) -> Tokenizer:
    """Return what was found, or say why a model can be given no words.

    Raises:
        TokenizerNotFoundError: the model's vocabulary was not found.
        UnsupportedOperationError: the model reads no text.
    """
    if config.text is None:
        raise UnsupportedOperationError(f"{config.id} reads no text; use a PE-Core or CLIP model")
    if found is None:
        raise TokenizerNotFoundError(
            f"no vocabulary was found for {config.id}. Put tokenizer.json or "
            "bpe_simple_vocab_16e6.txt.gz beside the weights, install open_clip_torch "
            "(pip install --no-deps open_clip_torch), or allow the download of "
            "openai/clip-vit-base-patch32"
        )
    return found


class TextFeed:
    """Cuts texts into chunks of similar length; those the cache knows come first."""

    def __init__(self, tokenizer: Tokenizer, cache: EmbeddingCache | None) -> None:
        self._tokenizer = tokenizer
        self._cache = cache

    def chunks(self, texts: Sequence[str], batch_size: int) -> Iterator[Chunk[TokenIds]]:
        """Yield every text once, at most `batch_size` to compute in a chunk.

        Raises:
            TypeError: an item is not a string.
            ValueError: `batch_size` is below 1.
        """
        check_batch_size(batch_size)
        token_rows = self._tokenizer.encode(texts)
        self._warn_of_cut_text(token_rows)
        keys: list[bytes] = []
        todo = list(range(len(texts)))
        if self._cache is not None:
            cache = self._cache
            # Of the numbers, not the words: another vocabulary reads the same words otherwise.
            keys = [cache.key("text", self._tokenizer.pad([row]).tobytes()) for row in token_rows]
            vectors = cache.get(keys)
            known = {row: vectors[key] for row, key in enumerate(keys) if key in vectors}
            todo = [row for row in todo if row not in known]
            yield Chunk([], self._tokenizer.pad([]), [], known)
        # Neighbors of one length share a batch, so few columns are padding.
        todo.sort(key=lambda row: len(token_rows[row]))
        for start in range(0, len(todo), batch_size):
            rows = todo[start : start + batch_size]
            token_ids = self._tokenizer.pad([token_rows[row] for row in rows])
            yield Chunk(rows, token_ids, [keys[row] for row in rows] if keys else [], {})

    def _warn_of_cut_text(self, token_rows: Sequence[Sequence[int]]) -> None:
        limit = self._tokenizer.context_length
        num_cut = sum(len(row) > limit for row in token_rows)
        if num_cut:
            logger.warning(
                "%d of %d texts are longer than the %d tokens this model reads; "
                "their ends were cut off",
                num_cut,
                len(token_rows),
                limit,
            )
