"""The vector index: one Lance dataset, which is the truth about what is indexed.

A vector and what is known of its image are one row and arrive in one commit, so they cannot get
out of step; a commit that was interrupted has not happened. This module writes, and sees to it that
one index holds one model's vectors; `snapshot` reads. Knows nothing of models, files or words.
"""

from __future__ import annotations

import datetime
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, Self

from perception_encoder.errors import IndexBusyError, IndexMismatchError, IndexNotFoundError
from perception_encoder.index.commits import (
    create,
    create_or_replace_empty,
    journaled_commit,
    lay_out,
    open_latest,
)
from perception_encoder.index.exact import check_unit_vectors
from perception_encoder.index.known_rows import KnownRows
from perception_encoder.index.optimize import OptimizeReport, optimize_index
from perception_encoder.index.rows import Hit, Row, fit_metadata
from perception_encoder.index.schema import (
    VectorDtype,
    describe_mismatch,
    describe_replacement,
    identity_of,
    index_schema,
    vector_dtype_of,
)
from perception_encoder.index.searcher.searcher import Searchers
from perception_encoder.index.snapshot import Snapshot
from perception_encoder.index.storage import check_free, empty_dataset, write_lock
from perception_encoder.types import Embeddings, ModelIdentity

if TYPE_CHECKING:
    import lance
    import pyarrow as pa


_TRIES: Final = 50  # a fifth of a second each, for another process to be done with creating


