"""Verifies all files of an index and reports what is damaged. Nothing is changed.

Lance's files are compared with the journal's checksums, every row must have the right id and an
embedding of unit length, and every block of the searcher is read.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from perception_encoder.errors import IndexStorageError
from perception_encoder.index.checksums import SearcherDamageError
from perception_encoder.index.commits import Journal, files_of, find_damaged_files, open_latest
from perception_encoder.index.exact import UNIT_TOLERANCE
from perception_encoder.index.known_rows import digests_of, digests_of_column
from perception_encoder.index.outcomes import OutcomeLog
from perception_encoder.index.rows import item_name, row_id
from perception_encoder.index.schema import VECTOR, identity_of, vectors_of
from perception_encoder.index.searcher.files import SearcherFolder
from perception_encoder.index.searcher.searcher import Searcher
from perception_encoder.index.storage import is_remote, sidecar_path, storage_errors

if TYPE_CHECKING:
    import lance
    import pyarrow as pa

Progress: TypeAlias = Callable[[str, int, int], object]
"""Called with the step ("files", "rows", "searcher"), how much of it is done, and the total."""

_NAMED: Final = 5  # rows of one problem that are named
_BLOCK_ROWS: Final = 4096
_ROW_ID_BITS: Final = 32  # of Lance's row ids; the higher bits are the fragment id


@dataclass(frozen=True)
class Problem:
    """A damage of an index.

    Attributes:
        place: a file in the index's folder, or "rows".
        reason: what is wrong.
        remedy: what to do.
        num_rows: the number of affected rows.
        where: the condition of the affected rows, for `--where`; or "".
        names: of a few of them.
    """

    place: str
    reason: str
    remedy: str
    num_rows: int = 0
    where: str = ""
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class VerifyReport:
    """The result of `verify_index`.

    Attributes:
        path: of the index.
        num_rows: of its latest version; 0 if it cannot be opened.
        num_files: the number of its data files.
        num_compared: how many of them have checksums.
        has_searcher: whether there is a searcher.
        problems: the damages, in no particular order.
    """

    path: str
    num_rows: int = 0
    num_files: int = 0
    num_compared: int = 0
    has_searcher: bool = False
    problems: tuple[Problem, ...] = ()


def verify_index(
    path: str | os.PathLike[str], progress: Progress = lambda *_: None
) -> VerifyReport:
    """Verify an index, which takes as long as reading all files twice.

    Raises:
        IndexNotFoundError: there is none at that path.
    """
    location = os.fspath(path)
    try:
        dataset = open_latest(location)
        identity_of(dataset.schema, location)
        names = files_of(dataset)
        num_rows = int(dataset.count_rows())
    except IndexStorageError as err:
        remedy = f"bring {location} back from a copy, or {_anew(location)}"
        return VerifyReport(location, problems=(Problem("_versions", str(err), remedy),))
    checking = _Checking(location, dataset, progress)
    checking.check_files()
    checking.check_rows()
    has_searcher = checking.check_searcher()
    checking.check_outcomes()
    known = Journal(location).files()
    return VerifyReport(
        location,
        num_rows,
        len(names),
        len(names.keys() & known.keys()),
        has_searcher,
        tuple(checking.problems),
    )


@dataclass
class _Checking:
    """The verification of one version."""

    path: str
    dataset: lance.LanceDataset
    progress: Progress
    problems: list[Problem] = field(default_factory=list)

    def check_files(self) -> None:
        """Compare the files with their checksums."""
        if is_remote(self.path):
            return
        names = files_of(self.dataset)
        present = [os.path.join(self.path, name) for name in names]
        total = sum(os.path.getsize(name) for name in present if os.path.exists(name))
        counted = _Counted("files", total, self.progress)
        num_rows = {part.fragment_id: part.count_rows() for part in self.dataset.get_fragments()}
        for one in find_damaged_files(self.dataset, self.path, counted.add):
            self.problems.append(
                Problem(
                    one.name,
                    one.reason,
                    f"bring {one.name} back from a copy of the folder (Lance never changes a file "
                    f"that is written), or {_anew(self.path)}",
                    num_rows[one.fragment],
                    _in_fragment(one.fragment),
                )
            )

    def check_rows(self) -> None:
        """Check every row."""
        fragments = self.dataset.get_fragments()
        counted = _Counted("rows", int(self.dataset.count_rows()), self.progress)
        seen = [digests_of([])]
        for fragment in fragments:
            found = _Rows()
            try:
                with storage_errors(self.path):
                    for batch in _batches(self.dataset, fragment):
                        found.check(batch)
                        counted.add(batch.num_rows)
            except IndexStorageError as err:
                self._add_unreadable(fragment, err)
                continue
            seen.append(found.digests())
            self.problems += found.problems(fragment, self.path)
        keys = np.concatenate(seen)
        num_twice = len(keys) - len(np.unique(keys, axis=0))
        if num_twice:
            self.problems.append(
                Problem("rows", "the same id as another row", _anew(self.path), num_twice)
            )

    def _add_unreadable(self, fragment: lance.LanceFragment, err: IndexStorageError) -> None:
        where = _in_fragment(fragment.fragment_id)
        if any(problem.where == where for problem in self.problems):
            return  # the file is known to be damaged
        files = ", ".join(file.path for file in fragment.data_files())
        reason = f"cannot be read: {err.__cause__}"
        self.problems.append(
            Problem(f"data/{files}", reason, _anew(self.path), int(fragment.count_rows()), where)
        )

    def check_searcher(self) -> bool:
        """Read all of the searcher, if there is one; return whether there is one."""
        folder = SearcherFolder(self.path)
        header = folder.read()
        if header is None:
            if folder.stamp(None) is not None:
                self._add_searcher("searcher.json", "damaged, or of another version")
            return False
        try:
            searcher = Searcher(folder, header)
            counted = _Counted("searcher", sum(header.sizes.values()), self.progress)
            for file in searcher.files.values():
                file.check_all()
                counted.add(len(file.octets))
        except (OSError, ValueError, SearcherDamageError) as err:
            self._add_searcher(header.token, str(err))
        return True

    def _add_searcher(self, name: str, reason: str) -> None:
        remedy = f"make a new one: pe optimize --index {shlex.quote(self.path)}; no row is lost"
        self.problems.append(Problem(f"_pe/searcher/{name}", reason, remedy))

    def check_outcomes(self) -> None:
        """Read the outcomes of runs."""
        log = OutcomeLog(self.path)
        try:
            for _ in log.latest():
                pass
        except IndexStorageError as err:
            remedy = f"delete {sidecar_path(self.path, 'outcomes.lance')}; no row is lost"
            reason = f"cannot be read: {err.__cause__}"
            self.problems.append(Problem("_pe/outcomes.lance", reason, remedy))


class _Counted:
    """Reports the progress of one step."""

    def __init__(self, step: str, total: int, progress: Progress) -> None:
        self._step, self._total, self._progress = step, total, progress
        self._done = 0
        progress(step, 0, total)

    def add(self, more: int) -> None:
        self._done += more
        self._progress(self._step, self._done, self._total)


class _Rows:
    """Collects the problems of the rows of one fragment."""

    def __init__(self) -> None:
        self._wrong: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}
        self._keys = [digests_of([])]

    def check(self, batch: pa.RecordBatch) -> None:
        """Check a block of rows."""
        uris, members, ids = (batch[name].to_pylist() for name in ("uri", "member", "id"))
        rows = list(zip(uris, members, ids, strict=True))
        self._keys.append(digests_of_column(batch["id"]))
        for uri, member, key in rows:
            if key != row_id(uri, member):
                self._add("their id is not that of their name", uri, member)
        lengths = np.linalg.norm(vectors_of(batch), axis=1)
        for place in np.flatnonzero(~(np.abs(lengths - 1) < UNIT_TOLERANCE)).tolist():
            uri, member, _ = rows[place]
            self._add("their embedding is not of unit length", uri, member)

    def digests(self) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
        """Return the `digests_of` all ids."""
        return np.concatenate(self._keys)

    def problems(self, fragment: lance.LanceFragment, path: str) -> Iterator[Problem]:
        """Yield the problems."""
        place = ", ".join(f"data/{file.path}" for file in fragment.data_files())
        for reason, names in self._wrong.items():
            yield Problem(
                place,
                f"rows were changed: {reason}",
                f"bring {place} back from a copy of the folder, or {_anew(path)}",
                self._counts[reason],
                _in_fragment(fragment.fragment_id),
                tuple(names),
            )

    def _add(self, reason: str, uri: str, member: str | None) -> None:
        names = self._wrong.setdefault(reason, [])
        self._counts[reason] = self._counts.get(reason, 0) + 1
        if len(names) < _NAMED:
            names.append(item_name(uri, member))


def _batches(
    dataset: lance.LanceDataset, fragment: lance.LanceFragment
) -> Iterator[pa.RecordBatch]:
    scanner = dataset.scanner(
        columns=list(dataset.schema.names), fragments=[fragment], batch_size=_BLOCK_ROWS
    )
    for batch in scanner.to_batches():
        batch.validate(full=True)  # such as text that is not Unicode
        yield batch.select(["id", "uri", "member", VECTOR])


def _in_fragment(number: int) -> str:
    first = number << _ROW_ID_BITS
    return f"_rowid BETWEEN {first} AND {first + (1 << _ROW_ID_BITS) - 1}"


def _anew(path: str) -> str:
    return f"index anew: pe index FOLDER --index {shlex.quote(path)}-2"
