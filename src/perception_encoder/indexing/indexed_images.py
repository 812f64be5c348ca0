"""The images of an index as a source: opened again by what its rows say of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby, islice
from typing import Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.errors import (
    ImageNotFoundError,
    ImageUnreadableError,
    PerceptionEncoderError,
)
from perception_encoder.index import Index, Row
from perception_encoder.index.schema import ROW_COLUMNS, rows_of
from perception_encoder.indexing.video_contents import (
    LocalVideoReader,
    StoredSegment,
    VideoContent,
    VideoFrames,
)
from perception_encoder.sources import Item, SourceOptions, open_sources, read_image
from perception_encoder.sources.columns import split_row_key
from perception_encoder.sources.item import is_packed, is_table, is_tar, scheme_of
from perception_encoder.types import Embeddings
from perception_encoder.vectors import normalize_rows
from perception_encoder.video.names import is_moment, parse_moment

_ROWS_AT_ONCE: Final = 20_000  # of one archive or table
_ROUNDED: Final = 0.00051  # seconds; the index stores times to the millisecond


class IndexedImages:
    """Lists every image of an index, and of a video the file, without their metadata.

    Size and time are those of the row, so that a later run recognizes what was done for this row.

    Args:
        index: the index; what others commit meanwhile is not listed.
    """

    name = "the images of the index"

    def __init__(self, index: Index) -> None:
        self._index = index

    def items(self) -> Iterator[Item]:
        """List the images in the index's order.

        Of a compressed archive or a table many rows are read in one pass.
        """
        for container, group in groupby(self._files(), _container_of):
            if container is None:
                yield from (_make_item(row) for row in group)
                continue
            while rows := list(islice(group, _ROWS_AT_ONCE)):
                yield from _list_container(*container, rows)

    def covers(self, uri: str, member: str | None) -> bool:  # noqa: ARG002  as every source
        """Return False: rows do not tell what should exist."""
        return False

    def _files(self) -> Iterator[Row]:
        """Yield the row of each image, and the first one of each video."""
        videos = set[str]()
        present = set(self._index.schema.names)
        for batch in self._index.scan([name for name in ROW_COLUMNS if name in present]):
            for row in rows_of(batch):
                if not is_moment(row.uri, row.member):
                    yield row
                elif row.uri not in videos:
                    videos.add(row.uri)
                    yield row


def _container_of(row: Row) -> tuple[str, str | None] | None:
    """Return the archive or table that must be read from its start, and the table's column."""
    if row.member is None:
        return None
    if is_tar(row.uri):
        return (row.uri, None) if is_packed(row.uri) else None
    key = split_row_key(row.member) if is_table(row.uri) else None
    return None if key is None else (row.uri, key[0])


def _list_container(uri: str, column: str | None, rows: Sequence[Row]) -> Iterator[Item]:
    wanted, damage = {row.id: row for row in rows}, None
    try:
        for source in open_sources([uri], SourceOptions(column=column)):
            for item in source.items():
                row = wanted.pop(item.id, None)
                if row is not None:
                    yield _make_item(row, item)
                elif item.member is None:  # the rest cannot be listed
                    damage = item
                if not wanted:
                    return
    except PerceptionEncoderError as err:
        damage = Item(uri, partial(_refuse, uri, str(err)))
    for row in wanted.values():
        gone = Item(uri, partial(_miss, row.name, uri))
        yield _make_item(row, damage or gone)


def _make_item(row: Row, found: Item | None = None) -> Item:
    """Return the item of a row; `found` reads it."""
    is_video = is_moment(row.uri, row.member)
    member = None if is_video else row.member
    num_bytes = None if member is None else row.bytes
    is_remote = bool(scheme_of(row.uri))
    read = partial(read_image, row.uri, member, row.offset, num_bytes)
    return Item(
        row.uri,
        read if found is None else found.read,
        member=member,
        offset=row.offset,
        bytes=row.bytes,
        mtime=0 if row.mtime is None else row.mtime,  # imported rows may have no time
        is_remote=is_remote,
    )


def _refuse(uri: str, reason: str) -> NoReturn:
    raise ImageUnreadableError(reason if uri in reason else f"{uri}: {reason}", item=uri)


def _miss(name: str, uri: str) -> NoReturn:
    raise ImageNotFoundError(f"{name}: it is no longer in {uri}", item=name)


class SegmentReader:
    """A `VideoReader` that embeds the segments which an index has of a video.

    Args:
        model: computes the vectors.
        index: has the segments.
        batch_size: frames computed at once.
    """

    num_at_once = 1

    def __init__(self, model: EmbeddingModel, index: Index, *, batch_size: int) -> None:
        self._index = index
        self._reader = LocalVideoReader(model, batch_size=batch_size, divide=self._divide)

    def hash_file(self, path: str) -> str:
        """See `VideoReader.hash_file`.

        Raises:
            ImageUnreadableError: the file has changed since it was indexed.
        """
        found = self._reader.hash_file(path)
        rows = self._index.moments(path)
        if rows and rows[0][0].sha256 not in (None, found):
            raise ImageUnreadableError(
                f"{path}: the video has changed since it was indexed, so its segments are other "
                "ones; bring the index up to date first: pe index FOLDER",
                item=path,
            )
        return found

    def embed(self, path: str) -> VideoContent:
        """See `VideoReader.embed`."""
        return self._reader.embed(path)

    def close(self) -> None:
        """See `VideoReader.close`."""
        self._reader.close()

    def _divide(self, path: str, frames: VideoFrames) -> list[StoredSegment]:
        """Return the segments of the index with the means of their frames."""
        known = [
            moment._replace(frame_time=parse_moment(str(row.member)) or 0.0)
            for row, _ in self._index.moments(path)
            if (moment := row.moment) is not None
        ]
        starts = [moment.start for moment in known]
        places = np.array(
            [max(0, bisect_right(starts, time + _ROUNDED) - 1) for time in frames.times]
        )
        return [
            StoredSegment(
                moment.start,
                moment.end,
                moment.frame_time,
                _mean(frames, places == number, moment.frame_time),
            )
            for number, moment in enumerate(known)
        ]


def _mean(frames: VideoFrames, is_chosen: NDArray[np.bool_], frame_time: float) -> Embeddings:
    """Return the normalized mean of frames; of none of them, the frame nearest to a time."""
    if is_chosen.any():
        mean = frames.vectors[is_chosen].mean(axis=0, keepdims=True)
        if np.linalg.norm(mean) > 1e-6:
            vector: Embeddings = normalize_rows(mean)[0].astype(np.float32)
            return vector
    nearest: Embeddings = frames.vectors[int(np.argmin(np.abs(frames.times - frame_time)))]
    return nearest
