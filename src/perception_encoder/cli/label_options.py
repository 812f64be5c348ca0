"""The options that say what labels there are, and what is read from them."""

from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import typer

from perception_encoder.cli.options import (
    DEFAULT_MODEL,
    BackendChoice,
    PrecisionChoice,
    PreprocessChoice,
    open_model,
)
from perception_encoder.cli.output import format_images, say
from perception_encoder.cli.text_files import find_problem, read_text
from perception_encoder.errors import SourceError

if TYPE_CHECKING:
    from perception_encoder.analysis.labels import Labels
    from perception_encoder.embedder import EmbeddingModel
    from perception_encoder.index import Outcome
    from perception_encoder.indexing.stream import EmbeddedImages
    from perception_encoder.sources import Item


_SHOWN: Final = 40  # characters of a label that may be an encoded image

LabelsOption = Annotated[
    str | None, typer.Option("--labels", "-l", help="Labels with commas: cat,dog,red car.")
]
LabelsFileOption = Annotated[
    Path | None,
    typer.Option(
        help="Labels from a file, one a line: `cat`, or `pet: cat, dog` with the words that stand "
        'for it; or JSON: {"pet": ["cat", "dog"]}.'
    ),
]
TemplateOption = Annotated[
    list[str] | None,
    typer.Option(
        "--template",
        "-t",
        help="A sentence with {} where the label goes, such as 'a photo of a {}'; of several the "
        "mean counts. [default: {}]",
        show_default=False,
    ),
]
_SHOWN_FAILURES: Final = 10


def read_labels(labels: str | None, file: Path | None) -> "Labels | None":
    """Return the labels that the options give; None where none does."""
    from perception_encoder.analysis.labels import parse_label_list

    if labels is not None and file is not None:
        raise typer.BadParameter("give --labels or --labels-file, not both")
    if file is not None:
        return read_labels_file(file)[0]
    if labels is None:
        return None
    try:
        return _checked(parse_label_list(labels))
    except ValueError as err:
        raise typer.BadParameter(f"--labels: {err}") from err


def read_labels_file(file: Path) -> "tuple[Labels, int | None]":
    """Return a file's labels, and the first empty line before one, by which numbers shift."""
    from perception_encoder.analysis.labels import find_gap, parse_labels

    text = read_text(file)
    try:
        return _checked(parse_labels(text)), find_gap(text)
    except ValueError as err:
        raise typer.BadParameter(f"{file}: {err}") from err


def _checked(labels: "Labels") -> "Labels":
    """Refuse labels that are no text.

    Raises:
        ValueError: one is not.
    """
    for label, names in labels.items():
        for name in (label, *names):
            if problem := find_problem(name, f"the label {label[:_SHOWN]!a}"):
                raise ValueError(problem)
    return labels


def checked_templates(templates: list[str] | None) -> list[str]:
    """Return the templates, or the one that is used where none is given."""
    from perception_encoder.analysis.classifiers import DEFAULT_TEMPLATE

    templates = templates or [DEFAULT_TEMPLATE]
    for template in templates:
        if problem := find_problem(template, f"--template {template[:_SHOWN]!a}"):
            raise typer.BadParameter(problem)
        if "{}" not in template:
            raise typer.BadParameter(f"--template {template!r} needs {{}} where the label goes")
    return templates


class ModelOptions(NamedTuple):
    """How models are computed."""

    device: str
    backend: BackendChoice
    precision: PrecisionChoice
    preprocess: PreprocessChoice | None


class ModelComparison:
    """The same images for one model after the other.

    Args:
        items: of sources.
        truth: ids of those of which it is known what is right; others are left out.
        backend: how models are computed.
        batch_size: images computed at once.
    """

    def __init__(
        self, items: "Sequence[Item]", truth: Container[str], backend: ModelOptions, batch_size: int
    ) -> None:
        self._items = [item for item in items if item.id in truth]
        self._left_out = [item for item in items if item.id not in truth]
        self._num_unlisted = 0
        self._backend = backend
        self._batch_size = batch_size
        self._failed: dict[str, Outcome] = {}

    def say_left_out(self, what: str) -> None:
        """Tell of images of which it is not known what is right."""
        from perception_encoder.analysis.labels import iter_unlisted

        for problem in iter_unlisted(self._left_out):
            self._num_unlisted += 1
            if self._num_unlisted <= _SHOWN_FAILURES:
                say(f"pe: {problem}")
        if (more := self._num_unlisted - _SHOWN_FAILURES) > 0:
            say(f"pe: and {more:,} more that could not be read")
        count = len(self._left_out) - self._num_unlisted
        if count:
            say(f"{format_images(count)} without a {what} left out")
        if not self._items:
            raise SourceError(f"there are no images with a {what} to measure with")

    def models(self, names: Sequence[str] | None) -> "Iterator[tuple[str, EmbeddingModel]]":
        """Open the models, one at a time."""
        for name in dict.fromkeys(names or [DEFAULT_MODEL]):
            with open_model(name, **self._backend._asdict()) as model:
                yield name, model

    def blocks(self, model: "EmbeddingModel") -> "Iterator[EmbeddedImages]":
        """Embed the images, and tell of those that fail."""
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
                    if len(self._failed) < _SHOWN_FAILURES and failure.id not in self._failed:
                        display.say(f"pe: {failure.message}")
                    self._failed[failure.id] = failure
                num_read += len(block.rows)
                yield block
                display.update()
        if not num_read:
            raise SourceError("none of the images could be read")

    def finish(self) -> None:
        """Say how many images failed; the exit code is then 1."""
        if self._failed:
            say(f"{format_images(len(self._failed))} could not be read: they do not count")
        if self._failed or self._num_unlisted:
            raise typer.Exit(1)
