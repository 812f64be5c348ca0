"""The null distribution of an index: the cosines that unrelated queries reach in it.

The queries are prompts for things that almost no collection has, and images of the index. The result
is small and stored inside the index's folder. It is a cache, which may be deleted at any time.
"""

import hashlib
import struct
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from perception_encoder.atomic import atomic_write
from perception_encoder.index import Index
from perception_encoder.index.schema import VECTOR, vectors_of
from perception_encoder.index.storage import is_remote, sidecar_path
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    from perception_encoder.embedder import EmbeddingModel

SAME: Final = 0.95
"""The cosine from which on two images count as near-duplicates, where nothing else is said."""

NUM_QUERIES: Final = 200  # of the background, prompts and images each
_MAX_SAMPLE: Final = 4096  # rows
_NUM_NEIGHBORS: Final = 32  # looked at, in the hope that not all are near-duplicates
# What numpy and zipfile raise for damaged files; RuntimeError where a flag says encrypted.
_UNREADABLE: Final = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    OverflowError,
    RuntimeError,
    struct.error,
    BadZipFile,
)
_KEPT_SHARE: Final = 0.1  # of the rows may change before the background counts as outdated


@dataclass(frozen=True, slots=True)
class NullDistribution:
    """The background of one index.

    Attributes:
        num_rows: of the index when this was computed.
        sample: (R, E) float16, rows at equal distances in the index, unit length.
        images: (NUM_QUERIES or fewer,) int64: which rows of the sample were searched for.
        image_scores: as many float32: the cosine of each one's nearest neighbor in the index
            that is no near-duplicate of it.
        prompts: (NUM_QUERIES, E) float32, unit length; None where no model has embedded them yet.
        prompt_scores: (NUM_QUERIES,) float32: the cosine of each prompt's best hit; None likewise.
    """

    num_rows: int
    sample: NDArray[np.float16]
    images: NDArray[np.int64]
    image_scores: NDArray[np.float32]
    prompts: Embeddings | None = None
    prompt_scores: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, index: Index, prompts: Embeddings | None) -> Self:
        """Search the index for the background's queries.

        Args:
            index: the index.
            prompts: from `embed_prompts`; None leaves the prompts out.
        """
        num_rows = index.count()
        sample = _sample(index, num_rows)
        images = np.unique(np.linspace(0, len(sample) - 1, NUM_QUERIES).astype(np.int64))
        images = images if len(sample) else images[:0]
        neighbors = index.search(_unit(sample[images]), k=_NUM_NEIGHBORS)
        others = [[hit.score for hit in hits if hit.score < SAME] for hits in neighbors]
        scores = np.array([max(found, default=SAME) for found in others], np.float32)
        if prompts is None:
            return cls(num_rows, sample, images, scores)
        best = [hits[0].score if hits else -1.0 for hits in index.search(prompts, k=1)]
        return cls(num_rows, sample, images, scores, prompts, np.array(best, np.float32))


def embed_prompts(model: "EmbeddingModel") -> Embeddings:
    """Embed the prompts of the background: (NUM_QUERIES, E) float32."""
    return model.embed_text(read_prompts(), show_progress=False)


def load_prompts(model: "EmbeddingModel", index: Index | None = None) -> Embeddings:
    """Return the embedded prompts: those that are kept beside an index, or new ones."""
    background = load_null_distribution(index) if index is not None else None
    if background is not None and background.prompts is not None:
        return background.prompts
    return embed_prompts(model)


def load_null_distribution(index: Index) -> NullDistribution | None:
    """Return the background that is kept beside the index, if it is still good."""
    if is_remote(index.path):
        return None
    try:
        with _path(index).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if str(stored["made_for"]) != _made_for(index):
                return None
            fields = {name: stored[name] for name in stored.files if name != "made_for"}
            return NullDistribution(int(fields.pop("num_rows")), **fields)
    except _UNREADABLE:  # none yet, or a torn copy
        return None


def store_null_distribution(index: Index, background: NullDistribution) -> None:
    """Keep the background beside the index; where that cannot be written, nothing happens."""
    if is_remote(index.path):
        return
    path = _path(index)
    fields = {
        name: value
        for name in NullDistribution.__slots__
        if (value := getattr(background, name)) is not None
    }
    with suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez(file, made_for=_made_for(index), **fields)


def is_outdated(background: NullDistribution, num_rows: int, *, num_changed: int = 0) -> bool:
    """Whether so much of the index has changed that another background is needed.

    Args:
        background: computed earlier.
        num_rows: of the index now.
        num_changed: how many rows are known to have been added or replaced since.
    """
    changed = max(abs(num_rows - background.num_rows), num_changed)
    return changed > _KEPT_SHARE * background.num_rows


def _sample(index: Index, num_rows: int) -> NDArray[np.float16]:
    """Read rows at equal distances, without holding more of the index than a block."""
    count = min(num_rows, _MAX_SAMPLE)
    places = np.linspace(0, num_rows - 1, count).astype(np.int64) if count else np.empty(0, int)
    parts = [np.empty((0, index.identity.embed_dim), np.float16)]
    start = 0
    for batch in index.scan([VECTOR]):
        wanted = places[(places >= start) & (places < start + batch.num_rows)] - start
        parts.append(vectors_of(batch)[wanted].astype(np.float16))
        start += batch.num_rows
    return np.concatenate(parts)


def _unit(vectors: NDArray[np.float16]) -> Embeddings:
    rows = vectors.astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Embeddings = (rows / np.maximum(lengths, 1e-6)).astype(np.float32)
    return unit


@cache
def read_prompts() -> list[str]:
    """Return prompts for what next to no collection has."""
    path = files("perception_encoder").joinpath("data/background_prompts.txt")
    return path.read_text(encoding="utf-8").splitlines()


def _made_for(index: Index) -> str:
    """Name what decides the background's numbers, besides the rows."""
    prompts = hashlib.sha256("\n".join(read_prompts()).encode()).hexdigest()[:16]
    identity = index.identity
    return f"1 {identity.model_id} {identity.fingerprint} {identity.preprocess} {prompts}"


def _path(index: Index) -> Path:
    return Path(sidecar_path(index.path, "background.npz"))
