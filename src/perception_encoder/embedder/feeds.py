"""Prepare images and texts ahead of the model, and embed what the cache does not know."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_encoder.embedder.cache import EmbeddingCache
from perception_encoder.embedder.options import Failures
from perception_encoder.embedder.pipeline import check_batch_size, embed_in_batches, map_ahead
from perception_encoder.errors import CacheError, ImageError, ImageValueError
from perception_encoder.preprocess import ImageInput, ImageProcessor, num_usable_cores
from perception_encoder.preprocess.crops import CroppedImage
from perception_encoder.preprocess.files import read_image_file
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.types import ColorFormat, Embeddings, Pixels, TokenIds

logger = logging.getLogger(__name__)

_MAX_THREADS: Final = 16  # decoding scales with cores; beyond this, the interpreter's lock limits

EncodeImages: TypeAlias = Callable[[Pixels], NDArray[np.float32]]
EncodeTexts: TypeAlias = Callable[[TokenIds], Embeddings]


class EmbeddedRows(NamedTuple):
    """Results for some of the caller's inputs.

    Attributes:
        rows: their positions in the whole input.
        vectors: (B, ...) float32, one for each position; NaN for an image that was skipped.
    """

    rows: slice | list[int]
    vectors: NDArray[np.float32]


@dataclass(slots=True)
class _Entry:
    """One image: as given, then its pixels or its cached vector; neither where it failed."""

    image: ImageInput
    row: int
    key: bytes | None = None
    resized: NDArray[np.uint8] | None = None
    vector: NDArray[np.float32] | None = None

    @property
    def name(self) -> str:
        """What errors call the image: its path, or its position counted from 0."""
        image = self.image.image if isinstance(self.image, CroppedImage) else self.image
        if isinstance(image, str | os.PathLike):
            return os.fspath(image)
        return f"image {self.row}"


class ImageFeed:
    """Embed a list of images in batches, with decoding ahead of the model.

    Args:
        processor: turns an image into pixels.
        encode: the backend's call for one batch.
        shape: of one image's result, such as (E,).
        concurrency: how many calls of `encode` run at once.
        color_format: channel order of NumPy arrays.
        cache: holds embeddings of earlier calls, and takes the new ones.
        failures: takes the error of each image that cannot be used. Without it the first is raised.

    Raises:
        ValueError: `color_format` is neither "bgr" nor "rgb".
    """

    def __init__(
        self,
        processor: ImageProcessor,
        encode: EncodeImages,
        shape: tuple[int, ...],
        *,
        concurrency: int,
        color_format: ColorFormat,
        cache: EmbeddingCache | None = None,
        failures: Failures | None = None,
    ) -> None:
        if color_format not in ("bgr", "rgb"):
            raise ValueError(f"input_color_format must be 'bgr' or 'rgb', got {color_format!r}")
        self._processor = processor
        self._encode = encode
        self._shape = shape
        self._concurrency = concurrency
        self._color_format = color_format
        self._cache = cache
        self._failures = failures

    def embed(self, images: Sequence[ImageInput], batch_size: int) -> Iterator[EmbeddedRows]:
        """Yield the results of consecutive images, at most `batch_size` at once.

        Raises:
            ImageError: an image cannot be used, and failures are not collected.
            ValueError: `batch_size` is below 1.
        """
        check_batch_size(batch_size)
        if len(images) <= 1:  # starting a thread would take longer than it saves
            entries = [self._prepare(_Entry(image, row)) for row, image in enumerate(images)]
            if entries:
                yield self._embed_batch(entries)
            return
        pool = ThreadPoolExecutor(min(_MAX_THREADS, num_usable_cores(), len(images)), "decode")
        try:
            yield from embed_in_batches(
                (_Entry(image, row) for row, image in enumerate(images)),
                lambda entry: pool.submit(self._prepare, entry),
                self._embed_batch,
                batch_size=batch_size,
                concurrency=self._concurrency,
            )
        finally:
            pool.shutdown(cancel_futures=True)

    def _prepare(self, entry: _Entry) -> _Entry:
        """Look an image up by its file's bytes, else decode it and look it up by its pixels."""
        name = entry.name
        cache = self._cache  # once: another thread drops a cache that cannot be written
        if cache is not None:
            self._read(entry, name, cache)
            self._look_up(entry, cache)
        if entry.vector is None:
            self._resize(entry, name)
            if cache is not None and entry.key is None and entry.resized is not None:
                entry.key = cache.key("resized", entry.resized.tobytes())
                self._look_up(entry, cache)
        entry.image = b""  # frees what was read while the batch waits
        return entry

    def _read(self, entry: _Entry, name: str, cache: EmbeddingCache) -> None:
        """Read a file once, for both its key and its pixels."""
        if isinstance(entry.image, str | os.PathLike):
            try:
                entry.image = read_image_file(entry.image, item=name)
            except ImageError:
                return  # decoding reports the reason
        if isinstance(entry.image, bytes | bytearray | memoryview):
            entry.key = cache.key("file", bytes(entry.image))

    def _look_up(self, entry: _Entry, cache: EmbeddingCache) -> None:
        if entry.key is not None:
            entry.vector = cache.get([entry.key]).get(entry.key)
            if entry.vector is not None:
                entry.resized = None

    def _resize(self, entry: _Entry, name: str) -> None:
        try:
            entry.resized = self._processor(
                entry.image, input_color_format=self._color_format, item=name
            )
        except ImageError as err:
            if self._failures is None:
                raise
            self._failures[entry.row] = err
        except TypeError as err:  # such as the None that cv2.imread returns for a damaged file
            if self._failures is None:
                raise
            self._failures[entry.row] = ImageValueError(str(err), item=name)

    def _embed_batch(self, entries: list[_Entry]) -> EmbeddedRows:
        rows = slice(entries[0].row, entries[-1].row + 1)
        new = [place for place, entry in enumerate(entries) if entry.resized is not None]
        vectors = np.full((len(entries), *self._shape), np.nan, np.float32)
        for place, entry in enumerate(entries):
            if entry.vector is not None:
                vectors[place] = entry.vector
        if not new:
            return EmbeddedRows(rows, vectors)
        pixels = np.stack([pixels for entry in entries if (pixels := entry.resized) is not None])
        computed = self._encode(pixels)
        cache = self._cache
        if cache is not None:
            keys = [key for place in new if (key := entries[place].key) is not None]
            if not _store(cache, keys, computed):
                self._cache = None
        if len(new) < len(entries):
            vectors[new] = computed
            computed = vectors
        return EmbeddedRows(rows, computed)


