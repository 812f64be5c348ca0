"""Puts places in the plane into the cells of a grid, one picture a cell, so that none is hidden.

Knows numbers only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.analysis.preference import Numbers

MAX_SIDE: Final = 48
_ROOM: Final = 1.7  # cells for each picture: some stay empty, and gaps between groups show
_FINEST: Final = 5000


@dataclass(frozen=True)
class Grid:
    """Which picture is in which cell.

    Attributes:
        columns: of the grid.
        rows: of the grid.
        shown: (S,) int64, the places that have a cell.
        cells: (S, 2) int64, of each the column and the row, row 0 at the top.
    """

    columns: int
    rows: int
    shown: Numbers
    cells: NDArray[np.int64]

    @property
    def cell(self) -> float:
        """Side of a cell, where the longer side of the grid is the length from -1 to 1."""
        return 2 / max(self.columns, self.rows, 1)

    @property
    def middles(self) -> NDArray[np.float32]:
        """(S, 2) float32: the cells' middles, x to the right and y upwards, the grid's at 0."""
        from_middle = (self.cells + 0.5 - np.array([self.columns, self.rows]) / 2) * self.cell
        return np.asarray(from_middle * [1, -1], np.float32)


def grid_of(places: NDArray[np.float32], max_side: int = MAX_SIDE) -> Grid:
    """Give each place a cell near it; where there are too many, some that stand for the others.

    Args:
        places: (C, 2) float32, x to the right and y upwards.
        max_side: the most columns or rows.
    """
    if not len(places):
        return Grid(0, 0, np.empty(0, np.int64), np.empty((0, 2), np.int64))
    low, high = places.min(axis=0), places.max(axis=0)
    width, height = (float(side) for side in np.maximum(high - low, 1e-9))
    stretch = math.sqrt(min(max(width / height, 0.5), 2.0))
    side = math.sqrt(len(places) * _ROOM) if len(places) > 1 else 1
    columns = min(max_side, max(1, math.ceil(side * stretch)))
    rows = min(max_side, max(1, math.ceil(side / stretch)))
    within = (places - low) / np.array([width, height])  # from 0 to 1
    within[:, 1] = 1 - within[:, 1]
    most = max(1, int(columns * rows / _ROOM))
    shown = np.arange(len(places)) if len(places) <= most else _spread_sample(within, most)
    cells = _nearest_free(within[shown] * [columns - 1, rows - 1], columns, rows)
    return Grid(columns, rows, shown, cells)


def _spread_sample(within: NDArray[np.float64], most: int) -> Numbers:
    """Choose places from all parts: those nearest to the middles of the cells of another grid.

    It is the finest of which no more than `most` cells have a place.
    """
    best: Numbers = np.zeros(1, np.int64)
    side = 1.0
    while True:
        scaled = within * math.ceil(side)
        cells = np.floor(scaled).astype(np.int64)
        distances = ((scaled - cells - 0.5) ** 2).sum(axis=1)
        order = np.lexsort((distances, cells[:, 0], cells[:, 1]))
        is_first = np.ones(len(order), np.bool_)
        is_first[1:] = (np.diff(cells[order], axis=0) != 0).any(axis=1)
        if is_first.sum() > most:
            return best
        best = np.sort(order[is_first])
        side *= 1.15
        if side > _FINEST:  # so many are at one place
            return best


def _nearest_free(wanted: NDArray[np.float64], columns: int, rows: int) -> NDArray[np.int64]:
    """Return cells of their own for all: those with the least sum of squared distances."""
    from scipy.optimize import linear_sum_assignment

    middles = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)
    costs = ((wanted[:, None, :] - middles) ** 2).sum(axis=-1)
    return np.asarray(middles[linear_sum_assignment(costs)[1]], np.int64)
