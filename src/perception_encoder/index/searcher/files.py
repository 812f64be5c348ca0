"""The files of a searcher: named, committed, checked and deleted.

    _pe/searcher/searcher.json      the header; files that it does not name are leftovers
    _pe/searcher/TOKEN.vectors      float16 (R, E): the index's vectors in the index's order
    _pe/searcher/TOKEN.lists        a faiss IndexIVFRaBitQ of the same rows
    _pe/searcher/TOKEN.coarse.npz   which lists to look at for a query
    _pe/searcher/TOKEN.sums         checksums of the pages of the others, one after another

Data files are written first, under new names; replacing the header commits them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self, TypeAlias

import numpy as np

from perception_encoder.atomic import atomic_write
from perception_encoder.index.checksums import (
    PAGE_BYTES,
    Sums,
    checksum_of,
    sum_blocks,
    sum_blocks_of_file,
)
from perception_encoder.index.storage import is_remote, sidecar_path, storage_errors

logger = logging.getLogger(__name__)

FORMAT: Final = 3
RESULT_COUNTS: Final = (10, 100)
"""Numbers of results that approximate search is tuned for; for more, every vector is compared."""
_HEADER: Final = "searcher.json"
_SUMS: Final = "sums"


Stamp: TypeAlias = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class CoveredFragment:
    """A part of the index as it was when its vectors were copied.

    Attributes:
        id: Lance's number of the fragment, the upper half of its rows' ids.
        file: the data file that holds its vectors; Lance never changes or reuses one.
        num_rows: physical rows, those deleted included.
        num_deleted: rows that were deleted already.
    """

    id: int
    file: str
    num_rows: int
    num_deleted: int


@dataclass(frozen=True)
class Tuning:
    """A measurement of the lists.

    Attributes:
        k: number of results.
        probes: how many lists a query searches.
        candidates: how many rows of them are scored again.
        recall: measured share of the true best k, of the worse kind of query.
    """

    k: int
    probes: int
    candidates: int
    recall: float


@dataclass(frozen=True)
class Header:
    """The content of `searcher.json`.

    Attributes:
        token: the prefix of the data files.
        version: of the index that it was built from.
        embed_dim: E.
        vector_dtype: of the index's vectors.
        fragments: of the index, in the order of their rows in the files.
        sizes: of the data files in bytes, by suffix.
        sums: checksum of the file of checksums.
        num_lists: for approximate search; 0 without lists.
        lists_start: where the lists begin in their file; the part before that is read at once.
        tuning: for several k, ascending; empty without lists.
        build_seconds: how long it took.
    """

    token: str
    version: int
    embed_dim: int
    vector_dtype: str
    fragments: tuple[CoveredFragment, ...]
    sizes: Mapping[str, int]
    sums: int = 0
    num_lists: int = 0
    lists_start: int = 0
    tuning: tuple[Tuning, ...] = ()
    build_seconds: float = 0.0
    format: int = FORMAT

    @property
    def num_rows(self) -> int:
        """Physical rows of the fragments."""
        return sum(fragment.num_rows for fragment in self.fragments)

    @property
    def num_pages(self) -> dict[str, int]:
        """Number of pages of the data files; each has a checksum."""
        return {end: -(-size // PAGE_BYTES) for end, size in self.sizes.items()}

    @property
    def num_bytes(self) -> int:
        """Size of all files except the header."""
        return sum(self.sizes.values()) + 8 * sum(self.num_pages.values())

    @classmethod
    def of(cls, found: dict[str, Any]) -> Self:
        """Read what `dataclasses.asdict` wrote."""
        found["fragments"] = tuple(CoveredFragment(**part) for part in found["fragments"])
        found["tuning"] = tuple(Tuning(**part) for part in found["tuning"])
        return cls(**found)


class SearcherFolder:
    """The folder of one index's searcher."""

    def __init__(self, find_index: str) -> None:
        self._is_remote = is_remote(find_index)
        self._path = sidecar_path(find_index, "searcher")

    def path(self, token: str, end: str) -> str:
        """Return the path of a data file."""
        return os.path.join(self._path, f"{token}.{end}")

    def stamp(self, header: Header | None) -> Stamp | None:
        """Return a value that changes with each committed searcher; None if there is none.

        Args:
            header: of the open searcher; the value then changes with its files as well.
        """
        if self._is_remote:
            return None
        names = [] if header is None else [self.path(header.token, end) for end in header.sizes]
        try:
            found = [os.stat(name) for name in (os.path.join(self._path, _HEADER), *names)]
        except OSError:
            return None
        return tuple((one.st_ino, one.st_mtime_ns) for one in found)

    def read(self) -> Header | None:
        """Return the header after quick checks of the files.

        None if there is no searcher, or a broken one, which is logged; search works without it.
        """
        if self._is_remote:
            return None
        try:
            with open(os.path.join(self._path, _HEADER), encoding="utf-8") as file:
                found = json.load(file)
            if found.get("format") != FORMAT:  # before the checksum, which others may not have
                logger.info("%s: made by another version of this package; ignored", self._path)
                return None
            if found.pop("checksum") != _checksum(found):
                raise ValueError(f"{_HEADER} is damaged")
            header = Header.of(found)
            self._check(header)
        except FileNotFoundError as err:
            if not (err.filename or "").endswith(_HEADER):
                self.warn(err)
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as err:
            self.warn(err)
            return None
        return header

    def warn(self, reason: object) -> None:
        """Log that the searcher cannot be used."""
        logger.warning(
            "%s: the searcher is broken (%s) and is not used: searching reads the whole index, "
            "which is slower; pe optimize makes a new one",
            self._path,
            reason,
        )

    def begin(self) -> str:
        """Prepare the folder for a new searcher and return its token.

        Raises:
            IndexStorageError: the folder cannot be written.
        """
        with storage_errors(self._path):
            os.makedirs(self._path, exist_ok=True)
        self._clean(keep=self._token())
        return uuid.uuid4().hex[:16]

    def finished(self, header: Header) -> Header:
        """Flush the data files of a new searcher to disk with checksums; return the final header.

        Raises:
            IndexStorageError: the disk is full.
        """
        token = header.token
        with storage_errors(self._path):
            names = sorted(os.listdir(self._path))
            ends = [name.removeprefix(f"{token}.") for name in names if name.startswith(token)]
            sums = np.concatenate(
                [sum_blocks_of_file(self.path(token, end), block_bytes=PAGE_BYTES) for end in ends]
            )
            sums.astype("<u8").tofile(self.path(token, _SUMS))
            for end in (*ends, _SUMS):
                _sync(self.path(token, end))
            sizes = {end: os.path.getsize(self.path(token, end)) for end in ends}
        return dataclasses.replace(header, sizes=sizes, sums=_sum_up(sums))

    def sums(self, header: Header) -> dict[str, Sums]:
        """Return the checksums of the data files' pages, by suffix.

        Raises:
            OSError, ValueError: they are gone or damaged.
        """
        path = self.path(header.token, _SUMS)
        sums = np.fromfile(path, "<u8").astype(np.uint64, copy=False)
        if _sum_up(sums) != header.sums:
            raise ValueError(f"{path} is damaged")
        counts = header.num_pages
        parts = np.split(sums, np.cumsum(list(counts.values())))
        return dict(zip(counts, parts, strict=False))

    def discard(self, token: str, ends: Sequence[str]) -> None:
        """Delete data files that are not needed.

        Raises:
            IndexStorageError: they cannot be deleted.
        """
        with storage_errors(self._path):
            for end in ends:
                os.remove(self.path(token, end))

    def commit(self, header: Header) -> None:
        """Commit a searcher whose data files are written, in place of the previous one.

        Raises:
            IndexStorageError: the disk is full.
        """
        name = os.path.join(self._path, _HEADER)
        with storage_errors(self._path):
            found = dataclasses.asdict(header)
            with atomic_write(name, sync=True) as temporary:
                temporary.write_text(json.dumps({**found, "checksum": _checksum(found)}))
        self._clean(keep=header.token)

    def remove(self) -> None:
        """Delete the searcher."""
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(self._path, _HEADER))
        self._clean(keep=None)

    def _token(self) -> str | None:
        """Return the token of the present searcher, valid or not."""
        try:
            with open(os.path.join(self._path, _HEADER), encoding="utf-8") as file:
                return str(json.load(file)["token"])
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def _check(self, header: Header) -> None:
        for end, size in header.sizes.items():
            path = self.path(header.token, end)
            if os.path.getsize(path) != size:
                raise ValueError(f"{path} has {os.path.getsize(path)} bytes, not {size}")
        if header.sizes.get("vectors") != 2 * header.num_rows * header.embed_dim:
            raise ValueError("the header contradicts itself")

    def _clean(self, *, keep: str | None) -> None:
        """Delete the files of other tokens: of interrupted builds and earlier searchers."""
        if not os.path.isdir(self._path):
            return
        for name in os.listdir(self._path):
            if name != _HEADER and (keep is None or not name.startswith(f"{keep}.")):
                # Windows does not delete a file that another process has open.
                with contextlib.suppress(OSError):
                    os.remove(os.path.join(self._path, name))


def _sum_up(sums: Sums) -> int:
    """Return a checksum of all sums; they may have 50 MB."""
    return checksum_of(sum_blocks(sums.astype("<u8", copy=False).view(np.uint8)))


def _checksum(header: Mapping[str, Any]) -> int:
    """Return the checksum of a header, before it is written or after it was read."""
    return zlib.crc32(json.dumps(header, sort_keys=True).encode())


def _sync(path: str) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
