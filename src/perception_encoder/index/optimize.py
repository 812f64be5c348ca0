"""Optimizes an index: joins small fragments, drops old versions, makes search fast. Describes it.

Each step is a commit of its own, so a killed process leaves a valid index.
"""

from __future__ import annotations

import datetime
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from perception_encoder.index.commits import (
    Journal,
    check_files,
    journaled_commit,
    open_latest,
    renew_texts,
)
from perception_encoder.index.full_text import reset_full_text, update_full_text
from perception_encoder.index.schema import (
    ROW_COLUMNS,
    VECTOR,
    MetadataChoice,
    identity_of,
    tiles_of,
    vector_dtype_of,
    without_text,
)
from perception_encoder.index.searcher.build import DEFAULT_SIZES, SearcherSizes, build_searcher
from perception_encoder.index.searcher.files import Header, SearcherFolder
from perception_encoder.index.searcher.fragments import list_fragments
from perception_encoder.index.searcher.searcher import Searchers
from perception_encoder.index.storage import is_remote, sidecar_path, storage_errors, write_lock
from perception_encoder.index.tiles import IS_IMAGE, TILE_COLUMNS
from perception_encoder.index.vector_index import (
    BuildVectorIndex,
    VectorIndex,
    build_vector_index,
    count_uncovered,
    extend_vector_index,
    read_vector_index,
    renew_vector_index,
)
from perception_encoder.types import ModelIdentity

if TYPE_CHECKING:
    import lance


_SMALL_ROWS: Final = 65_536  # a fragment of fewer rows is small
_MANY_SMALL: Final = 64  # opening each costs time in every scan
_JOINED_ROWS: Final = 1 << 20  # smaller files are joined,
_DELETED: Final = 0.1  # and those written anew of which more is deleted
_UNCOVERED: Final = 0.2  # share of the rows that each query reads from the index
_PREFIX: Final = b"perception_encoder."


SearchKind: TypeAlias = Literal["none", "exact", "approximate", "vector-index"]
"""How an index is searched.

none: each query reads every embedding of the index. exact: each query compares every embedding in
the searcher. approximate: with lists of the searcher. vector-index: with Lance's vector index,
which indexes on object storage have.
"""


class _Search(NamedTuple):
    """How a version is searched."""

    kind: SearchKind = "none"
    num_bytes: int = 0
    recall: float | None = None
    build_seconds: float = 0.0


@dataclass(frozen=True)
class OptimizeReport:
    """What `optimize` did.

    Attributes:
        num_rows: of the index.
        fragments_before: number of fragments before.
        fragments_after: number of fragments now.
        versions_removed: number of old versions that were dropped.
        bytes_freed: on disk, by dropping them.
        searcher: how the index is searched now.
        searcher_bytes: size of the searcher's files, or of the vector index's.
        recall: measured share of the true best 10 that approximate search finds, if it is used.
        build_seconds: time to build and measure these; 0 if the present ones were kept.
        seconds: total time.
    """

    num_rows: int
    fragments_before: int
    fragments_after: int
    versions_removed: int
    bytes_freed: int
    searcher: SearchKind
    searcher_bytes: int
    recall: float | None
    build_seconds: float
    seconds: float


