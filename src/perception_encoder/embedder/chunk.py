"""What a feed hands to a model: some inputs to compute, and some vectors that are known."""

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

InputT = TypeVar("InputT")


@dataclass(frozen=True, slots=True)
class Chunk(Generic[InputT]):
    """A part of the caller's pictures or texts.

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
