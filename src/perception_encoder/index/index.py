"""The storage of an index: one Lance dataset.

The vector and the metadata of an image are one row of one commit; an interrupted commit has no
effect. This module writes, and makes sure that an index holds the vectors of one model. `snapshot`
reads.
"""

from __future__ import annotations

import datetime
import os
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, Self

from perception_encoder.errors import IndexBusyError, IndexMismatchError, IndexNotFoundError
from perception_encoder.index.commits import (
    create,
    create_or_replace_empty,
    journaled_commit,
    lay_out,
    open_latest,
    renew_texts,
    replace_columns,
)
from perception_encoder.index.exact import check_unit_vectors
from perception_encoder.index.full_text import TextMatch, TextQuery, update_full_text
from perception_encoder.index.known_rows import KnownRows
from perception_encoder.index.nearest import NearestHit
from perception_encoder.index.optimize import OptimizeReport, optimize_index
from perception_encoder.index.recent import RecentVectors
from perception_encoder.index.rows import Hit, Row, fit_metadata
from perception_encoder.index.schema import (
    MetadataChoice,
    VectorDtype,
    add_fields,
    describe_mismatch,
    describe_replacement,
    earlier_models_of,
    find_private_columns,
    identity_of,
    index_schema,
    tile_fields,
    tiles_of,
    vector_dtype_of,
)
from perception_encoder.index.searcher.searcher import Searchers
from perception_encoder.index.snapshot import FragmentScan, Snapshot
from perception_encoder.index.storage import (
    Session,
    check_free,
    empty_dataset,
    open_session,
    write_lock,
)
from perception_encoder.index.tiles import TILE_OF, TileGrid
from perception_encoder.index.vector_index import BuildVectorIndex, build_vector_index
from perception_encoder.types import Embeddings, ModelIdentity
from perception_encoder.video.names import is_moment

if TYPE_CHECKING:
    import lance
    import pyarrow as pa


_TRIES: Final = 50  # of 0.2 s each, while another process creates the index


