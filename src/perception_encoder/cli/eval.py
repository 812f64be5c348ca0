"""`pe eval`: how good models are on your own data."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perception_encoder.cli.command import Command, CommandGroup, keep_examples
from perception_encoder.cli.label_options import (
    LabelsFileOption,
    ModelComparison,
    ModelOptions,
    TemplateOption,
    checked_templates,
    read_labels_file,
)
from perception_encoder.cli.options import (
    DEFAULT_MODEL,
    BackendOption,
    BatchSizeOption,
    ColumnOption,
    DeviceOption,
    ExcludeOption,
    JsonOption,
    PrecisionOption,
    PreprocessOption,
)
from perception_encoder.cli.output import say, write_json

if TYPE_CHECKING:
    from perception_encoder.analysis.evaluation import Accuracy, Retrieval
    from perception_encoder.embedder import EmbeddingModel
    from perception_encoder.sources import Source

_Sources = Annotated[
    list[str],
    typer.Argument(help="Folders, globs, tars, .parquet, .csv or .jsonl indexes, URLs."),
]
_Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        envvar="PE_MODEL",
        help=f"Model id, hub repository or path; several are compared. [default: {DEFAULT_MODEL}]",
        show_default=False,
    ),
]

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
            help="The column of an index, or the key of an archive's .json, that holds the class. "
            "[default: label where there is one, else the name of the image's folder]",
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

    Gives top-1, top-5 and mean per-class recall, the worst classes and what they are taken for.
    Images lie in a folder for each class, or say theirs in a column. Without --labels-file the
    classes are the labels. Percentages have 95 % intervals. Ties count against the model.

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
    from perception_encoder.cli.eval_results import accuracy_record, write_accuracies
    from perception_encoder.indexing.stream import iter_items

    templates = checked_templates(template)
    given, gap = read_labels_file(labels_file) if labels_file is not None else ({}, None)
    opened = _opened(sources, column, exclude)
    items = list(iter_items(opened))
    _say_notes(opened)
    classes = read_classes(items, label_column)
    trial = ModelComparison(
        items, classes, ModelOptions(device, backend, precision, preprocess), batch_size
    )
    trial.say_left_out("class")
    if gap is not None and any(name.isdecimal() and name not in given for name in classes.values()):
        raise typer.BadParameter(
            f"{labels_file}, line {gap}: empty, so it is not clear which labels the classes' "
            "numbers mean; write a label there, or remove the line"
        )
    try:
        labels, numbers = match_classes(
            list(classes.values()), given or name_labels(read_class_names(items, label_column))
        )
    except ValueError as err:
        raise typer.BadParameter(f"{err} (--labels-file)") from err
    truth = dict(zip(classes, numbers, strict=True))

    def measure(loaded: "EmbeddingModel") -> "Accuracy":
        classifier = ZeroShotClassifier.from_model(loaded, labels, templates)
        tally = AccuracyTally(classifier.labels)
        for block in trial.blocks(loaded):
            numbers = np.array([truth[row.id] for row in block.rows], np.int64)
            tally.add(classifier.classify(block.vectors), numbers)
        return tally.accuracy()

    results = {}
    for name, loaded in trial.models(model):
        results[name] = measure(loaded)
        if as_json:
            write_json(_about(name, loaded) | accuracy_record(results[name], templates))
    if not as_json:
        write_accuracies(results)
    trial.finish()


@app.command(cls=Command)
@keep_examples
def retrieval(  # noqa: PLR0913  one parameter for each option
    sources: _Sources,
    model: _Models = None,
    caption_column: Annotated[
        list[str] | None,
        typer.Option(
            help="A column of captions, each line for one; may be given again. [default: caption]",
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
    """Measure retrieval by captions, both ways.

    Gives recall at 1, 5 and 10 of images by captions, and of captions by images. An image may
    have several captions: rows, columns, lines or a list of them. Equal captions, and identical
    images, count as one. Scores are plain cosines. Percentages have 95 % intervals.

    Examples:
        pe eval retrieval captions.csv -m PE-Core-S16-384 -m clip/ViT-B-32
        pe eval retrieval "flickr30k/{0..3}.tar" --json
    """
    import numpy as np

    from perception_encoder.analysis.evaluation import CaptionPairs, measure_retrieval
    from perception_encoder.analysis.labels import find_caption_columns, read_captions
    from perception_encoder.cli.eval_results import retrieval_record, write_retrievals

    opened = _opened(sources, column, exclude)
    rows = [item for source in opened for item in source.items()]
    _say_notes(opened)
    columns = find_caption_columns(rows, caption_column or [])
    captions: dict[str, list[str]] = {}
    for row in rows:
        captions.setdefault(row.id, []).extend(read_captions(row, columns))
    unique = {row.id: row for row in rows}
    captions = {key: texts for key, texts in captions.items() if texts}
    chosen = ModelOptions(device, backend, precision, preprocess)
    trial = ModelComparison(list(unique.values()), captions, chosen, batch_size)
    trial.say_left_out("caption")

    def measure(loaded: "EmbeddingModel") -> "Retrieval":
        blocks = list(trial.blocks(loaded))
        known = [row for block in blocks for row in block.rows]
        vectors = np.concatenate([block.vectors for block in blocks])
        pairs = CaptionPairs.of(
            [str(row.sha256) for row in known], [captions[row.id] for row in known]
        )
        return measure_retrieval(pairs, vectors[list(pairs.places)], loaded.embed_text(pairs.texts))

    results = {}
    for name, loaded in trial.models(model):
        results[name] = measure(loaded)
        if as_json:
            write_json(_about(name, loaded) | retrieval_record(results[name]))
    if not as_json:
        write_retrievals(results)
    trial.finish()


def _opened(
    sources: Sequence[str], column: str | None, exclude: Sequence[str] | None
) -> "list[Source]":
    from perception_encoder.sources import SourceOptions, open_sources

    return open_sources(sources, SourceOptions(exclude=tuple(exclude or ()), column=column))


def _say_notes(sources: "Sequence[Source]") -> None:
    """Say what sources have left out, once they have been listed."""
    from perception_encoder.sources.item import collect_notes

    for note in collect_notes(sources):
        say(f"pe: {note}")


def _about(name: str, model: "EmbeddingModel") -> dict[str, Any]:
    """Say what was measured, so that a line can be kept as a record."""
    return {
        "model": name,
        "fingerprint": model.identity.fingerprint,
        "preprocess": model.identity.preprocess,
        "backend": model.backend.name,
        "precision": model.backend.precision,
    }
