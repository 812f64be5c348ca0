"""Indexes for tests of duplicates: images on disk, or vectors of images that nobody has."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from perception_encoder.index import Index, Row
from perception_encoder.index.schema import VectorDtype
from perception_encoder.types import Embeddings, ModelIdentity


def index_of(
    folder: Path,
    rows: Sequence[Row],
    vectors: NDArray[np.floating],
    *,
    vector_dtype: VectorDtype = "float32",
) -> Index:
    """An index, of float32 unless told otherwise, so that scores are as the test made them."""
    identity = ModelIdentity("pe-nano", "0123456789abcdef", "standard", vectors.shape[1])
    index = Index.create(folder / "index", identity, vector_dtype=vector_dtype)
    index.append(rows, np.asarray(vectors, np.float32))
    return index


def row_of(path: Path) -> Row:
    """What indexing would know of a file."""
    status = path.stat()
    with Image.open(path) as image:
        width, height = image.size
    return Row(
        uri=str(path),
        width=width,
        height=height,
        bytes=status.st_size,
        mtime=status.st_mtime_ns,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def read(row: Row) -> bytes:
    return Path(row.uri).read_bytes()


def refuse(row: Row) -> bytes:
    raise AssertionError(f"{row.uri} was read")


def remote_rows(count: int) -> list[Row]:
    """Images whose files nobody looks at, each of its own content and size."""
    return [
        Row(uri=f"s3://b/{n:06}.jpg", width=count - n, height=1, bytes=1, sha256=f"{n:032x}" * 2)
        for n in range(count)
    ]


def unit(vectors: NDArray[np.floating]) -> Embeddings:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / lengths, np.float32)


def around(count: int, embed_dim: int, spread: float, seed: int = 0) -> Embeddings:
    """Unit vectors scattered about one direction."""
    noise = np.random.default_rng(seed).standard_normal((count, embed_dim)) * spread
    noise[:, 0] += 1
    return unit(noise)
