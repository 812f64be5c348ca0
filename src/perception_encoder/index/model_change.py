"""Gives an index the vectors of another model, in one commit.

The new vectors are computed into an index of their own, beside the others in `_pe/`. Once it has
all of them, the rows are written again with these vectors and the new model in the schema. That is
one version of the dataset: readers see all of the old rows or all of the new ones, on object
storage too, and the version before stays until `optimize` drops it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.errors import IndexBusyError, IndexNotFoundError, IndexStorageError
from perception_encoder.index.commits import journaled_commit, open_latest
from perception_encoder.index.full_text import create_full_text, update_full_text
from perception_encoder.index.index import Index
from perception_encoder.index.known_rows import DigestMap, digests_of, digests_of_column
from perception_encoder.index.schema import TEXT, VECTOR, with_model
from perception_encoder.index.storage import is_remote, sidecar_path, storage_errors
from perception_encoder.index.tiles import TILE_OF
from perception_encoder.types import ModelIdentity

if TYPE_CHECKING:
    import lance
    import pyarrow as pa

_FOLDER: Final = "reembed.lance"
_BLOCK_BYTES: Final = 16 << 20  # of float32 vectors in one block
_ID_ROWS: Final = 16384
_ROW_BYTES: Final = 200  # of a staged row, without its vector
_OF_CONTENT: Final = ("width", "height", "sha256")
"""Columns that say which content the vector is of: they change with it."""


def staging_path(path: str) -> str:
    """Return where the vectors of another model are collected for an index."""
    return sidecar_path(path, _FOLDER)


def find_staged(path: str) -> Index | None:
    """Return what an interrupted change of the model has computed so far; None if nothing.

    Raises:
        IndexStorageError: it cannot be read.
    """
    try:
        return Index.open(staging_path(path))
    except IndexNotFoundError:
        return None


def drop_staged(path: str) -> None:
    """Delete what was collected.

    Raises:
        IndexStorageError: it cannot be deleted.
    """
    import lance

    staging = staging_path(path)
    with storage_errors(staging):
        if is_remote(staging):
            lance.LanceDataset.drop(staging, ignore_not_found=True)
            return
        # Renamed first: of a folder that is half deleted, it would be unclear what it holds.
        deleted = f"{staging}.deleted"
        for _ in range(2):
            if os.path.isdir(deleted):
                shutil.rmtree(deleted)
            if os.path.isdir(staging):
                os.rename(staging, deleted)


def count_needed_bytes(index: Index, identity: ModelIdentity) -> int:
    """Estimate the space that the collected vectors and the new version take beside the old one."""
    dataset = open_latest(index.path)
    with storage_errors(index.path):
        num_rows = int(dataset.count_rows())
        sizes = [
            file.file_size_bytes or 0
            for part in dataset.get_fragments()
            for file in part.data_files()
        ]
    width = 2 if index.vector_dtype == "float16" else 4
    vectors, new = (width * num_rows * one.embed_dim for one in (index.identity, identity))
    return 2 * new + _ROW_BYTES * num_rows + max(0, sum(sizes) - vectors)


def check_space(index: Index, identity: ModelIdentity, num_staged: int) -> tuple[int, int | None]:
    """Check that the disk holds the old and the new vectors at once.

    Args:
        index: the index.
        identity: the new model.
        num_staged: rows whose vectors are on the disk already.

    Returns:
        The bytes that are needed, and those that are free; None on object storage.

    Raises:
        IndexStorageError: there is not enough space.
    """
    width = 2 if index.vector_dtype == "float16" else 4
    present = num_staged * (width * identity.embed_dim + _ROW_BYTES)
    needed = max(0, count_needed_bytes(index, identity) - present)
    if is_remote(index.path):
        return needed, None
    with storage_errors(index.path):
        free = shutil.disk_usage(index.path).free
    if needed > free:
        raise IndexStorageError(
            f"{index.path}: the new embeddings need about {needed / 1e6:,.0f} MB beside the old "
            f"ones, and {free / 1e6:,.0f} MB are free; make room (`pe optimize` drops old "
            "versions), or move the index to a larger disk. Nothing was changed"
        )
    return needed, free


@dataclass(frozen=True)
class NewVectors:
    """What a change of the model committed.

    Attributes:
        num_rows: rows with a new vector, with tiles.
        num_left: images and segments without one, which were left out.
        num_changed: rows whose file has another content than when it was indexed.
        num_tiles_left: tiles that were left out because their image has another size now.
    """

    num_rows: int
    num_left: int
    num_changed: int
    num_tiles_left: int


class StagedVectors:
    """Vectors by the ids of their rows; 24 bytes of memory each."""

    def __init__(self, staged: Index) -> None:
        self.identity: Final = staged.identity
        self._dataset = open_latest(staged.path)
        self._places = DigestMap()
        start = 0
        for batch in self._dataset.to_batches(columns=["id"], batch_size=_ID_ROWS):
            numbers = np.arange(start, start + batch.num_rows)
            self._places.add(digests_of_column(batch["id"]), numbers)
            start += batch.num_rows

    def find(self, ids: pa.StringArray) -> NDArray[np.int64]:
        """Return (N,) the places of rows; -1 for those without a vector."""
        return self._places.find(digests_of_column(ids))

    def choose(self, ids: Iterable[str]) -> list[str]:
        """Return those ids that have a vector."""
        names = list(ids)
        places = self._places.find(digests_of(names))
        return [names[number] for number in np.flatnonzero(places >= 0)]

    def take(self, places: NDArray[np.int64]) -> pa.Table:
        """Return the vectors at places, and what they are of, in the order of the places."""
        return self._dataset.take(places.tolist(), columns=[*_OF_CONTENT, VECTOR])


def commit_vectors(
    index: Index,
    staged: StagedVectors,
    report: Callable[[int, int], object] = lambda *_: None,
) -> NewVectors:
    """Replace the vectors of an index by staged ones; rows without one are left out.

    All other columns stay, but for width, height and SHA-256 of files that have changed. The caller
    holds the write lock.

    Args:
        index: the index, at its latest version.
        staged: the vectors.
        report: called with the rows that are written and their number.

    Raises:
        IndexBusyError: another process wrote to the index meanwhile.
        IndexStorageError: reading or writing failed; the index is as before.
    """
    import lance
    import pyarrow as pa
    from lance.commit import CommitConflictError
    from lance.fragment import write_fragments

    path = index.path
    dataset = open_latest(path)
    if not index.is_latest(dataset):
        raise _changed_meanwhile(path)
    schema = with_model(dataset.schema, staged.identity, index.vector_dtype, path)
    rewriting = _Rewriting(dataset, staged, schema, report)
    with storage_errors(path):
        reader = pa.RecordBatchReader.from_batches(schema, rewriting.batches())
        fragments = write_fragments(
            reader,
            path,
            schema=schema,
            mode="overwrite",
            data_storage_version=dataset.data_storage_version,
        )
        operation = lance.LanceOperation.Overwrite(schema, fragments)
        with journaled_commit(dataset, path):
            try:
                # Without retries, so that rows which another process added since are not lost.
                lance.LanceDataset.commit(
                    path, operation, read_version=dataset.version, max_retries=0
                )
            except CommitConflictError as err:
                raise _changed_meanwhile(path) from err
            dataset.checkout_latest()  # type: ignore[no-untyped-call]
    complete_change(path)
    _drop_caches(path)
    return rewriting.counts()


def complete_change(path: str) -> None:
    """Do what follows the commit, also where a process was killed after it.

    Raises:
        IndexStorageError: reading or writing failed.
    """
    dataset = open_latest(path)
    with storage_errors(path), journaled_commit(dataset, path):
        if TEXT in dataset.schema.names and not dataset.describe_indices():
            create_full_text(dataset, path)  # at once, so that texts are searched again
            dataset.checkout_latest()  # type: ignore[no-untyped-call]
        update_full_text(dataset, is_thorough=False)


def _drop_caches(path: str) -> None:
    """Delete what belongs to the model of before; a program that uses it goes on with its copy."""
    if not is_remote(path):
        shutil.rmtree(sidecar_path(path, "searcher"), ignore_errors=True)
        with suppress(OSError):
            os.remove(sidecar_path(path, "background.npz"))


class _Rewriting:
    """The rows of a dataset with other vectors, and how many there are."""

    def __init__(
        self,
        dataset: lance.LanceDataset,
        staged: StagedVectors,
        schema: pa.Schema,
        report: Callable[[int, int], object],
    ) -> None:
        self._dataset = dataset
        self._staged = staged
        self._schema = schema
        self._report = report
        self._num_rows = self._num_left = self._num_changed = self._num_tiles_left = 0

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows in their order, block by block."""
        import pyarrow.compute as pc

        total, done = int(self._dataset.count_rows()), 0
        size = max(1, _BLOCK_BYTES // (4 * self._staged.identity.embed_dim))
        names = [name for name in self._dataset.schema.names if name != VECTOR]
        for batch in self._dataset.to_batches(columns=names, batch_size=size):
            places = self._staged.find(batch["id"])
            kept = np.flatnonzero(places >= 0)
            left = batch.take(np.flatnonzero(places < 0))
            num_tiles = len(left) - left[TILE_OF].null_count if TILE_OF in names else 0
            self._num_tiles_left += num_tiles
            self._num_left += len(left) - num_tiles
            if len(kept):
                rows = batch if len(kept) == batch.num_rows else batch.take(kept)
                new = self._staged.take(places[kept]).combine_chunks()
                has_changed = pc.not_equal(rows["sha256"], new["sha256"].combine_chunks())
                if TILE_OF in names:
                    has_changed = pc.and_(has_changed, rows[TILE_OF].is_null())
                self._num_changed += pc.sum(has_changed).as_py() or 0
                self._num_rows += len(kept)
                yield self._merge(rows, new)
            done += batch.num_rows
            self._report(done, total)

    def _merge(self, rows: pa.RecordBatch, new: pa.Table) -> pa.RecordBatch:
        import pyarrow as pa

        columns = [
            new[field.name].combine_chunks()
            if field.name in (*_OF_CONTENT, VECTOR)
            else rows[field.name]
            for field in self._schema
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)

    def counts(self) -> NewVectors:
        """Return the counts, once all batches were read."""
        return NewVectors(self._num_rows, self._num_left, self._num_changed, self._num_tiles_left)


def _changed_meanwhile(path: str) -> IndexBusyError:
    return IndexBusyError(
        f"{path}: another process changed the index meanwhile; run the same command again, which "
        "embeds only what has changed"
    )
