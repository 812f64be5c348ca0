"""Vectors that are made, not embedded, but lie in space about as an image model's do.

Every vector is a shared mean, a center (several thousand, of Zipf-like popularity) and noise of its
own; centers and noise have a power-law spectrum along common axes that are turned at random, so
that no coordinate is special. Two images of one center have a cosine of about 0.75, of two
centers about 0.35. A block of rows depends on the seed and its own number only: the first million
rows are the same whether one or two millions are made.

Queries come in two kinds, made the same way from other random numbers: images are further rows
of the same mixture; words lie in a narrow cone of their own, as words do in CLIP's space, and have
a cosine of about 0.25 with their images.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

BLOCK_ROWS = 16_384
NUM_CENTERS = 4_000
_MEAN, _CENTER, _NOISE = 0.35, 0.30, 0.35  # shares of a vector's squared length
_DECAY = 0.5  # of the spectrum: axis i has standard deviation (i + 1) ** -_DECAY
_IMAGES, _WORDS = 1 << 20, 1 << 21  # numbers of blocks that no row uses


class SyntheticVectors:
    """A mixture of a size that is known in advance.

    Args:
        embed_dim: E of the vectors.
        num_centers: how many centers the mixture has.
        seed: another seed is another mixture.
    """

    def __init__(
        self, embed_dim: int = 1024, num_centers: int = NUM_CENTERS, seed: int = 0
    ) -> None:
        random = np.random.default_rng(seed)
        self.embed_dim = embed_dim
        self._seed = seed
        spectrum = np.arange(1, embed_dim + 1, dtype=np.float64) ** -_DECAY
        self._spectrum = (spectrum / np.linalg.norm(spectrum)).astype(np.float32)
        turn = np.linalg.qr(random.standard_normal((embed_dim, embed_dim)))[0]
        self._turn = turn.astype(np.float32)
        self._mean = _unit(random.standard_normal((1, embed_dim)))[0]
        self._gap = _unit(random.standard_normal((1, embed_dim)))[0]
        self._centers = self._colored(random, num_centers)
        popularity = 1.0 / np.arange(5, num_centers + 5) ** 0.7
        self._popularity = popularity / popularity.sum()

    def blocks(self, num_rows: int) -> Iterator[Floats]:
        """Yield an index's rows, at most `BLOCK_ROWS` at a time, (R, E) float32, unit length."""
        for number in range(-(-num_rows // BLOCK_ROWS)):
            yield self._block(number)[: num_rows - number * BLOCK_ROWS]

    def rows(self, num_rows: int) -> Floats:
        """Return what `blocks` yields, in one piece."""
        made = np.empty((num_rows, self.embed_dim), np.float32)
        for number, block in enumerate(self.blocks(num_rows)):
            made[number * BLOCK_ROWS :][: len(block)] = block
        return made

    def image_queries(self, num_queries: int) -> Floats:
        """Return (Q, E) float32: rows that no index has."""
        return self._block(_IMAGES)[:num_queries]

    def word_queries(self, num_queries: int) -> Floats:
        """Return (Q, E) float32: a cone apart from the images, pointing at their centers."""
        random = self._random(_WORDS)
        centers = self._centers[random.choice(len(self._centers), num_queries, p=self._popularity)]
        noise = self._colored(random, num_queries)
        return _unit(0.80 * self._gap + 0.42 * centers + 0.43 * noise)

    def _block(self, number: int) -> Floats:
        random = self._random(number)
        chosen = random.choice(len(self._centers), BLOCK_ROWS, p=self._popularity)
        noise = self._colored(random, BLOCK_ROWS)
        return _unit(
            _MEAN**0.5 * self._mean + _CENTER**0.5 * self._centers[chosen] + _NOISE**0.5 * noise
        )

    def _random(self, block: int) -> np.random.Generator:
        return np.random.default_rng((self._seed, 1, block))

    def _colored(self, random: np.random.Generator, rows: int) -> Floats:
        """Return noise of unit length in the mean square, with the spectrum of the mixture."""
        white = random.standard_normal((rows, self.embed_dim), dtype=np.float32)
        return (white * self._spectrum) @ self._turn


def _unit(vectors: NDArray[np.floating]) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / lengths).astype(np.float32)