def optimize_index(
    path: str,
    older_than: datetime.timedelta | None,
    *,
    build: BuildVectorIndex = build_vector_index,
    sizes: SearcherSizes = DEFAULT_SIZES,
) -> OptimizeReport:
    """See `Index.optimize`; `sizes` are the sizes from which a searcher is built."""
    started = time.monotonic()
    with write_lock(path), storage_errors(path):
        dataset = open_latest(path)
        before = len(dataset.get_fragments())
        check_files(dataset, path)  # before they are copied and get new checksums
        with journaled_commit(dataset, path):
            renew_texts(dataset, dataset.get_fragments())  # other programs may have changed rows
            # First: fragments inside and outside of the vector index are not joined.
            extend_vector_index(dataset)
            if _has_small_files(dataset):
                reset_full_text(dataset)
                dataset.optimize.compact_files(
                    target_rows_per_fragment=_JOINED_ROWS, materialize_deletions_threshold=_DELETED
                )
            update_full_text(dataset, is_thorough=True)
        if is_remote(path):
            search = _renew_vector_index(dataset, build, sizes)  # its commits are versions, too
        removed = freed = 0
        if older_than is not None:
            stats = dataset.cleanup_old_versions(
                older_than=older_than, error_if_tagged_old_versions=False
            )
            removed, freed = int(stats.old_versions), int(stats.bytes_removed)
        Journal(path).rewrite(dataset)
        if not is_remote(path):
            search = _renew_searcher(dataset, path, sizes)
        return OptimizeReport(
            num_rows=int(dataset.count_rows()),
            fragments_before=before,
            fragments_after=len(dataset.get_fragments()),
            versions_removed=removed,
            bytes_freed=freed,
            searcher=search.kind,
            searcher_bytes=search.num_bytes,
            recall=search.recall,
            build_seconds=search.build_seconds,
            seconds=round(time.monotonic() - started, 1),
        )


def needs_optimize(
    dataset: lance.LanceDataset, path: str, *, sizes: SearcherSizes = DEFAULT_SIZES
) -> bool:
    """See `Index.needs_optimize`."""
    with storage_errors(path):
        fragments = list_fragments(dataset)
        if sum(fragment.num_rows < _SMALL_ROWS for fragment in fragments) > _MANY_SMALL:
            return True
        embed_dim = int(dataset.schema.field(VECTOR).type.list_size)
        num_rows = sum(fragment.num_rows - fragment.num_deleted for fragment in fragments)
        if 2 * embed_dim * num_rows < sizes.copy:
            return False
        if is_remote(path):
            return count_uncovered(dataset) > _UNCOVERED * num_rows
        header = SearcherFolder(path).read()
        covered = {(part.id, part.file) for part in header.fragments} if header else set()
        uncovered = sum(
            fragment.num_rows - fragment.num_deleted
            for fragment in fragments
            if (fragment.id, fragment.file) not in covered
        )
        return uncovered > _UNCOVERED * num_rows


def _has_small_files(dataset: lance.LanceDataset) -> bool:
    """Whether compaction would write files anew; its own plan joins none inside of an index."""
    parts = dataset.get_fragments()
    deleted = [part.num_deletions / max(1, part.physical_rows) for part in parts]
    is_small = [part.physical_rows < _JOINED_ROWS for part in parts]
    return max(deleted, default=0.0) > _DELETED or any(map(all, pairwise(is_small)))


def _renew_searcher(dataset: lance.LanceDataset, path: str, sizes: SearcherSizes) -> _Search:
    """Build a searcher for this version, or keep the present one."""
    searchers = Searchers(path)
    present = searchers.current()
    if present is not None and list(present.header.fragments) == list_fragments(dataset):
        return _describe_searcher(present.header)._replace(build_seconds=0.0)
    header = build_searcher(
        dataset,
        searchers.folder,
        embed_dim=int(dataset.schema.field(VECTOR).type.list_size),
        vector_dtype=vector_dtype_of(dataset.schema),
        sizes=sizes,
    )
    return _describe_searcher(header)


def _renew_vector_index(
    dataset: lance.LanceDataset, build: BuildVectorIndex, sizes: SearcherSizes
) -> _Search:
    """Build the vector index of the latest version, or keep the present one."""
    started = time.monotonic()
    num_bytes = 2 * int(dataset.schema.field(VECTOR).type.list_size) * int(dataset.count_rows())
    before = read_vector_index(dataset)
    if before is None and num_bytes < sizes.copy:
        return _Search()
    found = renew_vector_index(dataset, build)
    seconds = 0.0 if found == before else round(time.monotonic() - started, 1)
    return _describe_vector_index(found)._replace(build_seconds=seconds)


