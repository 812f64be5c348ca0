"""All images of an index, ranked by preference, and their embeddings, read block by block.

Duplicates, clusters and maps name images by their rank: of two images the preferred one has the
smaller number. Columns take about 200 bytes an image. Embeddings that are not of unit length (NaN,
zeros, damaged files) would falsify all results, so they are found and set apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_encoder.errors import IndexStorageError
from perception_encoder.index import Index, Row
from perception_encoder.index.known_rows import HEX_DIGITS, digests_of_column
from perception_encoder.index.schema import VECTOR, rows_of, vectors_of
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    import pyarrow as pa


ReportStep: TypeAlias = Callable[[str, int, int], None]
"""Takes a step of the work, what is done of it and the total, 0 if unknown; may raise to end it."""

Keep: TypeAlias = Literal["resolution", "size", "oldest", "newest", "first"]
"""The preferred image: with the most pixels, the most bytes, the earliest or latest change, or the
first by path."""

Numbers: TypeAlias = NDArray[np.int64]
"""(R,) int64: numbers of images."""

DAMAGE_REASON: Final = (
    "its vector in the index is damaged (not of unit length); make the index anew"
)
MOST_DAMAGED: Final = 500
"""The most damaged rows that a condition leaves out; with more the whole index is damaged."""

_TOLERANCE: Final = 1e-2  # of a length; rounding to float16 changes it far less
_FACTS: Final = ("uri", "member", "offset", "width", "height", "bytes", "mtime")
_BY_PATH: Final = (("uri", "ascending"), ("member", "ascending"))
_BY_PIXELS: Final = ("pixels", "descending")
_BY_BYTES: Final = ("bytes", "descending")
_ORDERS: Final[dict[Keep, tuple[tuple[str, str], ...]]] = {
    "resolution": (_BY_PIXELS, _BY_BYTES, *_BY_PATH),
    "size": (_BY_BYTES, _BY_PIXELS, *_BY_PATH),
    "oldest": (("mtime", "ascending"), _BY_PIXELS, _BY_BYTES, *_BY_PATH),
    "newest": (("mtime", "descending"), _BY_PIXELS, _BY_BYTES, *_BY_PATH),
    "first": _BY_PATH,
}
_UNKNOWN: Final = -1


def report_nothing(step: str, done: int, total: int) -> None:
    """Report nothing: the default of `ReportStep`."""


def is_damaged(vectors: Embeddings) -> NDArray[np.bool_]:
    """Return (R,) bool: which rows of (R, E) are not of unit length."""
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(vectors, axis=1)
        is_unit: NDArray[np.bool_] = np.abs(lengths - 1) < _TOLERANCE
        return ~is_unit


def find_damaged_rows(
    index: Index, where: str | None, report: ReportStep = report_nothing
) -> list[Row]:
    """Read all embeddings, and return the rows whose embedding is damaged.

    Args:
        index: the index.
        where: an SQL condition; other rows are left out.
        report: called before each block.

    Raises:
        IndexStorageError: there are more than `MOST_DAMAGED`.
        QueryError: the condition is wrong.
    """
    found: list[Row] = []
    columns = [name for name in ("uri", "member", "offset") if name in index.schema.names]
    num_read, total = 0, 0 if where else index.count()
    for batch in index.scan([*columns, VECTOR], where=where):
        report("reading embeddings", num_read, total)
        num_read += batch.num_rows
        damaged = np.flatnonzero(is_damaged(vectors_of(batch)))
        if damaged.size:
            found += rows_of(batch.take(damaged))
        if len(found) > MOST_DAMAGED:
            raise IndexStorageError(
                f"{index.path}: more than {MOST_DAMAGED} vectors are damaged, such as that of "
                f"{found[0].name}; make the index anew"
            )
    return found


class ReadBlock(NamedTuple):
    """Neighboring rows of an index.

    Attributes:
        rows: N rows with uri, member and offset only.
        vectors: (N, E) float32, their embeddings, unit length.
        damaged: the rows of the block whose embedding is damaged.
    """

    rows: list[Row]
    vectors: Embeddings
    damaged: list[Row]


def read_blocks(
    index: Index, where: str | None = None, *, more: Sequence[str] = ()
) -> Iterator[ReadBlock]:
    """Yield the rows and embeddings of an index block by block.

    Args:
        index: the index.
        where: an SQL condition; other rows are left out.
        more: columns to read besides names, as far as the index has them.

    Raises:
        QueryError: the condition is wrong.
    """
    wanted = dict.fromkeys(("uri", "member", "offset", *more))
    columns = [name for name in wanted if name in index.schema.names]
    for batch in index.scan([*columns, VECTOR], where=where):
        rows, vectors = list(rows_of(batch)), vectors_of(batch)
        is_bad = is_damaged(vectors)
        yield ReadBlock(
            [rows[place] for place in np.flatnonzero(~is_bad).tolist()],
            vectors[~is_bad],
            [rows[place] for place in np.flatnonzero(is_bad).tolist()],
        )


def exclude_rows(rows: list[Row], where: str | None) -> str | None:
    """Return a condition that is met where `where` is met, except by these rows."""
    if not rows:
        return where
    ids = ", ".join(f"'{row.id}'" for row in rows)
    condition = f"id NOT IN ({ids})"
    return f"({where}) AND {condition}" if where else condition


@dataclass(frozen=True)
class RankedImages:
    """The columns of R images, the most preferred first.

    Attributes:
        facts: R rows of columns named like the fields of `Row`.
        contents: (R,) int64: the number of the first image with the same bytes; an image's own
            number where its content is unique or unknown.
        shapes: (R,) int64: equal for images of equal width and height.
        numbers: (R,) int64: the image number of each row, in the order of the index.
    """

    columns: pa.Table
    contents: Numbers
    shapes: Numbers
    numbers: Numbers

    def __len__(self) -> int:
        return len(self.contents)

    def row(self, number: int) -> Row:
        """Return an image's row without its digest and metadata."""
        columns = self.columns
        return Row(**{name: columns[name][number].as_py() for name in columns.column_names})


