"""A cache of embeddings by content: the same bytes or texts are never computed twice.

It is one SQLite file, safe for several threads and processes. A key covers everything that an
embedding depends on (weights, precision, preprocessing, content), so models can share a file.
"""

import hashlib
import os
import sqlite3
import threading
import weakref
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.errors import CacheError
from perception_encoder.forking import renew_in_children

_SCHEMA: Final = "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL)"
_DROP_OLDEST: Final = (
    "DELETE FROM vectors WHERE rowid <= (SELECT max(rowid) FROM vectors) - CAST(? AS INTEGER)"
)
_KEYS_PER_QUERY: Final = 500  # SQLite allows 999 parameters at least
_BUSY_SECONDS: Final = 60
_CHECKSUM_BYTES: Final = 4


class EmbeddingCache:
    """Embeddings by key in a SQLite file."""

    def __init__(
        self, path: str | os.PathLike[str], namespace: str, *, max_rows: int | None = None
    ) -> None:
        """Open or create the cache.

        Args:
            path: the file; its folder is created if needed.
            namespace: what else an embedding depends on: weights, precision, preprocessing.
            max_rows: of the whole file; those that were stored first are dropped. None: no limit.

        Raises:
            CacheError: the path is not a cache, or cannot be written.
        """
        self.path = Path(path).expanduser()
        self._namespace = namespace
        self._max_rows = max_rows
        self._lock = threading.Lock()
        try:
            self._database = _connect(self.path)
        except (sqlite3.Error, OSError) as err:
            raise CacheError(
                f"cannot use {self.path} as an embedding cache: {err}. "
                "Give another path, or delete the file to start anew."
            ) from err
        # Closes the file of a model that is dropped without `close`.
        self._closing = weakref.finalize(self, self._database.close)
        self._left_behind: list[object] = []
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        """Open the file again: a SQLite connection belongs to one process, closing included."""
        self._closing.detach()
        self._left_behind.append(self._database)
        self._lock = threading.Lock()
        try:
            self._database = _connect(self.path)
        except (sqlite3.Error, OSError):  # reported by the first use
            self._database = sqlite3.connect(":memory:")
            self._database.close()
        self._closing = weakref.finalize(self, self._database.close)

    def key(self, kind: str, content: bytes) -> bytes:
        """Return the key of some content; `kind` separates images from texts."""
        head = f"{self._namespace}\0{kind}\0".encode()
        return hashlib.sha256(head + content).digest()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """Return the cached embeddings, by key."""
        found: dict[bytes, NDArray[np.float32]] = {}
        wanted = list(dict.fromkeys(keys))
        for start in range(0, len(wanted), _KEYS_PER_QUERY):
            part = wanted[start : start + _KEYS_PER_QUERY]
            marks = ",".join("?" * len(part))
            query = f"SELECT key, vector FROM vectors WHERE key IN ({marks})"
            for key, stored in self._run(query, part):
                vector = _checked(key, stored)
                if vector is not None:
                    found[key] = vector
        return found

    def put(self, keys: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
        """Store embeddings (B, E) under their keys, all or none."""
        rows = [(key, _stored(key, vector)) for key, vector in zip(keys, vectors, strict=True)]
        with self._lock:
            try:
                self._database.execute("BEGIN IMMEDIATE")
                self._database.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)
                if self._max_rows is not None:  # SQLite gives each new row a higher rowid
                    self._database.execute(_DROP_OLDEST, (self._max_rows,))
                self._database.execute("COMMIT")
            except sqlite3.Error as err:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise CacheError(f"cannot write to the cache {self.path}: {err}") from err

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _run(self, query: str, parameters: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        with self._lock:
            try:
                return self._database.execute(query, parameters).fetchall()
            except sqlite3.Error as err:
                raise CacheError(f"cannot read the cache {self.path}: {err}") from err


def _stored(key: bytes, vector: NDArray[np.float32]) -> bytes:
    """Return an embedding's bytes with a checksum; SQLite does not detect damaged values."""
    data = np.ascontiguousarray(vector, dtype="<f4").tobytes()
    return data + zlib.crc32(key + data).to_bytes(_CHECKSUM_BYTES, "little")


def _checked(key: bytes, stored: bytes) -> NDArray[np.float32] | None:
    """Return the embedding; None if its bytes are damaged, so that it is computed again."""
    data, told = stored[:-_CHECKSUM_BYTES], stored[-_CHECKSUM_BYTES:]
    if zlib.crc32(key + data).to_bytes(_CHECKSUM_BYTES, "little") != told:
        return None
    return np.frombuffer(data, dtype="<f4").astype(np.float32)


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(
        path, timeout=_BUSY_SECONDS, check_same_thread=False, isolation_level=None
    )
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(_SCHEMA)
    except sqlite3.Error:
        database.close()
        raise
    return database
