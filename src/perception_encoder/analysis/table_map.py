"""A map of a table: a place in the plane for each picture, alike ones near each other.

Knows nothing of files; `map_picture` and `map_page` draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.analysis.preference import Numbers, RankedPictures
from perception_encoder.analysis.projection import project
from perception_encoder.analysis.ranked_vectors import RankedVectors
from perception_encoder.index import Index

MAX_PICTURES: Final = 100_000
"""Of a larger table so many are placed, drawn by lot: more takes hours, and is not looked at."""


@dataclass(frozen=True)
class TableMap:
    """Where pictures are.

    Attributes:
        numbers: (C,) int64 ascending, the numbers of the pictures that have a place.
        places: (C, 2) float32, x to the right and y upwards, from -1 to 1.
    """

    numbers: Numbers
    places: NDArray[np.float32]


def map_table(
    index: Index, pictures: RankedPictures, *, where: str | None = None, seed: int = 0
) -> TableMap:
    """Give each picture a place, in any case the same for the same table and seed.

    Args:
        index: the table.
        pictures: of it.
        where: the condition that `pictures` was made with.
        seed: for what is drawn by lot.

    Raises:
        BackendUnavailableError: the extra `map` is not installed.
    """
    numbers = np.arange(len(pictures))
    if len(pictures) > MAX_PICTURES:
        drawn = np.random.default_rng(seed).choice(len(pictures), MAX_PICTURES, replace=False)
        numbers = np.sort(drawn)
    vectors = RankedVectors(index, pictures, where)
    return TableMap(numbers, project(vectors, numbers, seed=seed))
