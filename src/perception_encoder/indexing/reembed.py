"""Changes the model of an index: embeds its images again, and swaps the new embeddings in at once.

The new embeddings are collected beside the index by an ordinary run over its own rows, so a run
that was killed goes on with the same call. Readers see the old ones until the last moment.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from perception_encoder.atomic import atomic_write
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.errors import (
    ImagesMissingError,
    IndexMismatchError,
    IndexStorageError,
)
from perception_encoder.index import Index, Outcome, item_name, row_id, write_lock
from perception_encoder.index.model_change import (
    NewVectors,
    StagedVectors,
    check_space,
    commit_vectors,
    complete_change,
    drop_staged,
    find_staged,
    staging_path,
)
from perception_encoder.index.tiles import image_member
from perception_encoder.indexing.commit import Progress
from perception_encoder.indexing.indexed_images import IndexedImages, SegmentReader
from perception_encoder.indexing.run import Run, RunOptions
from perception_encoder.video.names import is_moment

_SHOWN: Final = 3  # missing images in a message
_HOPELESS: Final = 1000  # images, none of which could be read


@dataclass(frozen=True, slots=True)
class ReembedOptions:
    """Settings of a `Reembedding`.

    Attributes:
        batch_size: images per batch.
        wait: wait for another run on the index instead of raising.
        leave_missing: leave images behind that cannot be read any more, and list them in this
            file, as JSON lines; None ends with the index as it was.
    """

    batch_size: int = 32
    wait: bool = False
    leave_missing: Path | None = None


@dataclass(frozen=True, slots=True)
class ReembedPlan:
    """What is to be done.

    Attributes:
        num_files: images and videos to embed.
        num_rows: rows of the index, without tiles: images and segments of videos.
        num_present: rows of an interrupted call that are embedded already.
        needed_bytes: about what the new embeddings take, until they are swapped in.
        free_bytes: on the disk; None on object storage.
    """

    num_files: int
    num_rows: int
    num_present: int
    needed_bytes: int
    free_bytes: int | None


class MissingImage(NamedTuple):
    """An image or segment of an index that cannot be read any more, and why."""

    uri: str
    member: str | None
    reason: str
    message: str


class Reembedding:
    """One change of an index's model; `outcomes` does the work, `progress` counts it.

    Args:
        index: the index; other objects show the new embeddings once they are opened again.
        model: the new model.
        options: see `ReembedOptions`.
        on_plan: called once it is known what is to be done.
        on_commit: called with the rows that are swapped in so far, and their number.
    """

    def __init__(
        self,
        index: Index,
        model: EmbeddingModel,
        options: ReembedOptions | None = None,
        *,
        on_plan: Callable[[ReembedPlan], object] = lambda _: None,
        on_commit: Callable[[int, int], object] = lambda *_: None,
    ) -> None:
        self._index = index
        self._model = model
        self._options = options or ReembedOptions()
        self._on_plan = on_plan
        self._on_commit = on_commit
        self._failed: dict[str, tuple[str, str]] = {}  # reasons and messages, by id
        self.progress = Progress()
        self.result: NewVectors | None = None
        self.given_up: str | None = None

    def outcomes(self) -> Generator[Outcome, None, None]:
        """Do the work, and yield the outcome of each image once its embedding is stored.

        If the index has the model already, nothing is embedded, `result` stays None, and what an
        interrupted change to another model has collected is deleted; `given_up` names that model.

        Raises:
            ImagesMissingError: images cannot be read any more; the index is as before.
            IndexMismatchError: an interrupted change to another model is not finished.
            IndexBusyError: another process is writing to the index, or did so meanwhile.
            IndexStorageError: it cannot be read or written, or the disk is too small.
        """
        index, path = self._index, self._index.path
        if not index.is_created:
            return
        with write_lock(path, wait=self._options.wait):
            index.refresh()
            staged = find_staged(path)
            if index.identity == self._model.identity:
                if staged is not None:
                    if staged.identity != index.identity:
                        self.given_up = staged.identity.model_id
                    drop_staged(path)
                complete_change(path)
                return
            if staged is not None and staged.identity == index.identity:
                drop_staged(path)  # the change was made, and this was not deleted
                staged = None
            if staged is not None:
                self._check_same(staged)
            self._on_plan(self._plan(staged))
            yield from self._embed()
            self._swap()
            drop_staged(path)

    def _check_same(self, staged: Index) -> None:
        """Refuse to embed by a third model while a change to a second one is not finished.

        Raises:
            IndexMismatchError: it is not finished.
        """
        before, asked = staged.identity, self._model.identity
        if before == asked:
            return
        present = self._index.identity
        goes_on = f"pe index --reembed {shlex.quote(before.model_id)}"
        if before.preprocess != present.preprocess:
            goes_on += f" --preprocess {before.preprocess}"
        if before.model_id == asked.model_id and before.preprocess == asked.preprocess:
            goes_on += f" with the weights {before.fingerprint}"
        raise IndexMismatchError(
            f"{self._index.path}: a change to {before.model_id} is not finished, which has "
            f"embedded {staged.count():,} of {self._index.count():,} images; go on with it "
            f"({goes_on}), or give it up first: pe index --reembed "
            f"{shlex.quote(present.model_id)} --index {shlex.quote(self._index.path)}"
        )

    def _plan(self, staged: Index | None) -> ReembedPlan:
        num_present = 0 if staged is None else staged.count()
        num_rows, videos, num_images = 0, set[str](), 0
        for uri, member in _names_of(self._index):
            num_rows += 1
            if is_moment(uri, member):
                videos.add(uri)
            else:
                num_images += 1
        needed, free = check_space(self._index, self._model.identity, num_present)
        return ReembedPlan(num_images + len(videos), num_rows, num_present, needed, free)

    def _embed(self) -> Iterator[Outcome]:
        """Collect the new embeddings, and yield outcomes."""
        index, size = self._index, self._options.batch_size
        staged = Index.open_or_prepare(
            staging_path(index.path), self._model.identity, vector_dtype=index.vector_dtype
        )
        run = Run(
            self._model,
            staged,
            [IndexedImages(index)],
            # Metadata stays as it is, so it is not read.
            RunOptions(batch_size=size, retries_failures=True, metadata=False, tiles=index.tiles),
            open_videos=lambda: SegmentReader(self._model, index, batch_size=size),
        )
        run.progress = self.progress
        with closing(run.outcomes()) as outcomes:
            for outcome in outcomes:
                if outcome.status == "failed":
                    self._failed[outcome.id] = outcome.reason, outcome.message
                    self._check_hope()
                yield outcome

    def _check_hope(self) -> None:
        """End early if nothing can be read, as where a disk is not mounted.

        Raises:
            ImagesMissingError: so many images failed, and no other outcome is known.
        """
        counts = self.progress.counts
        if self._options.leave_missing is None and len(self._failed) == _HOPELESS:
            if counts["embedded"] + counts["reused"] + counts["skipped"]:
                return
            message = next(iter(self._failed.values()))[1]
            raise ImagesMissingError(
                f"{self._index.path}: none of the first {_HOPELESS:,} images can be read; is a "
                f"disk not mounted? The index is as before. {message}"
            )

    def _swap(self) -> None:
        index, path = self._index, self._index.path
        staged = find_staged(path)
        vectors = None if staged is None else self._collected(staged)
        missing = list(self._missing(vectors))
        if missing and (self._options.leave_missing is None or len(missing) == index.count()):
            raise ImagesMissingError(self._describe(missing))
        if vectors is None:  # an index without images
            return
        if missing and self._options.leave_missing is not None:
            _write_list(missing, self._options.leave_missing)
        self.result = commit_vectors(index, vectors, self._on_commit)

    def _collected(self, staged: Index) -> StagedVectors:
        """Return the new vectors, without those that an earlier call made of what is gone now."""
        vectors = StagedVectors(staged)
        stale = vectors.choose(self._failed)
        if not stale:
            return vectors
        staged.delete(stale)
        return StagedVectors(staged)

    def _missing(self, vectors: StagedVectors | None) -> Iterator[MissingImage]:
        """Yield the images and segments that have no new embedding."""
        for batch in self._index.scan(["id", "uri", "member"]):
            places = np.full(batch.num_rows, -1) if vectors is None else vectors.find(batch["id"])
            left = batch.take(np.flatnonzero(places < 0))
            names = (left[name].to_pylist() for name in ("uri", "member"))
            for uri, member in zip(*names, strict=True):
                item = None if is_moment(uri, member) else image_member(member)
                message = f"{item_name(uri, member)}: the file has no such part any more"
                unknown = ("ImageNotFoundError", message)
                yield MissingImage(uri, member, *self._failed.get(row_id(uri, item), unknown))

    def _describe(self, missing: list[MissingImage]) -> str:
        index, num_rows = self._index, self._index.count()
        gone = sum(one.reason == "ImageNotFoundError" for one in missing)
        messages = dict.fromkeys(one.message for one in missing)
        shown = "; ".join(list(messages)[:_SHOWN])
        many = f"; and {len(messages) - _SHOWN:,} more" if len(messages) > _SHOWN else ""
        remedy = "bring them back, and run the same command again, which embeds only these"
        if len(missing) < num_rows:
            remedy += (
                ", or leave them out of the index and list them in a file: --leave-missing FILE "
                "(leave_missing= in Python)"
            )
        return (
            f"{index.path}: {len(missing):,} of {num_rows:,} images cannot be read any more "
            f"({gone:,} are gone), so the index still has the embeddings of "
            f"{index.identity.model_id}; {remedy}. {shown}{many}"
        )


def _names_of(index: Index) -> Iterator[tuple[str, str | None]]:
    for batch in index.scan(["uri", "member"]):
        yield from zip(batch["uri"].to_pylist(), batch["member"].to_pylist(), strict=True)


def _write_list(missing: list[MissingImage], path: Path) -> None:
    """Write JSON lines, before the rows are gone.

    Raises:
        IndexStorageError: it cannot be written.
    """
    with (
        atomic_write(path, IndexStorageError) as temporary,
        temporary.open("w", encoding="utf-8") as file,
    ):
        lines = (json.dumps(one._asdict(), ensure_ascii=False) for one in missing)
        file.writelines(f"{line}\n" for line in lines)
