"""Names clusters by the words that set each of them apart from the others.

Plain cosines of words with a centre would give every cluster the same names: what all pictures of a
table have in common outweighs how they differ, some words are near to everything, and pictures and
words lie in different parts of the space (Liang et al. 2022, "Mind the gap"). So the mean of all
centres is taken from each centre, and the mean of all words from each word; what is left is how a
cluster differs from the others, and a word from other words. Knows arrays and strings only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from perception_encoder.types import Embeddings

NUM_WORDS: Final = 3
_TINY: Final = 1e-6


@dataclass(frozen=True)
class ClusterName:
    """What a cluster may be called.

    Attributes:
        text: its best word, and further ones as far as other clusters share it: "cat, kitten".
        words: the best `NUM_WORDS`, the best first.
        scores: of each, from -1 to 1, how much the word's difference from other words is the
            cluster's from other clusters.
    """

    text: str
    words: tuple[str, ...]
    scores: tuple[float, ...]


def name_clusters(
    centres: Embeddings, words: Sequence[str], word_vectors: Embeddings
) -> list[ClusterName]:
    """Name each cluster.

    Args:
        centres: (K, E) float32, unit length.
        words: W of them, at least one.
        word_vectors: (W, E) float32, unit length, the words as the table's model embeds them.
    """
    scores = _contrast(centres) @ _contrast(word_vectors).T  # (K, W)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :NUM_WORDS]
    chosen = [tuple(words[place] for place in row) for row in best.tolist()]
    return [
        ClusterName(
            text=_shortest(own, chosen),
            words=own,
            scores=tuple(round(float(score), 4) for score in scores[number, best[number]]),
        )
        for number, own in enumerate(chosen)
    ]


def _contrast(vectors: Embeddings) -> Embeddings:
    """Return the directions in which vectors differ from their mean; as they are if none does."""
    differences = vectors - vectors.mean(axis=0)
    lengths = np.linalg.norm(differences, axis=1, keepdims=True)
    if not (lengths > _TINY).any():
        return vectors
    return np.asarray(differences / np.maximum(lengths, _TINY), np.float32)


def _shortest(own: tuple[str, ...], chosen: Sequence[tuple[str, ...]]) -> str:
    """Return as many of a cluster's words as it takes until no other's begin so."""
    for length in range(1, len(own)):
        if sum(other[:length] == own[:length] for other in chosen) == 1:
            return ", ".join(own[:length])
    return ", ".join(own)