def rank_images(
    index: Index, keep: Keep, where: str | None, report: ReportStep = report_nothing
) -> RankedImages:
    """Read the images that meet a condition, and rank them.

    Unknown sizes and times come last. Ties are broken by pixels, bytes and path, so the order
    depends on the images only, not on the order of the index.

    Raises:
        QueryError: the condition is wrong.
    """
    import pyarrow as pa

    names = [name for name in _FACTS if name in index.schema.names]  # old indexes lack `offset`
    contents = [np.empty((0, 2), np.uint64)]
    has_content = [np.empty(0, np.bool_)]
    schema = pa.schema([_wide(index.schema.field(name)) for name in names])
    batches = []
    for batch in index.scan(["sha256", *names], where=where):
        report("listing images", 0, 0)
        contents.append(digests_of_column(batch["sha256"].fill_null("0" * HEX_DIGITS)))
        has_content.append(batch["sha256"].is_valid().to_numpy(zero_copy_only=False))
        columns = [batch[name].cast(schema.field(name).type) for name in names]
        batches.append(pa.record_batch(columns, schema=schema))
    columns = pa.Table.from_batches(batches, schema)
    batches.clear()  # the ranked columns are a copy
    order = _order(columns, keep)
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.arange(len(order))
    columns = columns.take(order)
    return RankedImages(
        columns=columns,
        contents=_first_equal(np.concatenate(contents)[order], np.concatenate(has_content)[order]),
        shapes=_shapes(columns),
        numbers=numbers,
    )


def _wide(field: pa.Field) -> pa.Field:
    """Return the field with large strings, and times as int64 nanoseconds."""
    import pyarrow as pa

    wide = {pa.string(): pa.large_string()}.get(field.type, pa.int64())
    return pa.field(field.name, wide)


def _order(columns: pa.Table, keep: Keep) -> Numbers:
    """Return (R,) int64: the positions of the rows in the index, the most preferred first."""
    import pyarrow.compute as pc

    pixels = pc.multiply(columns["width"], columns["height"])
    order = pc.sort_indices(
        columns.append_column("pixels", pixels),
        sort_keys=list(_ORDERS[keep]),
    )
    return np.asarray(order.to_numpy(), np.int64)


def _shapes(columns: pa.Table) -> Numbers:
    width, height = (columns[name].fill_null(_UNKNOWN).to_numpy() for name in ("width", "height"))
    return np.asarray((width << 32) + height, np.int64)


def _first_equal(digests: NDArray[np.uint64], is_known: NDArray[np.bool_]) -> Numbers:
    """Return (R,) int64: the number of the first digest equal to each of the (R, 2) digests."""
    first = np.arange(len(digests))
    known = np.flatnonzero(is_known)
    if known.size == 0:
        return first
    # A stable sort: of equal digests the one with the smallest number comes first.
    order = known[np.lexsort((digests[known, 1], digests[known, 0]))]
    begins = np.ones(len(order), np.bool_)
    begins[1:] = (digests[order[1:]] != digests[order[:-1]]).any(axis=1)
    first[order] = order[begins][np.cumsum(begins) - 1]
    return first


class RankedVectors:
    """Reads embeddings by image number; each reading is one pass over the index.

    Args:
        index: the index.
        images: its images.
        where: the condition that `images` was made with.
        report: called before each block.
    """

    def __init__(
        self,
        index: Index,
        images: RankedImages,
        where: str | None,
        report: ReportStep = report_nothing,
    ) -> None:
        self.report: Final = report
        self.embed_dim: Final = index.identity.embed_dim
        self._index = index
        self._images = images
        self._where = where

    def read(self, wanted: Numbers) -> Embeddings:
        """Return (C, E) float32: the embeddings of C images, in their order."""
        places = np.empty(len(self._images), np.int64)
        places[wanted] = np.arange(len(wanted))
        vectors = np.empty((len(wanted), self.embed_dim), np.float32)
        for numbers, block in self.blocks(wanted):
            vectors[places[numbers]] = block
        return vectors

    def blocks(self, wanted: Numbers) -> Iterator[tuple[Numbers, Embeddings]]:
        """Yield the numbers and embeddings of the wanted images, in the order of the index.

        Raises:
            IndexStorageError: an embedding is damaged.
        """
        is_wanted = np.zeros(len(self._images), np.bool_)
        is_wanted[wanted] = True
        start = 0
        for batch in self._index.scan([VECTOR], where=self._where):
            self.report("reading embeddings", start, len(self._images))
            numbers = self._images.numbers[start : start + batch.num_rows]
            start += batch.num_rows
            rows = np.flatnonzero(is_wanted[numbers])
            if rows.size:
                vectors = vectors_of(batch.take(rows))
                damaged = np.flatnonzero(is_damaged(vectors))
                if damaged.size:
                    row = self._images.row(int(numbers[rows[damaged[0]]]))
                    raise IndexStorageError(f"{self._index.path}: {row.name}: {DAMAGE_REASON}")
                yield numbers[rows], vectors
