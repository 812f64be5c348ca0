"""Brings what a folder holds into a table: embeds what is new or changed, reuses the rest.

Rows of files that have gone stay.

Each file ends in one outcome, and one bad file never stops the others. Every batch is one commit,
so a stopped run keeps what it did, and running again goes on from there.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.errors import ImageError, ImageUnreadableError
from perception_encoder.index import IMAGE_SUFFIXES, FileState, Index, Row
from perception_encoder.preprocess import decode_image
from perception_encoder.preprocess.modes import upright

Status = Literal["embedded", "reused", "unchanged", "failed"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file; `reason` says why it failed."""

    uri: str
    status: Status
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Picture:
    """A file that was read and resized: its row, and its (S, S, 3) uint8 RGB picture."""

    row: Row
    sha256: str
    resized: NDArray[np.uint8]


def find_pictures(sources: Iterable[Path]) -> Iterator[Path]:
    """Yield picture files: files as given, folders searched with all below them, in sorted order.

    Hidden files and folders are left out, and links to folders are not followed.

    Raises:
        FileNotFoundError: a source does not exist.
    """
    for source in sources:
        if source.is_file():
            yield source
        elif source.is_dir():
            yield from _walk(source)
        else:
            raise FileNotFoundError(f"{source}: no such file or folder")


def index_folder(
    model: EmbeddingModel, index: Index, files: Sequence[Path], *, batch_size: int = 256
) -> Iterator[Outcome]:
    """Bring the files into the table and yield each one's outcome, batch by batch.

    Args:
        model: whose vectors the table holds.
        index: the table.
        files: picture files; their absolute paths become the rows' uris.
        batch_size: files of one commit.

    Raises:
        IndexMismatchError: the table is another model's.
        IndexStorageError: it cannot be read or written.
    """
    index.check(model.identity)
    files = list({_uri(path): path for path in files}.values())
    named = [path for path in files if _is_unicode(path)]
    known = index.known(_uri(path) for path in named)
    todo = [path for path in files if not _is_unicode(path)]
    for path in named:
        if _is_unchanged(path, known.get(_uri(path))):
            yield Outcome(_uri(path), "unchanged")
        else:
            todo.append(path)
    with ThreadPoolExecutor() as pool:
        waiting: list[Future[_Picture | Outcome]] = []
        for part in _batches(todo, batch_size):
            # The next files are read and resized while the model computes these.
            following = [pool.submit(_prepare, path, model) for path in part]
            yield from _commit(model, index, [future.result() for future in waiting])
            waiting = following
        yield from _commit(model, index, [future.result() for future in waiting])


def _commit(
    model: EmbeddingModel, index: Index, results: Sequence[_Picture | Outcome]
) -> Iterator[Outcome]:
    """Embed what was read, add it to the table in one commit, and tell of each file."""
    pictures = [result for result in results if isinstance(result, _Picture)]
    if pictures:
        known = index.by_content(picture.sha256 for picture in pictures)
        new = {p.sha256: p for p in reversed(pictures) if p.sha256 not in known}
        computed = model.embed_images(
            [picture.resized for picture in new.values()],
            input_color_format="rgb",
            show_progress=False,
        )
        vectors = {content: vector for content, (_, vector) in known.items()}
        vectors |= dict(zip(new, computed, strict=True))
        rows = [picture.row for picture in pictures]
        index.add(rows, np.stack([vectors[picture.sha256] for picture in pictures]))
        for picture in pictures:
            is_new = new.get(picture.sha256) is picture
            yield Outcome(picture.row.uri, "embedded" if is_new else "reused")
    yield from (result for result in results if isinstance(result, Outcome))


def _prepare(path: Path, model: EmbeddingModel) -> _Picture | Outcome:
    uri = _uri(path)
    try:
        size, changed = _size_and_time(path)
        if not path.is_file():
            raise ImageUnreadableError(f"{uri}: not a regular file", item=uri)
        data = path.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        picture = decode_image(data, max_pixels=model.processor.max_pixels, item=uri)
        resized = model.processor(picture, item=uri)
        width, height = upright(picture).size
        row = Row(uri=uri, width=width, height=height, bytes=size, mtime=changed, sha256=sha256)
    except (ImageError, OSError, ValueError) as err:
        return Outcome(uri, "failed", f"{type(err).__name__}: {err}")
    return _Picture(row, sha256, resized)


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                yield Path(parent, name)


def _is_unchanged(path: Path, before: FileState | None) -> bool:
    """Whether size and time are as remembered; a file that has gone is reported in its turn."""
    try:
        return before is not None and (before.bytes, before.mtime) == _size_and_time(path)
    except OSError:
        return False


def _is_unicode(path: Path) -> bool:
    """Names in an old encoding cannot be stored; `Row` says so when it is their turn."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _uri(path: Path) -> str:
    return os.path.abspath(path)


def _size_and_time(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _batches(files: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    for start in range(0, len(files), size):
        yield files[start : start + size]
