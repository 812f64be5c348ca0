"""Centres of groups of unit vectors: k-means on the sphere, begun at what joining groups found.

Equal vectors in equal order give equal centres. Knows arrays only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.analysis.merging import joined_labels, merges
from perception_encoder.analysis.preference import Numbers
from perception_encoder.analysis.silhouette import best_number, group_sums
from perception_encoder.types import Embeddings

MAX_CHOSEN: Final = 100
"""The largest number of groups that is chosen: longer lists are not looked through. Of R vectors it
is at most √R, rounded up: with more, there would be more groups than pictures in each."""

_SMALL_GROUPS: Final = 256
_MAX_JOINED: Final = 1024  # groups to join; what it takes grows with the third power
_ROUNDS: Final = 20
_SEED: Final = 0


@dataclass(frozen=True)
class Centres:
    """What was found.

    Attributes:
        vectors: (K, E) float32, unit length.
        silhouette: the mean of the pictures' silhouettes, where K was chosen by it; else None.
    """

    vectors: Embeddings
    silhouette: float | None


def find_centres(vectors: Embeddings, num_groups: int | None) -> Centres:
    """Divide vectors into groups.

    Args:
        vectors: (R, E) float32, unit length, R at least 1.
        num_groups: how many; None for the number that sets them apart best (`silhouette`), at most
            √R and `MAX_CHOSEN`.
    """
    wanted = MAX_CHOSEN if num_groups is None else min(num_groups, len(vectors))
    num_small = max(_SMALL_GROUPS, 2 * wanted)
    if num_small > _MAX_JOINED:
        return Centres(_trained(vectors, wanted), None)
    labels = _small_groups(vectors, num_small)
    num_small = int(labels.max()) + 1
    steps = list(merges(group_sums(vectors, labels, num_small)))
    silhouette = None
    if num_groups is None:
        most = min(MAX_CHOSEN, math.ceil(math.sqrt(len(vectors))))
        wanted, silhouette = best_number(vectors, labels, steps, most)
    labels = joined_labels(labels, steps[: max(0, num_small - wanted)])
    begun = group_sums(vectors, labels, int(labels.max()) + 1)
    return Centres(_trained(vectors, len(begun), _unit(begun)), silhouette)


def nearest_centre(vectors: Embeddings, centres: Embeddings) -> tuple[Numbers, NDArray[np.float32]]:
    """Return (R,) int64 the nearest of the centres, the first of equals, and (R,) the cosines."""
    import faiss

    index = faiss.IndexFlatIP(centres.shape[1])
    index.add(centres)
    scores, labels = index.search(vectors, 1)
    return labels[:, 0], np.clip(scores[:, 0], -1, 1)


def _small_groups(vectors: Embeddings, most: int) -> Numbers:
    """Return (R,) int64 labels from 0 on, each of which some vector has."""
    if len(vectors) <= most:
        return np.arange(len(vectors))
    labels, _ = nearest_centre(vectors, _trained(vectors, most))
    found: Numbers = np.unique(labels, return_inverse=True)[1]
    return found


def _trained(vectors: Embeddings, number: int, begun: Embeddings | None = None) -> Embeddings:
    import faiss

    kmeans = faiss.Kmeans(
        vectors.shape[1],
        number,
        niter=_ROUNDS,
        spherical=True,
        seed=_SEED,
        min_points_per_centroid=1,
        max_points_per_centroid=len(vectors),  # of all that were given
    )
    kmeans.train(vectors, init_centroids=begun)
    return np.asarray(kmeans.centroids, np.float32)


def _unit(sums: Embeddings) -> Embeddings:
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.ascontiguousarray(sums / np.maximum(lengths, np.finfo(np.float32).tiny))
