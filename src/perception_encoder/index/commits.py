"""Opens and commits versions of an index, and keeps a journal of them.

Lance's files have no checksums, and without its newest manifest Lance opens an older version. So
each commit adds a line to `_pe/journal`: the version, its manifest, and the checksums of the new
files. Files of an index never change. After a crash, or a commit of another program, lines are
missing; files without a line are not checked. Indexes on object storage have no journal.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from perception_encoder.atomic import atomic_write
from perception_encoder.errors import IndexNotFoundError, IndexStorageError
from perception_encoder.index.checksums import FileSum, sum_file
from perception_encoder.index.full_text import create_full_text, find_stale_texts
from perception_encoder.index.rows import Row
from perception_encoder.index.schema import (
    TEXT,
    add_fields,
    find_new_fields,
    identity_of,
    to_arrow,
)
from perception_encoder.index.storage import (
    FILE_VERSION,
    Session,
    create_dataset,
    is_remote,
    open_dataset,
    sidecar_path,
    storage_errors,
)
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    import lance
    import pyarrow as pa


logger = logging.getLogger(__name__)

_MAX_VERSION: Final = 2**64 - 1
_TAIL_BYTES: Final = 1 << 18
_FILES_A_LINE: Final = 1000  # so that the last line is within the tail
_SHOWN: Final = 5  # damaged files in a message


class JournalEntry(NamedTuple):
    """A commit: its version, its manifest, and its new files."""

    version: int
    manifest: str
    manifest_sum: FileSum
    files: Mapping[str, FileSum]


@dataclass
class Journal:
    """The journal of the index at `path`."""

    path: str
    _name: str = field(init=False)

    def __post_init__(self) -> None:
        self._name = sidecar_path(self.path, "journal")

    def add(self, dataset: lance.LanceDataset, files: Iterable[str]) -> None:
        """Add a commit. If that fails, the commit is valid but is not checked later.

        Args:
            dataset: the version.
            files: those that are new in it, from `files_of`.
        """
        if is_remote(self.path):
            return
        try:
            self._append(list(self._lines(dataset, files)))
        except OSError as err:
            logger.warning("%s cannot be written (%s); the commit is not checked", self._name, err)

    def rewrite(self, dataset: lance.LanceDataset) -> None:
        """Drop files that the version no longer has, and add those that are missing.

        Raises:
            OSError: the journal cannot be written; it is as before.
        """
        if is_remote(self.path):
            return
        present = files_of(dataset)
        known = {name: of for name, of in self.files().items() if name in present}
        with atomic_write(self._name) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(self._lines(dataset, present.keys() - known.keys(), known))

    def remove(self) -> None:
        """Delete the journal, before another index is created here."""
        if not is_remote(self.path) and os.path.exists(self._name):
            os.remove(self._name)

    def last(self) -> JournalEntry | None:
        """Return the last commit; None if there is none or the journal cannot be read."""
        if is_remote(self.path):
            return None
        try:
            with open(self._name, "rb") as file:
                file.seek(max(0, os.path.getsize(self._name) - _TAIL_BYTES))
                lines = file.read().split(b"\n")
        except OSError:
            return None
        return next((entry for line in reversed(lines) if (entry := _entry(line))), None)

    def files(self) -> dict[str, FileSum]:
        """Return the checksums by path, relative to the index's folder."""
        found: dict[str, FileSum] = {}
        try:
            with open(self._name, "rb") as file:
                for line in file:
                    entry = _entry(line.rstrip(b"\n"))
                    found |= entry.files if entry else {}
        except OSError:
            pass
        return found

    def check_manifest(self) -> int:
        """Check the manifest of the last version and return its number.

        Returns:
            0 if the journal is empty.

        Raises:
            IndexStorageError: it is damaged.
        """
        entry = self.last()
        if entry is None:
            return 0
        try:
            found = sum_file(os.path.join(self.path, entry.manifest))
        except OSError:  # old versions may be gone; opening the newest one reports it
            return entry.version
        if found != entry.manifest_sum:
            raise IndexStorageError(
                f"{self.path}: {entry.manifest} is damaged, which says what is in the index; "
                f"bring that file back from a copy of the folder, {_otherwise(self.path)}. To go "
                "on with the version before, delete it"
            )
        return entry.version

    def check_version(self, version: int, last: int) -> None:
        """Check that an opened version is not older than the last commit.

        Raises:
            IndexStorageError: it is.
        """
        if version < last:
            raise IndexStorageError(
                f"{self.path}: version {last} was committed, but the newest that is there is "
                f"{version}: the manifests after it are lost, and with them what was changed "
                f"since; bring {self.path}/_versions back from a copy, {_otherwise(self.path)}. "
                f"To go on with version {version}, delete {self._name}"
            )

    def _append(self, lines: list[str]) -> None:
        os.makedirs(os.path.dirname(self._name), exist_ok=True)
        with open(self._name, "ab+") as file:
            if file.tell() and not self._ends_a_line(file):
                lines.insert(0, "\n")  # after a line that a crash cut off
            file.write("".join(lines).encode())

    def _ends_a_line(self, file: Any) -> bool:
        file.seek(-1, os.SEEK_END)
        return bool(file.read(1) == b"\n")

    def _lines(
        self,
        dataset: lance.LanceDataset,
        files: Iterable[str],
        known: Mapping[str, FileSum] | None = None,
    ) -> Iterator[str]:
        version = int(dataset.version)
        manifest = next(
            (name for name in _manifests(version) if os.path.exists(self._below(name))), None
        )
        if manifest is None:
            return
        manifest_sum = sum_file(self._below(manifest))
        sums = [*(known or {}).items(), *((name, sum_file(self._below(name))) for name in files)]
        for start in range(0, max(1, len(sums)), _FILES_A_LINE):
            part = dict(sums[start : start + _FILES_A_LINE])
            yield _line(JournalEntry(version, manifest, manifest_sum, part))

    def _below(self, name: str) -> str:
        return os.path.join(self.path, name)


