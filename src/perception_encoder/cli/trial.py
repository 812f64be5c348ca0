"""The same pictures for several models; what cannot be read is told once."""

from collections.abc import Container, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import typer

from perception_encoder.cli.options import (
    DEFAULT_MODEL,
    BackendChoice,
    PrecisionChoice,
    PreprocessChoice,
    open_model,
)
from perception_encoder.cli.output import pictures, say
from perception_encoder.errors import SourceError

if TYPE_CHECKING:
    from perception_encoder.embedder import EmbeddingModel
    from perception_encoder.index import Outcome
    from perception_encoder.pipeline.sources import Item
    from perception_encoder.pipeline.vectors import EmbeddedPictures

_SHOWN_FAILURES: Final = 10


class EngineChoice(NamedTuple):
    """How models are computed."""

    device: str
    backend: BackendChoice
    precision: PrecisionChoice
    preprocess: PreprocessChoice | None


class Trial:
    """The same pictures for one model after the other.

    Args:
        items: of sources.
        truth: ids of those of which it is known what is right; others are left out.
        engine: how models are computed.
        batch_size: pictures computed at once.
    """

    def __init__(
        self, items: "Sequence[Item]", truth: Container[str], engine: EngineChoice, batch_size: int
    ) -> None:
        self._items = [item for item in items if item.id in truth]
        self._left_out = [item for item in items if item.id not in truth]
        self._num_unlisted = 0
        self._engine = engine
        self._batch_size = batch_size
        self._failed: dict[str, Outcome] = {}

    def say_left_out(self, what: str) -> None:
        """Tell of pictures of which it is not known what is right."""
        from perception_encoder.pipeline.truth import unlisted

        for problem in unlisted(self._left_out):
            self._num_unlisted += 1
            if self._num_unlisted <= _SHOWN_FAILURES:
                say(f"pe: {problem}")
        if (more := self._num_unlisted - _SHOWN_FAILURES) > 0:
            say(f"pe: and {more:,} more that could not be read")
        count = len(self._left_out) - self._num_unlisted
        if count:
            say(f"{pictures(count)} without a {what} left out")
        if not self._items:
            raise SourceError(f"there are no pictures with a {what} to measure with")

    def models(self, names: Sequence[str] | None) -> "Iterator[tuple[str, EmbeddingModel]]":
        """Open the models, one at a time."""
        for name in dict.fromkeys(names or [DEFAULT_MODEL]):
            with open_model(name, **self._engine._asdict()) as model:
                yield name, model

    def blocks(self, model: "EmbeddingModel") -> "Iterator[EmbeddedPictures]":
        """Embed the pictures, and tell of those that fail."""
        from perception_encoder.cli.progress import ProgressDisplay
        from perception_encoder.pipeline import Progress
        from perception_encoder.pipeline.vectors import embed_items

        progress = Progress()
        num_read = 0
        with ProgressDisplay(progress) as display:
            for block in embed_items(
                model, self._items, batch_size=self._batch_size, progress=progress
            ):
                for failure in block.failed:
                    if len(self._failed) < _SHOWN_FAILURES and failure.id not in self._failed:
                        display.say(f"pe: {failure.message}")
                    self._failed[failure.id] = failure
                num_read += len(block.rows)
                yield block
                display.update()
        if not num_read:
            raise SourceError("none of the pictures could be read")

    def finish(self) -> None:
        """Say how many pictures failed; the exit code is then 1."""
        if self._failed:
            say(f"{pictures(len(self._failed))} could not be read: they do not count")
        if self._failed or self._num_unlisted:
            raise typer.Exit(1)
