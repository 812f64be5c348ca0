"""Indexes of made vectors, and what search must answer in them by definition."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception_encoder.index import Hit, Index, Row, VectorDtype
from perception_encoder.index.optimize import OptimizeReport, optimize_index
from perception_encoder.index.searcher.build import SearcherSizes
from perception_encoder.types import ModelIdentity

Floats = NDArray[np.float32]

COPY = SearcherSizes(copy=1, lists=1 << 40)
LISTS = SearcherSizes(copy=1, lists=1)


def clustered(num_rows: int, embed_dim: int, seed: int = 0) -> Floats:
    """Unit vectors around 40 centers."""
    random = np.random.default_rng(seed)
    centers = np.random.default_rng(77).standard_normal((40, embed_dim))
    vectors = centers[random.integers(0, 40, num_rows)]
    vectors = vectors + 0.7 * random.standard_normal(vectors.shape)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / lengths).astype(np.float32)


def rows_named(names: Sequence[str]) -> list[Row]:
    """Rows with a number and its parity to filter by."""
    return [
        Row(uri=name, width=number + 1, metadata={"half": "odd" if number % 2 else "even"})
        for number, name in enumerate(names)
    ]


def make_index(
    path: Path, vectors: Floats, *, fragments: int = 3, vector_dtype: VectorDtype = "float16"
) -> Index:
    """An index in several fragments, row by row `p00000`, `p00001`, …."""
    identity = ModelIdentity("pe-nano", "0123456789abcdef", "standard", vectors.shape[1])
    index = Index.create(path, identity, vector_dtype=vector_dtype)
    rows = rows_named([f"p{number:05}" for number in range(len(vectors))])
    for part in np.array_split(np.arange(len(vectors)), fragments):
        index.append([rows[number] for number in part], vectors[part])
    return index


def build(index: Index, sizes: SearcherSizes) -> OptimizeReport:
    done = optimize_index(index.path, None, sizes=sizes)
    index.refresh()
    return done


def by_definition(
    index: Index,
    query: Floats,
    k: int,
    *,
    where: str | None = None,
    threshold: float | None = None,
) -> list[tuple[str, float]]:
    """Uri and score of the best, from the index's vectors and nothing else."""
    stored = index.vectors(where=where).astype(np.float64)
    scores = np.clip((stored * query.astype(np.float64)).sum(axis=1), -1, 1)
    found = zip(scores.tolist(), (row.uri for row in index.rows(where=where)), strict=True)
    best = sorted((-score, uri) for score, uri in found)
    return [(uri, -s) for s, uri in best if threshold is None or -s >= threshold][:k]


def told(hits: list[Hit]) -> list[tuple[str, float]]:
    return [(hit.uri, hit.score) for hit in hits]