def files_of(dataset: lance.LanceDataset) -> dict[str, int]:
    """Return the files of a version, relative to the index's folder, with their fragment ids."""
    found: dict[str, int] = {}
    for fragment in dataset.get_fragments():
        metadata = fragment.metadata
        for file in metadata.files:
            found[f"data/{file.path}"] = int(fragment.fragment_id)
        if metadata.deletion_file is not None:
            found[str(fragment.deletion_file())] = int(fragment.fragment_id)
    return found


class DamagedFile(NamedTuple):
    """A damaged file: its path in the index's folder, its fragment id, and the reason."""

    name: str
    fragment: int
    reason: str


def find_damaged_files(
    dataset: lance.LanceDataset, path: str, progress: Callable[[int], object] = lambda _: None
) -> Iterator[DamagedFile]:
    """Yield the files of a version that are missing or differ from the journal.

    Args:
        dataset: the version.
        path: of the index.
        progress: told of how many bytes were read since the last call.
    """
    if is_remote(path):
        return
    known = Journal(path).files()
    for name, fragment in files_of(dataset).items():
        below = os.path.join(path, name)
        try:
            if not os.path.exists(below):
                yield DamagedFile(name, fragment, "missing")
            elif name in known and sum_file(below, progress) != known[name]:
                yield DamagedFile(name, fragment, "not as it was written")
        except OSError as err:
            yield DamagedFile(name, fragment, f"cannot be read: {err}")


def _manifests(version: int) -> tuple[str, str]:
    """Return the names of a version's manifest: since Lance 0.16, and before."""
    return f"_versions/{_MAX_VERSION - version:020}.manifest", f"_versions/{version}.manifest"


def _line(entry: JournalEntry) -> str:
    text = json.dumps(entry, ensure_ascii=True)
    return f"{text}\t{zlib.crc32(text.encode()):08x}\n"


def _entry(line: bytes) -> JournalEntry | None:
    """Parse a line; None if it is not complete."""
    text, _, checksum = line.rpartition(b"\t")
    if not text or checksum != f"{zlib.crc32(text):08x}".encode():
        return None
    version, manifest, manifest_sum, files = json.loads(text)
    sums = {name: FileSum(*of) for name, of in files.items()}
    return JournalEntry(version, manifest, FileSum(*manifest_sum), sums)


