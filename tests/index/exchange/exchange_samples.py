"""An index with everything that an index may hold, and what is compared after a round trip."""

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception_encoder.index import Index, Row, VectorDtype
from perception_encoder.types import ModelIdentity

IDENTITY = ModelIdentity("pe-nano", "0123456789abcdef", "reference", 6)


def unit(count: int, embed_dim: int = 6, seed: int = 0) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((count, embed_dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def odd_rows(count: int) -> list[Row]:
    """Rows with all facts or none, in archives or not, with metadata of every type or none."""
    rows = []
    for number in range(count):
        row = Row(uri=f"/p/{number} – ‘ü\U0001f600’.jpg")
        if number % 3 == 1:
            row = Row(
                uri="s3://b/all.tar",
                member=f"{number}/x.png",
                offset=512 * number,
                width=640,
                height=480,
                bytes=2**40 + number,
                mtime=1_700_000_000_123_456_789 + number,
                sha256=f"{number:032x}" * 2,
            )
        if number % 2:
            values = {"text": 'a\n"b"\t,', "whole": -(2**53) - number, "part": 0.1 * number}
            row = dataclasses.replace(row, metadata={**values, "yes": number % 4 == 1})
        rows.append(row)
    return rows


def make_index(
    path: Path, count: int = 20, *, dtype: VectorDtype = "float16", seed: int = 0
) -> Index:
    index = Index.create(path, IDENTITY, vector_dtype=dtype)
    index.append(odd_rows(count), unit(count, seed=seed))
    return index


def contents(index: Index) -> list[tuple[Row, bytes]]:
    """Rows and the very bytes of their vectors, by key."""
    pairs = zip(index.rows(), index.vectors(), strict=True)
    return sorted(((row, vector.tobytes()) for row, vector in pairs), key=lambda p: p[0].id)