class Index:
    """An index of the vectors of one model.

    An object sees the version that it opened or last wrote; `refresh` shows later commits of
    others. Several threads may read while one writes.
    """

    def __init__(
        self,
        dataset: lance.LanceDataset,
        path: str,
        *,
        is_created: bool = True,
        hides_locations: bool = False,
        session: Session | None = None,
    ) -> None:
        self.path: Final = path
        self._is_created = is_created
        self.identity: Final = identity_of(dataset.schema, path)
        self.vector_dtype = vector_dtype_of(dataset.schema)
        self._searchers = Searchers(path)
        self._recent = RecentVectors()
        self._hides_locations = hides_locations
        self._session = open_session(path) if session is None else session
        self._snapshot = self._show(dataset)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        identity: ModelIdentity,
        *,
        vector_dtype: VectorDtype = "float16",
    ) -> Self:
        """Create an empty index.

        Args:
            path: a folder that is empty or does not exist, or a URI such as `s3://…`.
            identity: the model of its vectors.
            vector_dtype: how vectors are stored. float16 halves the size and changes a cosine by
                less than 0.0005.

        Raises:
            IndexExistsError: something is there already.
            IndexStorageError: it cannot be written.
        """
        location = os.fspath(path)
        return cls(create(location, index_schema(identity, vector_dtype)), location)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, hides_locations: bool = False) -> Self:
        """Open an index.

        Args:
            path: of the index.
            hides_locations: leave out where photos were taken if the index is to store no metadata,
                see `find_private_columns`.

        Raises:
            IndexNotFoundError: there is none at that path.
            IndexStorageError: it cannot be read, or a newer version of this package made it.
        """
        location = os.fspath(path)
        session = open_session(location)
        dataset = open_latest(location, session)
        return cls(dataset, location, hides_locations=hides_locations, session=session)

    @classmethod
    def open_or_create(
        cls,
        path: str | os.PathLike[str],
        identity: ModelIdentity,
        *,
        vector_dtype: VectorDtype = "float16",
    ) -> Self:
        """Open the index and check its model, or create it with `vector_dtype`.

        Raises:
            IndexMismatchError: it is another model's.
            IndexExistsError: something that is no index is there.
            IndexBusyError: another process is creating one there.
            IndexStorageError: it cannot be read or written.
        """
        index = cls.open_or_prepare(path, identity, vector_dtype=vector_dtype)
        for left in reversed(range(_TRIES)):
            if index.is_created:
                break
            try:
                with write_lock(index.path):  # two that create at once could overwrite each other
                    index.refresh()
                    index.ensure_created()
            except IndexBusyError:
                if not left:
                    raise
                index.refresh()
        return index

    @classmethod
    def open_or_prepare(
        cls,
        path: str | os.PathLike[str],
        identity: ModelIdentity,
        *,
        vector_dtype: VectorDtype = "float16",
    ) -> Self:
        """Open the index and check its model, or prepare one that is created with its first rows.

        Until then nothing is on disk, and the index is empty. An index without rows is
        replaced in the same way, whatever its model.

        Raises:
            IndexMismatchError: it holds rows of another model.
            IndexExistsError: something that is no index is there.
            IndexStorageError: it cannot be read.
        """
        location = os.fspath(path)
        try:
            index = cls.open(location)
        except IndexNotFoundError:
            check_free(location)
        else:
            if index.identity == identity or index.count():
                index.check(identity)
                return index
        dataset = empty_dataset(index_schema(identity, vector_dtype))
        return cls(dataset, location, is_created=False)

    @property
    def is_created(self) -> bool:
        """Whether the index is on disk: False until the first rows after `open_or_prepare`."""
        return self._is_created

    def check(self, identity: ModelIdentity) -> None:
        """Check that the vectors of a model can be compared with the index's.

        Raises:
            IndexMismatchError: they cannot; the message names both models and the fix.
        """
        if identity != self.identity:
            raise IndexMismatchError(describe_mismatch(self.path, self.identity, identity))

    def refresh(self) -> None:
        """Show what other processes have committed, also if they recreated the index.

        Raises:
            IndexMismatchError: an index of another model is at this path now.
            IndexNotFoundError: none is there any more.
            IndexStorageError: it cannot be read.
        """
        try:
            dataset = self._latest()
        except IndexNotFoundError:
            if self._is_created:
                raise
            return
        # A new snapshot has empty caches.
        if not self._is_created or not self._snapshot.is_of(dataset):
            self._adopt(dataset)

    def is_latest(self, dataset: lance.LanceDataset) -> bool:
        """Whether a version of the dataset is the one that this object sees."""
        return self._snapshot.is_of(dataset)

    @property
    def state(self) -> tuple[int, str]:
        """Identifies the rows that this object sees; different rows have a different state."""
        return self._snapshot.state

    def add(
        self,
        rows: Sequence[Row],
        vectors: Embeddings,
        *,
        replaced_videos: Collection[str] = (),
        replaces_tiles: bool = False,
    ) -> None:
        """Add images, or replace those that are there already, in one commit.

        Args:
            rows: the rows; of two with the same id the later wins. A new metadata name becomes a
                column.
            vectors: (N, E) float, unit length, in the order of rows.
            replaced_videos: URIs of videos; their segments that are not among the rows are deleted
                in the same commit.
            replaces_tiles: likewise of the images among the rows, their tiles.

        Raises:
            ValueError: the numbers differ, a vector is not of unit length, metadata does not fit.
            IndexMismatchError: an index of another model is at this path now.
            IndexStorageError: writing failed; the rows are as before.
        """
        vectors = self._checked(rows, vectors)
        # Lance would insert two new rows of one id side by side.
        places = list({row.id: place for place, row in enumerate(rows)}.values())
        if not places:
            return
        self.ensure_created()
        dataset = self._latest()
        index = lay_out(dataset, self.path, [rows[place] for place in places], vectors[places])
        with journaled_commit(dataset, self.path):
            merge = dataset.merge_insert("id").when_matched_update_all()
            merge = merge.when_not_matched_insert_all()
            replaced = [_of_videos(replaced_videos)] if replaced_videos else []
            if replaces_tiles:
                replaced.append(_of_tiles(rows[place].id for place in places))
            if replaced:
                condition = " OR ".join(f"({one})" for one in replaced)
                merge = merge.when_not_matched_by_source_delete(condition)
            merge.execute(index)
        self._adopt(dataset)

    def append(self, rows: Sequence[Row], vectors: Embeddings) -> None:
        """Add images that are not in the index, in one commit.

        The rows of the index are not read, so its size does not matter. Use `add` if an image may
        be in the index already, or it will be there twice.

        Args:
            rows: with ids that are unique and not in the index.
            vectors: (N, E) float, unit length, in the order of rows.

        Raises:
            ValueError: as in `add`.
            IndexMismatchError: an index of another model is at this path now.
            IndexStorageError: writing failed; the rows are as before.
        """
        vectors = self._checked(rows, vectors)
        if not rows:
            return
        self.ensure_created()
        dataset = self._latest()
        index = lay_out(dataset, self.path, rows, vectors)
        with journaled_commit(dataset, self.path):
            dataset.insert(index)
        self._adopt(dataset)

    def fit(self, rows: Sequence[Row]) -> tuple[list[Row], Counter[str]]:
        """Convert the rows' metadata to the types of the index's columns, see `fit_metadata`.

        Returns:
            Rows for `add` and `append`, and the number of values that were left out, by name.
        """
        return fit_metadata(rows, self._snapshot.schema)

    @property
    def metadata_choice(self) -> MetadataChoice:
        """What the index remembers of the metadata of image files."""
        return MetadataChoice.of(self._snapshot.schema)

    def remember(self, choice: MetadataChoice) -> None:
        """Store a choice for later runs, in one commit; nothing happens if it is stored already.

        Raises:
            IndexStorageError: writing failed.
        """
        if choice.is_stored(self._snapshot.schema):
            return
        if not self._is_created:
            schema = self._snapshot.stored_schema
            changed = schema.with_metadata((schema.metadata or {}) | choice.fields())
            self._snapshot = self._show(empty_dataset(changed))
            return
        dataset = self._latest()
        with journaled_commit(dataset, self.path):
            dataset.update_schema_metadata(dict(choice.fields()))
        self._adopt(dataset)

    @property
    def earlier_models(self) -> list[ModelIdentity]:
        """The models that it had before `pe index --reembed` changed them, the latest one last."""
        return earlier_models_of(self._snapshot.schema)

    @property
    def tiles(self) -> TileGrid | None:
        """How images are divided into tiles, which are rows, too; None if they are not."""
        return tiles_of(self._snapshot.schema)

    def set_tiles(self, tiles: TileGrid) -> None:
        """Store how images are divided into tiles, before the first one is added.

        Raises:
            IndexMismatchError: the index has images that were divided otherwise, or not at all.
            IndexStorageError: writing failed.
        """
        if self.tiles == tiles:
            return
        if self.count():
            before = "no tiles" if self.tiles is None else f"tiles of {self.tiles}"
            raise IndexMismatchError(
                f"the index at {self.path} has images with {before}, and all of its images are "
                f"divided alike; make another index: pe index FOLDER --tiles {tiles} --index "
                f"{shlex.quote(f'{self.path}-2')}"
            )
        fields, stored = tile_fields(tiles)
        if self._is_created:
            dataset = self._latest()
            with journaled_commit(dataset, self.path):
                dataset.update_schema_metadata(dict(stored))
            self._adopt(dataset)
            self.add_columns(fields)
            return
        schema = self._snapshot.stored_schema
        new = [field for field in fields if field.name not in schema.names]
        changed = add_fields(schema, new).with_metadata((schema.metadata or {}) | stored)
        self._snapshot = self._show(empty_dataset(changed))

    def add_columns(self, fields: Sequence[pa.Field]) -> None:
        """Add empty columns of metadata, in one commit; those that are there already are skipped.

        Raises:
            IndexStorageError: writing failed.
        """
        dataset = self._latest()
        new = [field for field in fields if field.name not in dataset.schema.names]
        if new:
            with journaled_commit(dataset, self.path):
                dataset.add_columns(new)
            self._adopt(dataset)

    def replace_columns(self, fragment: int, values: pa.Table) -> None:
        """Replace values of metadata columns in one fragment, in one commit.

        Vectors and rows stay where they are, so a searcher stays valid.

        Args:
            fragment: its id, as in `fragments`.
            values: the column `id`, which says whose values these are, and columns of the index.

        Raises:
            IndexStorageError: writing failed; the values are as before.
        """
        dataset = self._latest()
        with journaled_commit(dataset, self.path):
            replace_columns(dataset, fragment, values)
            part = dataset.get_fragment(fragment)
            assert part is not None
            renew_texts(dataset, [part])
        self._adopt(dataset)

    def fragments(self) -> list[FragmentScan]:
        """Return the fragments of the index, to read one after the other."""
        return self._snapshot.fragments()

    def delete(self, ids: Iterable[str]) -> int:
        """Delete rows in one commit, with an image its tiles; unknown ids are ignored.

        Returns:
            The number of deleted rows, without the tiles of images.

        Raises:
            IndexStorageError: writing failed; the rows are as before.
        """
        names = list(ids)
        if not names or not self._is_created:
            return 0
        condition = f"id IN ({_quoted(names)})"
        dataset = self._latest()
        with journaled_commit(dataset, self.path):
            num_rows = int(dataset.count_rows(filter=condition))
            if TILE_OF in dataset.schema.names:
                condition += f" OR {_of_tiles(names)}"
            dataset.delete(condition)
        self._adopt(dataset)
        return num_rows

    def count(self) -> int:
        """Return the number of rows."""
        return self._snapshot.count()

    def rows(self, *, where: str | None = None) -> Iterator[Row]:
        """Yield the rows, in the index's order, a block at a time.

        Args:
            where: an SQL condition on the columns, such as `width > 800 AND uri LIKE '%.png'`.

        Raises:
            QueryError: the condition is wrong.
        """
        return self._snapshot.rows(where)

    def vectors(self, *, where: str | None = None) -> Embeddings:
        """Return (R, E) float32: the vectors of what `rows` yields for the same condition.

        Raises:
            QueryError: the condition is wrong.
        """
        return self._snapshot.vectors(where)

    @property
    def schema(self) -> pa.Schema:
        """The columns, in their order, and what is stored of the model."""
        return self._snapshot.schema

    def scan(
        self, columns: Sequence[str], *, where: str | None = None, tiles: bool = False
    ) -> Iterator[pa.RecordBatch]:
        """Yield columns of all rows, in the index's order, a block at a time.

        All scans of one object see the same rows in the same order, also while others write.

        Args:
            columns: their names.
            where: an SQL condition on the columns.
            tiles: also the rows of tiles.

        Raises:
            QueryError: the condition is wrong.
        """
        return self._snapshot.scan(list(columns), where, tiles=tiles)

    def known_rows(self) -> KnownRows:
        """Return the state of every image, for a run to compare its sources with."""
        return self._snapshot.known_rows()

    def by_ids(self, ids: Iterable[str]) -> dict[str, tuple[Row, Embeddings]]:
        """Return the rows with these ids, each with its (E,) float32 vector.

        Each call scans the id column, so ask for many ids at once.
        """
        return self._snapshot.by_ids(set(ids))

    def row_ids(self, ids: Iterable[str]) -> dict[str, int]:
        """Return Lance's own ids of the rows with these ids; see `by_row_ids`."""
        return self._snapshot.row_ids(set(ids))

    def by_row_ids(self, row_ids: Sequence[int]) -> list[Row]:
        """Return rows by Lance's own ids, which the column `_rowid` of `scan` has, in their order.

        It takes milliseconds. A row that a later commit replaced or moved is left out.
        """
        return self._snapshot.by_row_ids(row_ids)

    def moments(self, uri: str) -> list[tuple[Row, Embeddings]]:
        """Return the segments of a video in their order, each with its (E,) float32 vector."""
        if not {"start", "frame_time"} <= set(self.schema.names):
            return []
        ids = [row.id for row in self.rows(where=_of_videos([uri]))]
        found = [one for one in self.by_ids(ids).values() if is_moment(uri, one[0].member)]
        return sorted(found, key=lambda one: str(one[0].member))

    def search(
        self,
        queries: Embeddings,
        *,
        k: int,
        where: str | None = None,
        threshold: float | None = None,
        exact: bool = False,
    ) -> list[list[Hit]]:
        """Find the rows nearest to each query.

        Every vector is compared, unless the index is so large that `optimize` built lists for
        approximate search. Then a few of the true hits may be missing; `optimize` reports the
        measured recall. Scores are always exact, and rows added since then are found.

        Args:
            queries: (Q, E) float, unit length.
            k: the largest number of hits for each query.
            where: an SQL condition on the columns. With it, search is exact.
            threshold: leave out hits with a lower score.
            exact: compare every vector in any case.

        Returns:
            Q lists, best first; hits of equal score are ordered by uri and member.

        Raises:
            ValueError: queries of another shape or not of unit length, or k below 1.
            QueryError: the condition is wrong.
        """
        found = self.search_rows(queries, k=k, where=where, threshold=threshold, exact=exact)
        return [[one.hit for one in hits] for hits in found]

    def search_rows(
        self,
        queries: Embeddings,
        *,
        k: int,
        where: str | None = None,
        threshold: float | None = None,
        exact: bool = False,
    ) -> list[list[NearestHit]]:
        """As `search`, with Lance's id of each row, which `rank_text` takes."""
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        queries = check_unit_vectors(queries, self.identity.embed_dim, "queries")
        return self._snapshot.search(queries, k=k, where=where, threshold=threshold, exact=exact)

    def rank_text(
        self,
        query: TextQuery,
        *,
        limit: int,
        where: str | None = None,
        row_ids: Sequence[int] | None = None,
    ) -> list[TextMatch]:
        """Rank the rows that hold a text in their names or metadata.

        Args:
            query: the words and phrases.
            limit: the most rows.
            where: an SQL condition on the columns.
            row_ids: rank only these rows, by Lance's ids; None for all.

        Returns:
            The rows, best first. The score is BM25's, which is above 0 and depends on the index;
            rows of equal score are in the index's order.

        Raises:
            QueryError: the condition is wrong, or the index was made before texts were stored.
        """
        return self._snapshot.rank_text(query, limit=limit, where=where, row_ids=row_ids)

    def rows_with_vectors(self, row_ids: Sequence[int]) -> dict[int, tuple[Row, Embeddings]]:
        """Return rows by Lance's ids, each with its (E,) float32 vector; others are left out.

        This does not scan the id column, unlike `by_ids`.
        """
        return self._snapshot.rows_with_vectors(row_ids)

    def needs_full_text(self) -> bool:
        """Whether many rows are missing from the inverted index, which makes text queries slow."""
        return self._is_created and self._snapshot.needs_full_text()

    def update_full_text(self) -> None:
        """Add rows to the inverted index. Text queries find rows that are not in it, too.

        Raises:
            IndexBusyError: another process, or a run in this one, is writing.
            IndexStorageError: reading or writing failed.
        """
        with write_lock(self.path):
            dataset = self._latest()
            with journaled_commit(dataset, self.path):
                update_full_text(dataset, is_thorough=False)
            self._adopt(dataset)

    def optimize(
        self,
        older_than: datetime.timedelta | None = None,
        *,
        build_vector_index: BuildVectorIndex = build_vector_index,
    ) -> OptimizeReport:
        """Join small fragments, drop old versions, and build the searcher and the full text.

        The searcher is a cache: search works without it, and finds rows that it does not cover. An
        interruption at any point leaves a valid index and searcher.

        Args:
            older_than: delete versions older than this, except the latest. A process that still
                reads one of them fails. None keeps them all.
            build_vector_index: builds the vector index of an index on object storage, by default
                on this machine; `distributed.vector_index_builder` gives one for a Ray cluster.

        Raises:
            IndexBusyError: another process, or a run in this one, is writing.
            IndexStorageError: reading or writing failed.
        """
        done = optimize_index(self.path, older_than, build=build_vector_index)
        self.refresh()
        return done

    def needs_optimize(self) -> bool:
        """Whether `optimize` would help: many small fragments, or many rows without searcher."""
        return self._snapshot.needs_optimize()

    def ensure_created(self) -> None:
        """Create a prepared index on disk; the caller holds the lock."""
        if not self._is_created:
            self._adopt(create_or_replace_empty(self.path, self._snapshot.stored_schema))

    def _show(self, dataset: lance.LanceDataset) -> Snapshot:
        hidden = find_private_columns(dataset.schema) if self._hides_locations else ()
        return Snapshot(dataset, self.path, self._searchers, self._recent, hidden)

    def _adopt(self, dataset: lance.LanceDataset) -> None:
        self.vector_dtype = vector_dtype_of(dataset.schema)
        self._snapshot = self._show(dataset)
        self._is_created = True

    def _latest(self) -> lance.LanceDataset:
        """Open the latest version, if it has the model of this object."""
        dataset = open_latest(self.path, self._session)
        found = identity_of(dataset.schema, self.path)
        if found != self.identity:
            if not self._is_created and not dataset.count_rows():
                raise IndexNotFoundError(f"{self.path} is an index without rows")
            if not self._is_created:
                raise IndexMismatchError(describe_mismatch(self.path, found, self.identity))
            is_reembedded = self.identity in earlier_models_of(dataset.schema)
            raise IndexMismatchError(
                describe_replacement(self.path, found, self.identity, is_reembedded=is_reembedded)
            )
        return dataset

    def _checked(self, rows: Sequence[Row], vectors: Embeddings) -> Embeddings:
        vectors = check_unit_vectors(vectors, self.identity.embed_dim, "vectors")
        if len(rows) != len(vectors):
            raise ValueError(f"{len(rows)} rows, but {len(vectors)} vectors")
        return vectors


def _of_videos(uris: Iterable[str]) -> str:
    """Return the SQL condition of the segments of videos."""
    return f"uri IN ({_quoted(sorted(uris))}) AND member IS NOT NULL"


def _of_tiles(image_ids: Iterable[str]) -> str:
    """Return the SQL condition of the tiles of images."""
    return f"{TILE_OF} IN ({_quoted(image_ids)})"


def _quoted(values: Iterable[str]) -> str:
    return ", ".join("'" + value.replace("'", "''") + "'" for value in values)