def _otherwise(path: str) -> str:
    return f"or index anew: pe index FOLDER --index {shlex.quote(path)}-2"


def create(path: str, schema: pa.Schema) -> lance.LanceDataset:
    """Create an empty index.

    Raises:
        IndexExistsError: an index, or something else, is there.
        IndexStorageError: it cannot be written.
    """
    dataset = create_dataset(path, schema)
    with storage_errors(path):
        Journal(path).remove()  # of a deleted index
    create_full_text(dataset, path)
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
        dataset = lance.write_dataset(
            schema.empty_table(), path, mode="overwrite", data_storage_version=FILE_VERSION
        )
        Journal(path).remove()
    create_full_text(dataset, path)
    return dataset


def open_latest(path: str, session: Session | None = None) -> lance.LanceDataset:
    """Open the latest version, and check that it is the last commit.

    Args:
        path: of the index.
        session: see `open_dataset`.

    Raises:
        IndexNotFoundError: there is no index.
        IndexStorageError: it cannot be read, or is damaged.
    """
    journal = Journal(path)
    last = journal.check_manifest()
    try:
        dataset = open_dataset(path, session)
    except IndexNotFoundError:
        if last and os.path.isdir(os.path.join(path, "_versions")):
            journal.check_version(0, last)
        raise
    journal.check_version(int(dataset.version), last)
    return dataset


@contextmanager
def journaled_commit(dataset: lance.LanceDataset, path: str) -> Iterator[None]:
    """Add to the journal what is committed with the dataset in the block.

    Raises:
        IndexStorageError: writing failed.
    """
    with storage_errors(path):
        before = files_of(dataset)
        yield
        Journal(path).add(dataset, sorted(files_of(dataset).keys() - before.keys()))


def lay_out(
    dataset: lance.LanceDataset, path: str, rows: Sequence[Row], vectors: Embeddings
) -> pa.Table:
    """Return rows and vectors as a table of the latest version, adding columns to it as needed.

    Raises:
        ValueError: metadata does not fit.
        IndexStorageError: writing failed.
    """
    fields = find_new_fields(rows, dataset.schema)
    index = to_arrow(rows, vectors, add_fields(dataset.schema, fields))
    if fields:
        with journaled_commit(dataset, path):
            dataset.add_columns(fields)
    return index


def replace_columns(dataset: lance.LanceDataset, fragment: int, values: pa.Table) -> None:
    """Commit new values of a fragment's columns, and let the dataset show them.

    `merge_insert` would copy the vectors of the rows into a new fragment. Here only the columns are
    written again.

    Args:
        dataset: the latest version.
        fragment: its id.
        values: the column `id`, and the columns to replace.
    """
    import lance

    part = dataset.get_fragment(fragment)
    assert part is not None  # of this version
    changed, fields = part.update_columns(values, left_on="id", right_on="id")
    update = lance.LanceOperation.Update(updated_fragments=[changed], fields_modified=fields)
    lance.LanceDataset.commit(dataset.uri, update, read_version=dataset.version)
    dataset.checkout_latest()  # type: ignore[no-untyped-call]


def renew_texts(dataset: lance.LanceDataset, fragments: Sequence[lance.LanceFragment]) -> None:
    """Commit the texts of fragments anew where other columns have changed since.

    Args:
        dataset: the latest version, which shows the result.
        fragments: of it.
    """
    if TEXT not in dataset.schema.names:
        return
    for fragment in fragments:
        stale = find_stale_texts(dataset, fragment)
        if stale is not None:
            replace_columns(dataset, fragment.fragment_id, stale)


def check_files(dataset: lance.LanceDataset, path: str) -> None:
    """Compare the files of a version with their checksums in the journal.

    Raises:
        IndexStorageError: some are damaged.
    """
    with storage_errors(path):
        damaged = [f"{one.name} ({one.reason})" for one in find_damaged_files(dataset, path)]
    if damaged:
        raise IndexStorageError(
            f"{path}: damaged files: {', '.join(damaged[:_SHOWN])}"
            f"{' and others' if len(damaged) > _SHOWN else ''}; pe doctor --index "
            f"{shlex.quote(path)} says which rows are in them, and what to do"
        )
