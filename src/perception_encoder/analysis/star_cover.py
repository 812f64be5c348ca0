"""Groups around a picture to keep: each member is near that picture itself, not just its neighbour.

Joining whatever is near to something in a group would chain: a sunset's pictures, each near the
next, would end in one group whose ends have nothing in common. Here, in order of preference, each
picture joins the nearest of those kept so far, or is kept itself. So a kept picture stands for all
of its group, and no two kept ones are near each other. Knows numbers only.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception_encoder.analysis.checkpoint import Checkpoint, go_on
from perception_encoder.analysis.preference import Numbers

_BLOCK: Final = 65_536  # pairs


class Cover(NamedTuple):
    """For each of R numbers, (R,) int64 the kept one it belongs to, and (R,) float32 its score."""

    kept: Numbers
    scores: NDArray[np.float32]


def star_cover(
    first: Numbers,
    second: Numbers,
    scores: NDArray[np.float32],
    num_items: int,
    checkpoint: Checkpoint = go_on,
) -> Cover:
    """Choose what is kept.

    Args:
        first: (P,) int64, one end of each pair; pairs may repeat or join an item to itself.
        second: (P,) int64, the other end.
        scores: (P,) float32.
        num_items: how many items there are; a smaller number is preferred.
        checkpoint: is called between blocks of pairs.

    Returns:
        The cover; an item that is kept belongs to itself, with score 1.
    """
    kept = np.arange(num_items)
    best = np.ones(num_items, np.float32)
    earlier, later = np.minimum(first, second), np.maximum(first, second)
    proper = earlier != later
    earlier, later, scores = earlier[proper], later[proper], scores[proper]
    order = np.lexsort((earlier, -scores, later))  # of each item the best pair first
    for number, place in enumerate(order.tolist()):
        if number % _BLOCK == 0:
            checkpoint()
        item, partner = later[place], earlier[place]
        if kept[item] == item and kept[partner] == partner:
            kept[item] = partner
            best[item] = scores[place]
    return Cover(kept, best)
