"""The null distribution of an index: the cosines that unrelated queries reach in it.

The queries are prompts for things that almost no collection has, and images of the index. The
result is small and stored inside the index's folder. It is a cache: it may be deleted at any time.

In a bucket it is a Lance dataset of one row. Only programs that write to the index compute it
there, and readers ask from time to time whether there is a new one.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import logging
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, NamedTuple, Self
from weakref import WeakKeyDictionary
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from perception_encoder.atomic import atomic_write
from perception_encoder.errors import IndexNotFoundError, IndexStorageError
from perception_encoder.index import Index
from perception_encoder.index.schema import VECTOR, vectors_of
from perception_encoder.index.storage import (
    is_remote,
    open_dataset,
    sidecar_path,
    storage_errors,
)
from perception_encoder.search.folding import fold_tiles
from perception_encoder.types import Embeddings
from perception_encoder.vectors import normalize_rows

if TYPE_CHECKING:
    from perception_encoder.embedder import EmbeddingModel

logger = logging.getLogger(__name__)

SAME: Final = 0.95
"""The default cosine from which two images count as near-duplicates."""

NUM_QUERIES: Final = 200  # prompts, and images
_MAX_SAMPLE: Final = 4096  # rows
_MAX_REMOTE_SAMPLE: Final = 1024  # each is a request, and every reader reads them all
_ASK_AGAIN: Final = 60.0  # seconds between two looks into a bucket
_READERS_NEED: Final = datetime.timedelta(days=1)  # a version that may still be read
_NUM_NEIGHBORS: Final = 32  # of each image; some are near-duplicates, which do not count
_KEPT_SHARE: Final = 0.1  # of the rows that may change before the distribution is outdated
# What numpy and zipfile raise for damaged files; RuntimeError if a flag says encrypted.
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


@dataclass(frozen=True, slots=True)
class NullDistribution:
    """The null distribution of one index.

    Attributes:
        num_rows: number of rows of the index when this was computed.
        sample: (R, E) float16, unit length, evenly spaced rows of the index.
        images: (I,) int64, the rows of the sample that were searched for, up to NUM_QUERIES.
        image_scores: (I,) float32, the cosine of each image's nearest neighbor in the index that is
            no near-duplicate.
        prompts: (NUM_QUERIES, E) float32, unit length; None if they have not been embedded yet.
        prompt_scores: (NUM_QUERIES,) float32, the cosine of each prompt's best hit; None likewise.
    """

    num_rows: int
    sample: NDArray[np.float16]
    images: NDArray[np.int64]
    image_scores: NDArray[np.float32]
    prompts: Embeddings | None = None
    prompt_scores: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, index: Index, prompts: Embeddings | None) -> Self:
        """Search the index for prompts and for images of its own.

        Args:
            index: the index.
            prompts: from `embed_prompts`; None leaves prompts out.
        """
        num_rows = index.count()
        sample = _sample(index, num_rows)
        images = np.unique(np.linspace(0, len(sample) - 1, NUM_QUERIES).astype(np.int64))
        images = images if len(sample) else images[:0]
        depth = _NUM_NEIGHBORS * (1 + (index.tiles.count if index.tiles is not None else 0))
        neighbors = index.search(normalize_rows(sample[images].astype(np.float32)), k=depth)
        others = [[hit.score for hit in fold_tiles(hits) if hit.score < SAME] for hits in neighbors]
        scores = np.array([max(found, default=SAME) for found in others], np.float32)
        if prompts is None:
            return cls(num_rows, sample, images, scores)
        best = [hits[0].score if hits else -1.0 for hits in index.search(prompts, k=1)]
        return cls(num_rows, sample, images, scores, prompts, np.array(best, np.float32))


def embed_prompts(model: EmbeddingModel) -> Embeddings:
    """Return (NUM_QUERIES, E) float32: the embeddings of the prompts."""
    return model.embed_text(read_prompts(), show_progress=False)


def load_prompts(model: EmbeddingModel, index: Index | None = None) -> Embeddings:
    """Return the embeddings of the prompts: those stored in an index, or new ones."""
    null = load_null_distribution(index) if index is not None else None
    if null is not None and null.prompts is not None:
        return null.prompts
    return embed_prompts(model)


def load_null_distribution(index: Index) -> NullDistribution | None:
    """Return the stored null distribution of an index, if its model and prompts are the same."""
    if is_remote(index.path):
        return _load_remote(index)
    try:
        with _path(index).open("rb") as file:
            return _read(index, file)
    except OSError:  # none yet
        return None


def store_null_distribution(index: Index, null: NullDistribution) -> None:
    """Store the null distribution of an index; if its folder cannot be written, do nothing."""
    if is_remote(index.path):
        _store_remote(index, null)
        return
    path = _path(index)
    with suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            _write(index, null, file)


def _read(index: Index, file: IO[bytes]) -> NullDistribution | None:
    try:
        with np.load(file, allow_pickle=False) as stored:
            if str(stored["made_for"]) != _made_for(index):
                return None
            fields = {name: stored[name] for name in stored.files if name != "made_for"}
            return NullDistribution(int(fields.pop("num_rows")), **fields)
    except _UNREADABLE:  # a damaged file
        return None


def _write(index: Index, null: NullDistribution, file: IO[bytes]) -> None:
    fields = {
        name: value
        for name in NullDistribution.__slots__
        if (value := getattr(null, name)) is not None
    }
    np.savez(file, made_for=_made_for(index), **fields)


class _Loaded(NamedTuple):
    """What was found in a bucket: when, in which version of it, for which rows."""

    at: float
    version: int
    state: tuple[int, str]
    null: NullDistribution | None


_loaded: WeakKeyDictionary[Index, _Loaded] = WeakKeyDictionary()
_loading = threading.Lock()


def _load_remote(index: Index) -> NullDistribution | None:
    with _loading:
        known, now = _loaded.get(index), time.monotonic()
        if known is not None and known.state == index.state and now - known.at < _ASK_AGAIN:
            return known.null
        version, null = -1, None
        try:
            dataset = open_dataset(_uri(index))
            version = int(dataset.version)
            if known is not None and known.version == version:
                null = known.null
            else:
                with storage_errors(dataset.uri):
                    data = dataset.to_table(columns=["npz"])["npz"][0].as_py()
                null = _read(index, io.BytesIO(data))
        except IndexNotFoundError:
            pass
        except IndexStorageError as err:
            logger.warning("hits have no new labels: %s", err)
            null = None if known is None else known.null
        _loaded[index] = _Loaded(now, version, index.state, null)
        return null


def _store_remote(index: Index, null: NullDistribution) -> None:
    import lance
    import pyarrow as pa

    file = io.BytesIO()
    _write(index, null, file)
    table = pa.table({"npz": pa.array([file.getvalue()], pa.large_binary())})
    try:
        with storage_errors(_uri(index)):
            dataset = lance.write_dataset(table, _uri(index), mode="overwrite")
            dataset.cleanup_old_versions(older_than=_READERS_NEED)
    except IndexStorageError as err:
        logger.warning("labels of hits are not stored: %s", err)
    with _loading:
        _loaded[index] = _Loaded(time.monotonic(), -1, index.state, null)


def is_outdated(null: NullDistribution, num_rows: int, *, num_changed: int = 0) -> bool:
    """Whether so many rows have changed that the null distribution has to be computed anew.

    Args:
        null: the stored null distribution.
        num_rows: number of rows of the index now.
        num_changed: number of rows that were added or replaced since.
    """
    changed = max(abs(num_rows - null.num_rows), num_changed)
    return changed > _KEPT_SHARE * null.num_rows


def _sample(index: Index, num_rows: int) -> NDArray[np.float16]:
    """Read evenly spaced rows, block by block."""
    count = min(num_rows, _MAX_REMOTE_SAMPLE if is_remote(index.path) else _MAX_SAMPLE)
    places = np.linspace(0, num_rows - 1, count).astype(np.int64) if count else np.empty(0, int)
    parts = [np.empty((0, index.identity.embed_dim), np.float16)]
    start = 0
    for batch in index.scan([VECTOR]):
        wanted = places[(places >= start) & (places < start + batch.num_rows)] - start
        parts.append(vectors_of(batch)[wanted].astype(np.float16))
        start += batch.num_rows
    return np.concatenate(parts)


@cache
def read_prompts() -> list[str]:
    """Return prompts for things that almost no collection has."""
    path = files("perception_encoder").joinpath("data/unrelated_prompts.txt")
    return path.read_text(encoding="utf-8").splitlines()


def _made_for(index: Index) -> str:
    """Return what the null distribution depends on, besides the rows."""
    prompts = hashlib.sha256("\n".join(read_prompts()).encode()).hexdigest()[:16]
    identity = index.identity
    return f"1 {identity.model_id} {identity.fingerprint} {identity.preprocess} {prompts}"


def _uri(index: Index) -> str:
    return sidecar_path(index.path, "background.lance")


def _path(index: Index) -> Path:
    return Path(sidecar_path(index.path, "background.npz"))
