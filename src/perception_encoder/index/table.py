"""The vector table: one Lance dataset, which is the truth about what is indexed.

A vector and what is known of its picture are one row and arrive in one commit, so they cannot get
out of step; a commit that was interrupted has not happened. Knows nothing of models, files or words.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from perception_encoder.errors import (
    IndexExistsError,
    IndexMismatchError,
    IndexNotFoundError,
    IndexStorageError,
    QueryError,
)
from perception_encoder.index.exact import ExactSearch, Scored
from perception_encoder.index.rows import FileState, Hit, Row
from perception_encoder.index.schema import (
    FACTS,
    VECTOR,
    VectorDtype,
    identity_of,
    new_metadata_fields,
    rows_of,
    table_schema,
    to_arrow,
    vector_dtype_of,
    vectors_of,
)
from perception_encoder.types import Embeddings, ModelIdentity

if TYPE_CHECKING:
    import lance  # noqa: TID253 — for the type checker only
    import pyarrow as pa  # noqa: TID253

_BLOCK_BYTES: Final = 16 << 20
_UNIT_TOLERANCE: Final = 1e-2
_OUR_FOLDERS: Final = frozenset(("_transactions", "_versions", "data"))
_RUST_PLACE: Final = re.compile(r",? /\S+\.rs:\d+:\d+")


class Index:
    """A table of vectors of one model, and exact search in it.

    An object sees the table as it was when it was opened, and its own changes; `refresh` shows it
    what others have committed since. Reading from several threads is safe.
    """

    def __init__(self, dataset: lance.LanceDataset, path: str) -> None:
        self._dataset = dataset
        self.path: Final = path
        self.identity: Final = identity_of(dataset.schema, path)
        self.vector_dtype: Final = vector_dtype_of(dataset.schema)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        identity: ModelIdentity,
        *,
        vector_dtype: VectorDtype = "float16",
    ) -> Self:
        """Make an empty table.

        Args:
            path: a folder that does not exist or is empty, or a URI such as `s3://…`.
            identity: the model whose vectors it will hold.
            vector_dtype: how vectors are stored. float16 halves the size and changes a cosine by
                less than 0.001.

        Raises:
            IndexExistsError: something is there already.
            IndexStorageError: it cannot be written.
        """
        import lance

        location = os.fspath(path)
        if not _is_free(location):
            raise IndexExistsError(
                f"{location} holds other things already; choose a new folder with --db"
            )
        schema = table_schema(identity, vector_dtype)
        with _storage(location):
            try:
                dataset = lance.write_dataset(schema.empty_table(), location, mode="create")
            except OSError as err:
                if "already exists" not in str(err):
                    raise
                raise IndexExistsError(
                    f"{location} is a table already; open it, or choose another --db"
                ) from err
        return cls(dataset, location)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a table.

        Raises:
            IndexNotFoundError: there is none at that path.
            IndexStorageError: it cannot be read, or a newer version of this package made it.
        """
        import lance

        location = os.fspath(path)
        with _storage(location):
            try:
                dataset = lance.dataset(location)
            except (ValueError, OSError) as err:
                if "not found" not in str(err).lower() and "Not a directory" not in str(err):
                    raise
                raise IndexNotFoundError(
                    f"there is no index at {location}; make one with: pe index FOLDER "
                    f"--db {shlex.quote(location)}"
                ) from err
        return cls(dataset, location)

    @classmethod
    def open_or_create(
        cls,
        path: str | os.PathLike[str],
        identity: ModelIdentity,
        *,
        vector_dtype: VectorDtype = "float16",
    ) -> Self:
        """Open the table and check its model, or make it.

        Raises:
            IndexMismatchError: it is another model's.
            IndexExistsError: something that is no table is there.
            IndexStorageError: it cannot be read or written.
        """
        try:
            index = cls.open(path)
        except IndexNotFoundError:
            return cls.create(path, identity, vector_dtype=vector_dtype)
        index.check(identity)
        return index

    def check(self, identity: ModelIdentity) -> None:
        """Make sure that vectors of this model may be compared with the table's.

        Raises:
            IndexMismatchError: they may not; the message names both and what to do.
        """
        if identity == self.identity:
            return
        path = shlex.quote(self.path)
        if identity.model_id != self.identity.model_id:
            remedy = (
                f"use the table's model (--model {self.identity.model_id}), or make a second "
                f"table: pe index FOLDER --model {identity.model_id} --db {path}-2"
            )
        else:
            remedy = (
                "use the same weights and settings as then, or make a second table: "
                f"pe index FOLDER --db {path}-2"
            )
        raise IndexMismatchError(
            f"the table at {self.path} holds vectors of {_described(self.identity)}, which cannot "
            f"be compared with vectors of {_described(identity)}; {remedy}"
        )

    def refresh(self) -> None:
        """See what other processes have committed."""
        with _storage(self.path):
            self._dataset.checkout_latest()

    def add(self, rows: Sequence[Row], vectors: Embeddings) -> None:
        """Add pictures, or replace those that are there already, in one commit.

        Args:
            rows: what is known of each; of two with the same id the later counts. A metadata name
                that is new to the table becomes a column.
            vectors: (N, E) float, unit length, in the order of rows.

        Raises:
            ValueError: the numbers differ, a vector is not of length 1, or metadata does not fit.
            IndexStorageError: writing failed; the table is as before.
        """
        vectors = self._checked(vectors, "vectors")
        if len(rows) != len(vectors):
            raise ValueError(f"{len(rows)} rows, but {len(vectors)} vectors")
        if not rows:
            return
        places = list({row.id: place for place, row in enumerate(rows)}.values())
        rows = [rows[place] for place in places]
        with _storage(self.path):
            self._add_columns(new_metadata_fields(rows, self._dataset.schema))
            table = to_arrow(rows, vectors[places], self._dataset.schema)
            merge = self._dataset.merge_insert("id").when_matched_update_all()
            merge.when_not_matched_insert_all().execute(table)
