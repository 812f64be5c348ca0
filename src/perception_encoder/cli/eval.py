"""`pe eval`: the accuracy of models on your own data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from perception_encoder.cli.command import Command, CommandGroup, keep_examples
from perception_encoder.cli.options import (
    DEFAULT_MODEL,
    BackendChoice,
    BackendOption,
    BatchSizeOption,
    ColumnOption,
    DeviceOption,
    ExcludeOption,
    JsonOption,
    LabelsFileOption,
    PrecisionChoice,
    PrecisionOption,
    PreprocessChoice,
    PreprocessOption,
    TemplateOption,
    check_templates,
    complete_model,
    open_model,
    read_labels_file,
)
from perception_encoder.cli.output import format_images, say, write_json
from perception_encoder.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

    from perception_encoder.analysis.evaluation import Accuracy, Retrieval
    from perception_encoder.embedder import EmbeddingModel
    from perception_encoder.index import Outcome
    from perception_encoder.indexing.stream import EmbeddedImages
    from perception_encoder.sources import Item, Source

_Sources = Annotated[
    list[str],
    typer.Argument(help="Folders, globs, tars, .parquet, .csv or .jsonl files, URLs."),
]
_Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        envvar="PE_MODEL",
        autocompletion=complete_model,
        help="Model id, Hugging Face repository or path; several are compared.  "
        f"[default: {DEFAULT_MODEL}]",
        show_default=False,
    ),
]
_MAX_FAILURES: Final = 10  # of those reported one by one

app = typer.Typer(
    name="eval",
    cls=CommandGroup,
    help="Measure zero-shot classification and retrieval on your own data.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(cls=Command)
@keep_examples
def classification(  # noqa: PLR0913  one parameter for each option
    sources: _Sources,
    model: _Models = None,
    labels_file: LabelsFileOption = None,
    template: TemplateOption = None,
    label_column: Annotated[
        str | None,
        typer.Option(
            help="Column of a table, or key of an archive's .json, that holds the class.  "
            "[default: label if there is one, or the name of the image's folder]",
            show_default=False,
        ),
    ] = None,
    column: ColumnOption = None,
    exclude: ExcludeOption = None,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    preprocess: PreprocessOption = None,
    batch_size: BatchSizeOption = 32,
) -> None:
    """Measure zero-shot classification.

    Reports top-1, top-5 and mean per-class recall, the worst classes and the most frequent
    confusions. The class of an image is the name of its folder, or stands in a column. Without
    --labels-file the classes are the labels. Percentages have 95 % intervals. Ties count against
    the model.

    Examples:
        pe eval classification flowers -m PE-Core-S16-384 -m PE-Core-B16-224 -t "a photo of a {}"
        pe eval classification test.parquet --label-column species --labels-file names.txt --json
    """
    import numpy as np

    from perception_encoder.analysis.classifiers import ZeroShotClassifier
    from perception_encoder.analysis.evaluation import AccuracyTally
    from perception_encoder.analysis.labels import (
        match_classes,
        name_labels,
        read_class_names,
        read_classes,
    )
    from perception_encoder.cli.eval_results import describe_accuracy, write_accuracies
    from perception_encoder.indexing.stream import iter_items

    templates = check_templates(template)
    given, gap = read_labels_file(labels_file) if labels_file is not None else ({}, None)
    opened = _open(sources, column, exclude)
    items = list(iter_items(opened))
    _report_notes(opened)
    classes = read_classes(items, label_column)
    comparison = ModelComparison(
        items, classes, ComputeChoices(device, backend, precision, preprocess), batch_size
    )
    comparison.report_left_out("class")
    if gap is not None and any(name.isdecimal() and name not in given for name in classes.values()):
        raise typer.BadParameter(
            f"{labels_file}, line {gap}: empty, so the numbers of the classes are ambiguous; "
            "write a label there, or remove the line"
        )
    try:
        labels, numbers = match_classes(
            list(classes.values()), given or name_labels(read_class_names(items, label_column))
        )
    except ValueError as err:
        raise typer.BadParameter(f"{err} (--labels-file)") from err
    truth = dict(zip(classes, numbers, strict=True))

    def measure(loaded: EmbeddingModel) -> Accuracy:
        classifier = ZeroShotClassifier.from_model(loaded, labels, templates)
        tally = AccuracyTally(classifier.labels)
        for block in comparison.blocks(loaded):
            numbers = np.array([truth[row.id] for row in block.rows], np.int64)
            tally.add(classifier.classify(block.vectors), numbers)
        return tally.accuracy()

    results = {}
    for name, loaded in comparison.models(model):
        results[name] = measure(loaded)
        if as_json:
            write_json(_describe_model(name, loaded) | describe_accuracy(results[name], templates))
    if not as_json:
        write_accuracies(results)
    comparison.exit_if_failed()


@app.command(cls=Command)
@keep_examples
def retrieval(  # noqa: PLR0913  one parameter for each option
    sources: _Sources,
    model: _Models = None,
    caption_column: Annotated[
        list[str] | None,
        typer.Option(
            help="Column of captions, one a line; repeat it for several.  [default: caption]",
            show_default=False,
        ),
    ] = None,
    column: ColumnOption = None,
    exclude: ExcludeOption = None,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    preprocess: PreprocessOption = None,
    batch_size: BatchSizeOption = 32,
) -> None:
    """Measure retrieval of images by captions, and of captions by images.

    Reports recall at 1, 5 and 10 of images by captions, and of captions by images. An image may
    have several captions: rows, columns, lines or a list. Equal captions and identical images
    count as one. Scores are plain cosines. Percentages have 95 % intervals.

    Examples:
        pe eval retrieval captions.csv -m PE-Core-S16-384 -m clip/ViT-B-32
        pe eval retrieval "flickr30k/{0..3}.tar" --json
    """
    import numpy as np

    from perception_encoder.analysis.evaluation import CaptionPairs, measure_retrieval
    from perception_encoder.analysis.labels import find_caption_columns, read_captions
    from perception_encoder.cli.eval_results import describe_retrieval, write_retrievals

    opened = _open(sources, column, exclude)
    rows = [item for source in opened for item in source.items()]
    _report_notes(opened)
    columns = find_caption_columns(rows, caption_column or [])
    captions: dict[str, list[str]] = {}
    for row in rows:
        captions.setdefault(row.id, []).extend(read_captions(row, columns))
    unique = {row.id: row for row in rows}
    captions = {key: texts for key, texts in captions.items() if texts}
    chosen = ComputeChoices(device, backend, precision, preprocess)
    comparison = ModelComparison(list(unique.values()), captions, chosen, batch_size)
    comparison.report_left_out("caption")

    def measure(loaded: EmbeddingModel) -> Retrieval:
        blocks = list(comparison.blocks(loaded))
        known = [row for block in blocks for row in block.rows]
        vectors = np.concatenate([block.vectors for block in blocks])
        pairs = CaptionPairs.of(
            [str(row.sha256) for row in known], [captions[row.id] for row in known]
        )
        return measure_retrieval(pairs, vectors[list(pairs.places)], loaded.embed_text(pairs.texts))

    results = {}
    for name, loaded in comparison.models(model):
        results[name] = measure(loaded)
        if as_json:
            write_json(_describe_model(name, loaded) | describe_retrieval(results[name]))
    if not as_json:
        write_retrievals(results)
    comparison.exit_if_failed()


def _open(
    sources: Sequence[str], column: str | None, exclude: Sequence[str] | None
) -> list[Source]:
    from perception_encoder.sources import SourceOptions, open_sources

    return open_sources(sources, SourceOptions(exclude=tuple(exclude or ()), column=column))


def _report_notes(sources: Sequence[Source]) -> None:
    """Report what sources left out; call it once they have been listed."""
    from perception_encoder.sources.item import collect_notes

    for note in collect_notes(sources):
        say(f"pe: {note}")


def _describe_model(name: str, model: EmbeddingModel) -> dict[str, Any]:
    """Return the JSON fields that identify what was measured."""
    return {
        "model": name,
        "fingerprint": model.identity.fingerprint,
        "preprocess": model.identity.preprocess,
        "backend": model.backend.name,
        "precision": model.backend.precision,
    }


class ComputeChoices(NamedTuple):
    """How every model is run."""

    device: str
    backend: BackendChoice
    precision: PrecisionChoice
    preprocess: PreprocessChoice | None


class ModelComparison:
    """The same images, embedded by one model after the other.

    Args:
        items: of the sources.
        truth: ids of the items with a known class or caption; other items are left out.
        choices: how the models are run.
        batch_size: images in one batch.
    """

    def __init__(
        self, items: Sequence[Item], truth: Container[str], choices: ComputeChoices, batch_size: int
    ) -> None:
        self._items = [item for item in items if item.id in truth]
        self._left_out = [item for item in items if item.id not in truth]
        self._num_unlisted = 0
        self._choices = choices
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
            with open_model(name, **self._choices._asdict()) as model:
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
