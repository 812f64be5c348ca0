"""Patch features at any size: the grid of each image, its pixels, and its features."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from math import ceil, floor, log, sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.embedder.pipeline import check_batch_size, embed_in_batches
from perception_encoder.preprocess import ImageInput, ImageProcessor, num_usable_cores
from perception_encoder.registry import VisionConfig
from perception_encoder.types import ColorFormat, Pixels

MAX_PATCHES: Final = 1 << 14
"""Patches of one image: a square of 2,048 pixels where patches have 16."""

_MAX_BATCH_PATCHES: Final = 1 << 13  # of one call of the backend, unless one image has more
_MAX_THREADS: Final = 16


@dataclass(frozen=True, eq=False)
class PatchFeatures:
    """The patch features of one image.

    Attributes:
        values: (h·w, D) float32, patches row by row.
        grid: h and w, the rows and columns of patches.
        image_size: width and height of the upright image in pixels.
    """

    values: NDArray[np.float32]
    grid: tuple[int, int]
    image_size: tuple[int, int]

    def as_map(self) -> NDArray[np.float32]:
        """Return a (h, w, D) view of the values."""
        return self.values.reshape(*self.grid, -1)

    def centers(self) -> NDArray[np.float32]:
        """Return (h·w, 2) float32: x and y of each patch's center in pixels of the image."""
        rows, columns = self.grid
        width, height = self.image_size
        y, x = np.mgrid[:rows, :columns].reshape(2, -1).astype(np.float32) + 0.5
        return np.stack([x * (width / columns), y * (height / rows)], axis=-1)


@dataclass(frozen=True)
class GridChoice:
    """How many patches an image has in each direction.

    Attributes:
        rows: of patches.
        columns: of patches.
        keep_aspect: take as many patches at most, but with the image's aspect ratio.
    """

    rows: int
    columns: int
    keep_aspect: bool

    @classmethod
    def parse(
        cls, vision: VisionConfig, image_size: int | tuple[int, int] | None, *, keep_aspect: bool
    ) -> GridChoice:
        """Read the arguments of `EmbeddingModel.features`.

        Raises:
            ValueError: a side is no positive multiple of the patch size, there are more patches
                than `MAX_PATCHES`, or both a height with a width and `keep_aspect` are given.
        """
        size = vision.image_size if image_size is None else image_size
        if keep_aspect and isinstance(size, tuple):
            raise ValueError(
                "image_size with a height and a width defines the aspect ratio; leave out "
                "keep_aspect, or give one number"
            )
        sides = size if isinstance(size, tuple) else (size, size)
        if len(sides) != 2:
            raise ValueError(f"image_size is one number, or height and width; got {size}")
        patch = vision.patch_size
        for side in sides:
            if side < 1 or side % patch:
                below, above = side // patch * patch, -(-side // patch) * patch
                nearest = f"{below} or {above}" if below > 0 else f"{max(patch, above)}"
                raise ValueError(
                    f"image_size {side} is no multiple of the model's patches of {patch} pixels; "
                    f"use {nearest}"
                )
        rows, columns = (side // patch for side in sides)
        if rows * columns > MAX_PATCHES:
            most = int(sqrt(MAX_PATCHES)) * patch
            raise ValueError(
                f"image_size {size} makes {rows * columns:,} patches of an image, and the limit is "
                f"{MAX_PATCHES:,}, a square of {most:,} pixels; use a smaller image_size, or cut "
                "images into tiles"
            )
        return cls(rows, columns, keep_aspect)

    def grid_for(self, width: int, height: int) -> tuple[int, int]:
        """Return the rows and columns of an image of that size in pixels."""
        if not self.keep_aspect:
            return self.rows, self.columns
        budget, aspect = self.rows * self.columns, width / height
        ideal = sqrt(budget / aspect)
        grids = []
        for rows in {floor(ideal), ceil(ideal)}:
            rows = min(max(rows, 1), budget)
            grids.append((rows, min(max(round(rows * aspect), 1), budget // rows)))
        return min(grids, key=lambda grid: (abs(log(grid[1] / grid[0] / aspect)), -grid[0]))


@dataclass(slots=True)
class _Entry:
    image: ImageInput
    row: int
    pixels: Pixels | None = None
    grid: tuple[int, int] = (0, 0)
    image_size: tuple[int, int] = (0, 0)


class PatchFeed:
    """Compute the patch features of images of any size, with decoding ahead of the model.

    Args:
        processor: turns an image into pixels.
        encode: the backend's call for a batch of (B, H, W, 3) pixels.
        choice: of the grids.
        patch_size: of the model, in pixels.
        concurrency: how many calls of `encode` run at once.
        color_format: channel order of NumPy arrays.
    """

    def __init__(
        self,
        processor: ImageProcessor,
        encode: Callable[[Pixels], NDArray[np.float32]],
        choice: GridChoice,
        patch_size: int,
        *,
        concurrency: int,
        color_format: ColorFormat,
    ) -> None:
        if color_format not in ("bgr", "rgb"):
            raise ValueError(f"input_color_format must be 'bgr' or 'rgb', got {color_format!r}")
        self._processor = processor
        self._encode = encode
        self._choice = choice
        self._patch_size = patch_size
        self._concurrency = concurrency
        self._color_format = color_format

    def iter_features(
        self, images: Sequence[ImageInput], batch_size: int
    ) -> Iterator[list[PatchFeatures]]:
        """Yield the features of consecutive images.

        Raises:
            ImageError: an image cannot be used.
            ValueError: `batch_size` is below 1.
        """
        check_batch_size(batch_size)
        if not images:
            return
        num_patches = self._choice.rows * self._choice.columns
        batch_size = max(1, min(batch_size, _MAX_BATCH_PATCHES // num_patches))
        pool = ThreadPoolExecutor(min(_MAX_THREADS, num_usable_cores(), len(images)), "decode")
        try:
            with closing(
                embed_in_batches(
                    (_Entry(image, row) for row, image in enumerate(images)),
                    lambda entry: pool.submit(self._prepare, entry),
                    self._compute,
                    batch_size=batch_size,
                    concurrency=self._concurrency,
                )
            ) as batches:
                yield from batches
        finally:
            pool.shutdown(cancel_futures=True)

    def _prepare(self, entry: _Entry) -> _Entry:
        name = f"image {entry.row}"
        if isinstance(entry.image, str | os.PathLike):
            name = os.fsdecode(entry.image)

        def choose_size(width: int, height: int) -> tuple[int, int]:
            entry.image_size = (width, height)
            entry.grid = self._choice.grid_for(width, height)
            return entry.grid[1] * self._patch_size, entry.grid[0] * self._patch_size

        entry.pixels = self._processor.resize_measured(
            entry.image, input_color_format=self._color_format, item=name, choose_size=choose_size
        ).pixels
        entry.image = b""  # frees what was read while the batch waits
        return entry

    def _compute(self, entries: list[_Entry]) -> list[PatchFeatures]:
        """Compute a batch, one call for each of its grids."""
        values: dict[int, NDArray[np.float32]] = {}
        for grid in dict.fromkeys(entry.grid for entry in entries):
            alike = [entry for entry in entries if entry.grid == grid]
            pixels = np.stack([entry.pixels for entry in alike if entry.pixels is not None])
            for entry, rows in zip(alike, self._encode(pixels), strict=True):
                values[entry.row] = rows
        return [PatchFeatures(values[entry.row], entry.grid, entry.image_size) for entry in entries]