def _describe_searcher(header: Header | None) -> _Search:
    if header is None:
        return _Search()
    return _Search(
        "approximate" if header.num_lists else "exact",
        header.num_bytes,
        header.tuning[0].recall if header.tuning else None,
        header.build_seconds,
    )


def _describe_vector_index(index: VectorIndex | None) -> _Search:
    if index is None:
        return _Search()
    return _Search("vector-index" if index.tuning else "none", index.num_bytes, index.recall)


@dataclass(frozen=True)
class Column:
    """A column of an index: its name, its Arrow type, and whether it is metadata."""

    name: str
    type: str
    is_metadata: bool


@dataclass(frozen=True)
class IndexDescription:
    """A description of an index.

    Attributes:
        path: of the index.
        num_rows: number of images.
        num_tiles: number of tiles of these, which are rows, too.
        identity: the model of the vectors.
        vector_dtype: how the vectors are stored.
        made_by: the version of this package that created it.
        num_bytes: of its folder with all versions; None on object storage.
        search: how it is searched, see `SearchKind`.
        searcher_bytes: of the searcher or the vector index, which are part of it; None if there is
            none.
        recall: measured share of the true best 10 that approximate search finds, if it is used.
        version: Lance's number of the latest version.
        num_versions: number of versions that are kept.
        num_fragments: number of fragments; many make scans slow.
        columns: in their order.
        reads_metadata: whether runs store the metadata of photos.
        tiles: how images are divided into tiles, such as 2x2; None if they are not.
    """

    path: str
    num_rows: int
    num_tiles: int
    identity: ModelIdentity
    vector_dtype: str
    made_by: str
    num_bytes: int | None
    searcher_bytes: int | None
    version: int
    num_versions: int
    num_fragments: int
    columns: tuple[Column, ...]
    reads_metadata: bool
    tiles: str | None = None
    search: SearchKind = "none"
    recall: float | None = None


def describe_index(path: str | os.PathLike[str]) -> IndexDescription:
    """Describe an index without reading its rows.

    Raises:
        IndexNotFoundError: there is none.
        IndexStorageError: it cannot be read.
    """
    location = os.fspath(path)
    dataset = open_latest(location)
    schema = dataset.schema
    identity = identity_of(schema, location)
    ours = ("id", VECTOR, *ROW_COLUMNS, *TILE_COLUMNS)
    tiles = tiles_of(schema)
    search = _describe_searcher(SearcherFolder(location).read())
    with storage_errors(location):
        if search.kind == "none":
            search = _describe_vector_index(read_vector_index(dataset))
        num_rows = dataset.count_rows()
        num_images = num_rows if tiles is None else dataset.count_rows(filter=IS_IMAGE)
        return IndexDescription(
            path=location,
            num_rows=num_images,
            num_tiles=num_rows - num_images,
            identity=identity,
            vector_dtype=vector_dtype_of(schema),
            made_by=schema.metadata.get(_PREFIX + b"version", b"unknown").decode(),
            num_bytes=_size(location),
            searcher_bytes=_size(sidecar_path(location, "searcher")) or search.num_bytes or None,
            version=dataset.version,
            num_versions=len(dataset.versions()),
            num_fragments=len(dataset.get_fragments()),
            columns=tuple(
                Column(field.name, str(field.type), field.name not in ours)
                for field in without_text(schema)
            ),
            reads_metadata=MetadataChoice.of(schema).reads,
            tiles=None if tiles is None else str(tiles),
            search=search.kind,
            recall=search.recall,
        )


def _size(folder: str) -> int | None:
    """Return the size of all files below a folder of this machine, or None."""
    if is_remote(folder) or not os.path.isdir(folder):
        return None
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # deleted by another process
                total += os.lstat(os.path.join(parent, name)).st_size
    return total