class Index:
    """An index of vectors of one model, and exact search in it.

    An object sees the index as it was when it was opened or last written through it; `refresh`
    shows what others have committed since. Several threads may read while one writes.
    """

    def __init__(self, dataset: lance.LanceDataset, path: str, *, is_created: bool = True) -> None:
        self.path: Final = path
        self._is_created = is_created
        self.identity: Final = identity_of(dataset.schema, path)
        self.vector_dtype = vector_dtype_of(dataset.schema)
        self._searchers = Searchers(path)
        self._snapshot = Snapshot(dataset, path, self._searchers)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        identity: ModelIdentity,
        *,
        vector_dtype: VectorDtype = "float16",
    ) -> Self:
        """Make an empty index.

        Args:
            path: a folder that is empty or does not exist yet, or a URI such as `s3://…`.
            identity: the model whose vectors it will hold.
            vector_dtype: how vectors are stored. float16 halves the size and changes a cosine by
                less than 0.0005.

        Raises:
            IndexExistsError: something is there already.
            IndexStorageError: it cannot be written.
        """
        location = os.fspath(path)
        return cls(create(location, index_schema(identity, vector_dtype)), location)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open an index.

        Raises:
            IndexNotFoundError: there is none at that path.
            IndexStorageError: it cannot be read, or a newer version of this package made it.
        """
        location = os.fspath(path)
        return cls(open_latest(location), location)

    @classmethod
    def open_or_create(
        cls,
        path: str | os.PathLike[str],
        identity: ModelIdentity,
        *,
        vector_dtype: VectorDtype = "float16",
    ) -> Self:
        """Open the index and check its model, or make it; `vector_dtype` is for a new one.

        Raises:
            IndexMismatchError: it is another model's.
            IndexExistsError: something that is no index is there.
            IndexBusyError: another process prepares one there, and has not created it yet.
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
        """Open the index and check its model, or prepare one that its first rows create.

        Until then nothing is written to disk, and the index is empty. An index without rows is
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
        """Whether there is anything on disk: false until the first rows of `open_or_prepare`."""
        return self._is_created

    def check(self, identity: ModelIdentity) -> None:
        """Make sure that vectors of this model may be compared with the index's.

        Raises:
            IndexMismatchError: they may not; the message names both and what to do.
        """
        if identity != self.identity:
            raise IndexMismatchError(describe_mismatch(self.path, self.identity, identity))

    def refresh(self) -> None:
        """See what other processes have committed, also where they made the index anew.

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
        # A new snapshot has to learn what searches know by now.
        if not self._is_created or not self._snapshot.is_of(dataset):
            self._adopt(dataset)

    @property
    def state(self) -> tuple[int, str]:
        """Names what is in the index as this object sees it; another state has other rows."""
        return self._snapshot.state

    def add(self, rows: Sequence[Row], vectors: Embeddings) -> None:
        """Add images, or replace those that are there already, in one commit.

        Args:
            rows: what is known of each; of two with the same id the later counts. A metadata name
                that is new to the index becomes a column.
            vectors: (N, E) float, unit length, in the order of rows.

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
            merge.when_not_matched_insert_all().execute(index)
        self._adopt(dataset)

    def append(self, rows: Sequence[Row], vectors: Embeddings) -> None:
        """Add images that the index is known not to have, in one commit.

        It looks at none of the index's rows, so it takes as long in an index of a million as in an
        empty one. Whoever cannot tell uses `add`, or the index will have an image twice.

        Args:
            rows: with ids that differ from each other and from the index's.
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
        """Bring the rows' metadata to the types of the index's columns, as `fit_metadata` does.

        Returns:
            Rows that `add` and `append` take, and how many values had to be left out, by name.
        """
        return fit_metadata(rows, self._snapshot.schema)

    def delete(self, ids: Iterable[str]) -> int:
        """Remove rows in one commit; ids that are not there are ignored.

        Returns:
            How many rows went.

        Raises:
            IndexStorageError: writing failed; the rows are as before.
        """
        quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in ids)
        if not quoted or not self._is_created:
            return 0
        condition = f"id IN ({quoted})"
        dataset = self._latest()
        with journaled_commit(dataset, self.path):
            num_rows = int(dataset.count_rows(filter=condition))
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

    def scan(self, columns: Sequence[str], *, where: str | None = None) -> Iterator[pa.RecordBatch]:
        """Yield columns as they lie in the index, in its order, a block at a time.

        For jobs that look at every row: any number of scans of one object sees the same rows in the
        same order, also while others write.

        Raises:
            QueryError: the condition is wrong.
        """
        return self._snapshot.scan(list(columns), where)

    def known_rows(self) -> KnownRows:
        """Read what the index knows of every image, for a run to compare its sources with."""
        return self._snapshot.known_rows()

    def by_ids(self, ids: Iterable[str]) -> dict[str, tuple[Row, Embeddings]]:
        """Return the rows of those keys that the index has, each with its (E,) float32 vector.

        It reads one column of the index and the rows found: ask for a batch together.
        """
        return self._snapshot.by_ids(set(ids))

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

        Every vector is looked at, unless the index is so large that `optimize` made lists for
        approximate search: then a few of the true hits may be missing (`optimize` says how many,
        measured). Scores are right in any case, and rows added since are found.

        Args:
            queries: (Q, E) float, unit length.
            k: how many hits to return for each query, at most.
            where: an SQL condition on the columns; rows that fail it do not take part, and those
                that meet it are all looked at.
            threshold: leave out hits with a lower score.
            exact: look at every vector in any case.

        Returns:
            Q lists, best first; hits of equal score are ordered by uri and member.

        Raises:
            ValueError: queries of another shape or not of unit length, or k below 1.
            QueryError: the condition is wrong.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        queries = check_unit_vectors(queries, self.identity.embed_dim, "queries")
        return self._snapshot.search(queries, k=k, where=where, threshold=threshold, exact=exact)

    def optimize(self, older_than: datetime.timedelta | None = None) -> OptimizeReport:
        """Join small fragments, drop old versions, and build the searcher for what is there now.

        The searcher is a cache beside the index: search works without one, and finds rows that it
        does not cover. Interrupted at any point, the index and the searcher are as they were, or
        one of these steps further.

        Args:
            older_than: versions before the present one that are older go, and with them what only
                they need; whoever is reading one of them fails. None keeps them all.

        Raises:
            IndexBusyError: another process, or a run in this one, is writing.
            IndexStorageError: reading or writing failed.
        """
        done = optimize_index(self.path, older_than)
        self.refresh()
        return done

    def needs_optimize(self) -> bool:
        """Whether search would gain much: many small fragments, or many rows without searcher."""
        return self._snapshot.needs_optimize()

    def ensure_created(self) -> None:
        """Create on disk what was only prepared; the caller holds the lock."""
        if not self._is_created:
            self._adopt(create_or_replace_empty(self.path, self._snapshot.schema))

    def _adopt(self, dataset: lance.LanceDataset) -> None:
        self.vector_dtype = vector_dtype_of(dataset.schema)
        self._snapshot = Snapshot(dataset, self.path, self._searchers)
        self._is_created = True

    def _latest(self) -> lance.LanceDataset:
        """Open the latest version, if it is of this object's model."""
        dataset = open_latest(self.path)
        found = identity_of(dataset.schema, self.path)
        if found != self.identity:
            if not self._is_created and not dataset.count_rows():
                raise IndexNotFoundError(f"{self.path} is an index without rows")
            described = describe_replacement if self._is_created else describe_mismatch
            raise IndexMismatchError(described(self.path, found, self.identity))
        return dataset

    def _checked(self, rows: Sequence[Row], vectors: Embeddings) -> Embeddings:
        vectors = check_unit_vectors(vectors, self.identity.embed_dim, "vectors")
        if len(rows) != len(vectors):
            raise ValueError(f"{len(rows)} rows, but {len(vectors)} vectors")
        return vectors