class TextFeed:
    """Embed texts in batches of similar length, so that few columns are padding.

    Args:
        tokenizer: pads token ids.
        encode: the backend's call for one batch.
        concurrency: how many calls of `encode` run at once.
        cache: holds embeddings of earlier calls, and takes the new ones.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        encode: EncodeTexts,
        *,
        concurrency: int,
        cache: EmbeddingCache | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._encode = encode
        self._concurrency = concurrency
        self._cache = cache

    def embed(self, token_rows: Sequence[Sequence[int]], batch_size: int) -> Iterator[EmbeddedRows]:
        """Yield the results of texts, at most `batch_size` computed at once; cached ones first.

        Args:
            token_rows: from `Tokenizer.encode`.
            batch_size: texts of a batch.

        Raises:
            ValueError: `batch_size` is below 1.
        """
        check_batch_size(batch_size)
        self._warn_of_cut_texts(token_rows)
        cache, pad = self._cache, self._tokenizer.pad
        keys: list[bytes] = []
        new = list(range(len(token_rows)))
        if cache is not None:
            # Keys are of token ids, not of text: another vocabulary reads the same text otherwise.
            keys = [cache.key("text", pad([row]).tobytes()) for row in token_rows]
            cached = cache.get(keys)
            known = [row for row in new if keys[row] in cached]
            if known:
                yield EmbeddedRows(known, np.stack([cached[keys[row]] for row in known]))
            new = [row for row in new if keys[row] not in cached]
        new.sort(key=lambda row: len(token_rows[row]))
        batches = (new[start : start + batch_size] for start in range(0, len(new), batch_size))
        encode = self._encode
        for rows, vectors in map_ahead(
            lambda rows: encode(pad([token_rows[row] for row in rows])), batches, self._concurrency
        ):
            if cache is not None and not _store(cache, [keys[row] for row in rows], vectors):
                cache = None
            yield EmbeddedRows(rows, vectors)

    def _warn_of_cut_texts(self, token_rows: Sequence[Sequence[int]]) -> None:
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


def _store(cache: EmbeddingCache, keys: Sequence[bytes], vectors: NDArray[np.float32]) -> bool:
    """Store embeddings; a full disk must not lose what was computed."""
    try:
        cache.put(keys, vectors)
    except CacheError as err:
        logger.warning("%s; new embeddings are no longer cached", err)
        return False
    return True
