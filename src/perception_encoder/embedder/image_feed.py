"""Feeds a model with pictures: reads and resizes ahead on threads while the model computes.

With a cache, a file whose bytes were embedded before is not even decoded. Knows nothing about
vectors beyond handing known ones through.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from perception_encoder.embedder.cache import EmbeddingCache
from perception_encoder.embedder.chunk import Chunk, check_batch_size
from perception_encoder.embedder.options import Failures
from perception_encoder.embedder.overlap import overlapped
from perception_encoder.errors import ImageError, ImageValueError
from perception_encoder.preprocess import ImageInput, ImageProcessor, num_usable_cores
from perception_encoder.preprocess.files import read_image_file
from perception_encoder.types import ColorFormat, Pixels

_MAX_THREADS = 16  # decoding scales with cores; past this the interpreter's lock is the limit
_CHUNKS_AHEAD = 2  # while the last pictures of one are prepared, threads go on with the next


@dataclass(slots=True)
class _Item:
    """One picture on its way: as given or its file's bytes, then resized, or found in the cache."""

    row: int
    image: ImageInput
    name: str
    key: bytes | None = None
    resized: NDArray[np.uint8] | None = None
    vector: NDArray[np.float32] | None = None


class ImageFeed:
    """Cuts a list of pictures into chunks and prepares each while the one before is computed.

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
        """Yield the pictures in order, at most `batch_size` to a chunk.

        Raises:
            ImageError: a picture cannot be used, and failures are not collected.
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
        for item in items:  # the list of items lives as long as the run; the pictures need not
            item.resized = item.vector = None
            item.image = b""
        return chunk

    def _read(self, item: _Item) -> None:
        """Read a file once for both its key and its picture."""
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
    """What errors call a picture: its path, or its position counted from 0."""
    return os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {row}"
