"""Versions of an index: opened and committed, with the journal kept in step."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from perception_encoder.errors import IndexNotFoundError, IndexStorageError
from perception_encoder.index.journal import Journal, damaged_files, files_of
from perception_encoder.index.rows import Row
from perception_encoder.index.schema import identity_of, new_fields, to_arrow, with_fields
from perception_encoder.index.storage import create_dataset, open_dataset, storage_errors
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    import lance
    import pyarrow as pa

_SHOWN: Final = 5  # damaged files in a message


def create(path: str, schema: pa.Schema) -> lance.LanceDataset:
    """Create an empty index.

    Raises:
        IndexExistsError: one, or something else, is there.
        IndexStorageError: it cannot be written.
    """
    dataset = create_dataset(path, schema)
    with storage_errors(path):
        Journal(path).remove()  # of one that was deleted here before
    return dataset


def create_or_replace_empty(path: str, schema: pa.Schema) -> lance.LanceDataset:
    """Create an empty index, also in the place of one that has no rows.

    Raises:
        IndexExistsError: an index with rows, or something else, is there.
        IndexStorageError: it cannot be read or written.
    """
    try:
        dataset = open_latest(path)
        identity_of(dataset.schema, path)
    except IndexNotFoundError:
        return create(path, schema)
    import lance

    with storage_errors(path):
        if dataset.count_rows():
            return create(path, schema)  # raises
        dataset = lance.write_dataset(schema.empty_table(), path, mode="overwrite")
        Journal(path).remove()
    return dataset


def open_latest(path: str) -> lance.LanceDataset:
    """Open the latest version, and make sure that it is the last one that was committed.

    Raises:
        IndexNotFoundError: there is none.
        IndexStorageError: it cannot be read, or is damaged.
    """
    journal = Journal(path)
    last = journal.check_manifest()
    try:
        dataset = open_dataset(path)
    except IndexNotFoundError:
        if last and os.path.isdir(os.path.join(path, "_versions")):
            journal.check_version(0, last)
        raise
    journal.check_version(int(dataset.version), last)
    return dataset


@contextmanager
def committing(dataset: lance.LanceDataset, path: str) -> Iterator[None]:
    """Note in the journal what is committed through the dataset within the block.

    Raises:
        IndexStorageError: writing failed.
    """
    with storage_errors(path):
        before = files_of(dataset)
        yield
        Journal(path).add(dataset, sorted(files_of(dataset).keys() - before.keys()))


def laid_out(
    dataset: lance.LanceDataset, path: str, rows: Sequence[Row], vectors: Embeddings
) -> pa.Table:
    """Lay rows and vectors out for the latest version, which gets the columns that they need.

    Raises:
        ValueError: metadata does not fit.
        IndexStorageError: writing failed.
    """
    fields = new_fields(rows, dataset.schema)
    index = to_arrow(rows, vectors, with_fields(dataset.schema, fields))
    if fields:
        with committing(dataset, path):
            dataset.add_columns(fields)
    return index


def check_files(dataset: lance.LanceDataset, path: str) -> None:
    """Compare the files of a version with their checksums, where the journal has them.

    Raises:
        IndexStorageError: some are damaged.
    """
    with storage_errors(path):
        damaged = [f"{one.name} ({one.reason})" for one in damaged_files(dataset, path)]
    if damaged:
        raise IndexStorageError(
            f"{path}: damaged files: {', '.join(damaged[:_SHOWN])}"
            f"{' and others' if len(damaged) > _SHOWN else ''}; pe doctor --index "
            f"{shlex.quote(path)} says which rows are in them, and what to do"
        )
