"""What `pe eval` measures with: the images of sources, embedded by one model after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import typer

from perception_encoder.cli.options import DEFAULT_MODEL, ComputeFlags
from perception_encoder.cli.output import format_images, say
from perception_encoder.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from perception_encoder.analysis.evaluation import Accuracy
    from perception_encoder.embedder import EmbeddingModel
    from perception_encoder.index import Outcome
    from perception_encoder.indexing.stream import EmbeddedImages
    from perception_encoder.sources import Item, Source
    from perception_encoder.types import Embeddings

ProbeScore: TypeAlias = Callable[
    ["Embeddings", "NDArray[np.int64]", int, "Embeddings"], "NDArray[np.float32]"
]
"""From embeddings, their labels, the number of labels and other embeddings to the scores of these;
see `analysis.probing`."""

_MAX_FAILURES: Final = 10  # of those reported one by one


def open_evaluated(
    sources: Sequence[str], column: str | None, exclude: Sequence[str] | None
) -> list[Source]:
    """Open the sources of an evaluation."""
    from perception_encoder.sources import SourceOptions, open_sources

    return open_sources(sources, SourceOptions(exclude=tuple(exclude or ()), column=column))


def report_notes(sources: Sequence[Source]) -> None:
    """Report what sources left out; call it once they have been listed."""
    from perception_encoder.sources.item import collect_notes

    for note in collect_notes(sources):
        say(f"pe: {note}")


def describe_model(name: str, model: EmbeddingModel) -> dict[str, Any]:
    """Return the JSON fields that identify what was measured."""
    return {
        "model": name,
        "fingerprint": model.identity.fingerprint,
        "preprocess": model.identity.preprocess,
        "backend": model.backend.name,
        "precision": model.backend.precision,
    }


class ModelComparison:
    """The same images, embedded by one model after the other.

    Args:
        items: of the sources.
        truth: ids of the items with a known class or caption; other items are left out.
        compute: how the models are run.
        batch_size: images in one batch.
    """

    def __init__(
        self, items: Sequence[Item], truth: Container[str], compute: ComputeFlags, batch_size: int
    ) -> None:
        self._items = [item for item in items if item.id in truth]
        self._left_out = [item for item in items if item.id not in truth]
        self._num_unlisted = 0
        self._compute = compute
        self._batch_size = batch_size
        self._failed: dict[str, Outcome] = {}

    def report_left_out(self, what: str) -> None:
        """Report items without a class or caption.

        Raises:
            SourceError: no items are left.
        """
        from perception_encoder.analysis.labels import iter_unlisted

        for error in iter_unlisted(self._left_out):
            self._num_unlisted += 1
            if self._num_unlisted <= _MAX_FAILURES:
                say(f"pe: {error}")
        if (more := self._num_unlisted - _MAX_FAILURES) > 0:
            say(f"pe: and {more:,} more that could not be read")
        count = len(self._left_out) - self._num_unlisted
        if count:
            say(f"{format_images(count)} without a {what} left out")
        if not self._items:
            raise SourceError(f"there are no images with a {what} to measure with")

    def models(self, names: Sequence[str] | None) -> Iterator[tuple[str, EmbeddingModel]]:
        """Open the models, one at a time."""
        for name in dict.fromkeys(names or [DEFAULT_MODEL]):
            with self._compute.open(name) as model:
                yield name, model

    def blocks(self, model: EmbeddingModel) -> Iterator[EmbeddedImages]:
        """Embed the images, and report those that fail.

        Raises:
            SourceError: none of the images could be read.
        """
        from perception_encoder.cli.progress import ProgressDisplay
        from perception_encoder.indexing import Progress
        from perception_encoder.indexing.stream import embed_items

        progress = Progress()
        num_read = 0
        with ProgressDisplay(progress) as display:
            for block in embed_items(
                model, self._items, batch_size=self._batch_size, progress=progress
            ):
                for failure in block.failed:
                    if len(self._failed) < _MAX_FAILURES and failure.id not in self._failed:
                        display.say(f"pe: {failure.message}")
                    self._failed[failure.id] = failure
                num_read += len(block.rows)
                yield block
                display.update()
        if not num_read:
            raise SourceError("none of the images could be read")

    def exit_if_failed(self) -> None:
        """Report how many images failed.

        Raises:
            typer.Exit: some failed; the exit code is 1.
        """
        if self._failed:
            say(f"{format_images(len(self._failed))} could not be read and were not counted")
        if self._failed or self._num_unlisted:
            raise typer.Exit(1)


class ProbeComparison:
    """Labeled images to learn from and to measure with, embedded by one model after the other.

    Args:
        sources: of images to learn from.
        test: of images to measure with; none hold out a fifth of each class.
        label_column: of the classes; None is the default one, or the folder.
        compute: how the models are run.
        batch_size: images in one batch.

    Raises:
        SourceError: there are no images with a class, or none to measure with.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        test: Sequence[Source],
        label_column: str | None,
        compute: ComputeFlags,
        batch_size: int,
    ) -> None:
        from perception_encoder.analysis.labels import read_classes
        from perception_encoder.indexing.stream import iter_items

        examples, tested = list(iter_items(sources)), list(iter_items(test))
        report_notes([*sources, *test])
        learned, measured = (read_classes(one, label_column) for one in (examples, tested))
        self.labels = tuple(sorted(set(learned.values())))
        self._test_ids = {key for key, label in measured.items() if label in set(self.labels)}
        self._classes = learned | {key: measured[key] for key in self._test_ids}
        unknown = {key: measured[key] for key in measured.keys() - self._classes.keys()}
        if unknown:
            names = sorted(set(unknown.values()))
            say(
                f"{format_images(len(unknown))} of classes without examples left out: "
                f"{', '.join(names[:_MAX_FAILURES])}"
            )
        if test and not self._test_ids:
            raise SourceError("none of the images of --test has a class of the examples")
        unique = {item.id: item for item in (*examples, *tested) if item.id not in unknown}
        kept = list(unique.values())
        self.comparison = ModelComparison(kept, self._classes, compute, batch_size)
        self.comparison.report_left_out("class")

    def measure(self, model: EmbeddingModel, score: ProbeScore) -> tuple[Accuracy, int]:
        """Return the accuracy of a model with a probe, and the number of examples.

        Raises:
            SourceError: no images are left to learn from, or to measure with.
        """
        import numpy as np

        from perception_encoder.analysis.classifiers import LabelScores
        from perception_encoder.analysis.evaluation import AccuracyTally
        from perception_encoder.analysis.probing import split_examples

        blocks = list(self.comparison.blocks(model))
        rows = [row for block in blocks for row in block.rows]
        vectors = np.concatenate([block.vectors for block in blocks])
        position = {label: place for place, label in enumerate(self.labels)}
        numbers = np.array([position[self._classes[row.id]] for row in rows], np.int64)
        is_test = np.array([row.id in self._test_ids for row in rows], bool)
        if not self._test_ids:
            is_test[split_examples(numbers)[1]] = True
        # The same file on both sides would be remembered, not recognized.
        contents = {row.sha256 for row, tested in zip(rows, is_test, strict=True) if tested}
        is_copy = np.array([row.sha256 in contents for row in rows], bool)
        if copies := int((is_copy & ~is_test).sum()):
            say(f"not learned from, because it is measured with: {format_images(copies)}")
        is_example = ~is_test & ~is_copy
        if not is_example.any() or not is_test.any():
            raise SourceError("there are too few images of each class to learn from and to measure")
        scores = score(vectors[is_example], numbers[is_example], len(self.labels), vectors[is_test])
        tally = AccuracyTally(self.labels)
        tally.add(LabelScores(self.labels, scores, scores), numbers[is_test])
        return tally.accuracy(), int(is_example.sum())
