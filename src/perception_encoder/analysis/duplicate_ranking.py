"""The images of an index in the order in which one would keep them: number 0 first.

Everything about duplicates speaks of images by these numbers, so "the better of two" is the
smaller number. Columns, not objects: about 200 bytes an image. Knows nothing of vectors or files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_encoder.analysis.damaged_vectors import REASON, Checkpoint, go_on, is_damaged
from perception_encoder.errors import IndexStorageError
from perception_encoder.index import Index, Row
from perception_encoder.index.known_rows import HEX_DIGITS, digests_of_column
from perception_encoder.index.schema import VECTOR, vectors_of
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    import pyarrow as pa


Keep: TypeAlias = Literal["resolution", "size", "oldest", "newest", "first"]
"""The image with the most pixels, the most bytes, the earliest or latest change, or the first by
path."""

Numbers: TypeAlias = NDArray[np.int64]
"""(R,) int64: numbers of images."""

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


@dataclass(frozen=True)
class RankedImages:
    """What is known of R images, the most preferred first.

    Attributes:
        facts: R rows of columns named as `Row`'s fields.
        contents: (R,) int64: the first image with the same bytes; its own number where there is
            no other, or its content is not known.
        shapes: (R,) int64: equal for images of equal width and height.
        numbers: (R,) int64: of the index's rows, in its order, the images' numbers.
    """

    facts: pa.Table
    contents: Numbers
    shapes: Numbers
    numbers: Numbers

    def __len__(self) -> int:
        return len(self.contents)

    def row(self, number: int) -> Row:
        """Return an image's row, without its content's digest and its metadata."""
        return Row(**{name: self.facts[name][number].as_py() for name in self.facts.column_names})


def rank_images(
    index: Index, keep: Keep, where: str | None, checkpoint: Checkpoint = go_on
) -> RankedImages:
    """Read the images that meet a condition and put them in order.

    What is not known (a size, a time) comes last. Ties are broken by pixels, bytes and path, so the
    order depends on the images only, not on how the index came about.

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
        checkpoint()
        contents.append(digests_of_column(batch["sha256"].fill_null("0" * HEX_DIGITS)))
        has_content.append(batch["sha256"].is_valid().to_numpy(zero_copy_only=False))
        columns = [batch[name].cast(schema.field(name).type) for name in names]
        batches.append(pa.record_batch(columns, schema=schema))
    facts = pa.Table.from_batches(batches, schema)
    order = _order(facts, keep)
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.arange(len(order))
    facts = facts.take(order)
    return RankedImages(
        facts=facts,
        contents=_first_equal(np.concatenate(contents)[order], np.concatenate(has_content)[order]),
        shapes=_shapes(facts),
        numbers=numbers,
    )


def _wide(field: pa.Field) -> pa.Field:
    """Return a column's type here: texts of any total length, times as plain nanoseconds."""
    import pyarrow as pa

    wide = {pa.string(): pa.large_string()}.get(field.type, pa.int64())
    return pa.field(field.name, wide)


def _order(facts: pa.Table, keep: Keep) -> Numbers:
    """Return (R,) int64: the rows' places in the index, the most preferred first."""
    import pyarrow.compute as pc

    pixels = pc.multiply(facts["width"], facts["height"])
    order = pc.sort_indices(
        facts.append_column("pixels", pixels),
        sort_keys=list(_ORDERS[keep]),
    )
    return np.asarray(order.to_numpy(), np.int64)


def _shapes(facts: pa.Table) -> Numbers:
    width, height = (facts[name].fill_null(_UNKNOWN).to_numpy() for name in ("width", "height"))
    return np.asarray((width << 32) + height, np.int64)


def _first_equal(digests: NDArray[np.uint64], is_known: NDArray[np.bool_]) -> Numbers:
    """Return, of each of the (R, 2) digests, the number of the first that is equal."""
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
    """Vectors by the images' numbers; each reading is one pass over the index.

    Args:
        index: the index.
        images: of it.
        where: the condition that `images` was made with.
        checkpoint: is called for each block.
    """

    def __init__(
        self,
        index: Index,
        images: RankedImages,
        where: str | None,
        checkpoint: Checkpoint = go_on,
    ) -> None:
        self.checkpoint: Final = checkpoint
        self.embed_dim: Final = index.identity.embed_dim
        self._index = index
        self._images = images
        self._where = where

    def read(self, wanted: Numbers) -> Embeddings:
        """Return (C, E) float32: the vectors of the wanted images, (C,), in that order."""
        places = np.empty(len(self._images), np.int64)
        places[wanted] = np.arange(len(wanted))
        vectors = np.empty((len(wanted), self.embed_dim), np.float32)
        for numbers, block in self.blocks(wanted):
            vectors[places[numbers]] = block
        return vectors

    def blocks(self, wanted: Numbers) -> Iterator[tuple[Numbers, Embeddings]]:
        """Yield the wanted images' numbers and vectors, in the index's order.

        Raises:
            IndexStorageError: one of them is damaged; see `damaged_vectors`.
        """
        is_wanted = np.zeros(len(self._images), np.bool_)
        is_wanted[wanted] = True
        start = 0
        for batch in self._index.scan([VECTOR], where=self._where):
            self.checkpoint()
            numbers = self._images.numbers[start : start + batch.num_rows]
            start += batch.num_rows
            rows = np.flatnonzero(is_wanted[numbers])
            if rows.size:
                vectors = vectors_of(batch.take(rows))
                damaged = np.flatnonzero(is_damaged(vectors))
                if damaged.size:
                    row = self._images.row(int(numbers[rows[damaged[0]]]))
                    raise IndexStorageError(f"{self._index.path}: {row.name}: {REASON}")
                yield numbers[rows], vectors
