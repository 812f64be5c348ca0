"""What a table is, in plain values: model, columns, versions, and how much disk it takes."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from perception_encoder.index.commits import open_latest
from perception_encoder.index.schema import FACTS, VECTOR, identity_of, vector_dtype_of
from perception_encoder.index.storage import beside, is_remote, storage_errors
from perception_encoder.types import ModelIdentity

_PREFIX: Final = b"perception_encoder."


@dataclass(frozen=True)
class Column:
    """A column of a table: what it is called, its Arrow type, and whether every table has it."""

    name: str
    type: str
    is_metadata: bool


@dataclass(frozen=True)
class TableDescription:
    """What `describe_table` finds.

    Attributes:
        path: of the table.
        num_rows: how many pictures it has.
        identity: whose vectors they are.
        vector_dtype: how they are stored.
        made_by: the version of this package that made it.
        num_bytes: of its folder with all versions; None on object storage.
        searcher_bytes: of the searcher's cache, which is part of that; None where there is none.
        version: Lance's number of the latest version.
        num_versions: how many versions are kept.
        num_fragments: how many files the rows are in; many make scans slow.
        columns: in their order.
    """

    path: str
    num_rows: int
    identity: ModelIdentity
    vector_dtype: str
    made_by: str
    num_bytes: int | None
    searcher_bytes: int | None
    version: int
    num_versions: int
    num_fragments: int
    columns: tuple[Column, ...]


def describe_table(path: str | os.PathLike[str]) -> TableDescription:
    """Look at a table from outside; none of its rows are read.

    Raises:
        IndexNotFoundError: there is none.
        IndexStorageError: it cannot be read.
    """
    location = os.fspath(path)
    dataset = open_latest(location)
    schema = dataset.schema
    identity = identity_of(schema, location)
    ours = ("id", VECTOR, *FACTS)
    with storage_errors(location):
        return TableDescription(
            path=location,
            num_rows=dataset.count_rows(),
            identity=identity,
            vector_dtype=vector_dtype_of(schema),
            made_by=schema.metadata.get(_PREFIX + b"version", b"unknown").decode(),
            num_bytes=_size(location),
            searcher_bytes=_size(beside(location, "searcher")),
            version=dataset.version,
            num_versions=len(dataset.versions()),
            num_fragments=len(dataset.get_fragments()),
            columns=tuple(
                Column(field.name, str(field.type), field.name not in ours) for field in schema
            ),
        )


def _size(folder: str) -> int | None:
    """Return the bytes of all files below a folder of this machine; None where there is none."""
    if is_remote(folder) or not os.path.isdir(folder):
        return None
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # another process is tidying up
                total += os.lstat(os.path.join(parent, name)).st_size
    return total
