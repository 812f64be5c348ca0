"""`pe eval`: the accuracy of models on your own data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_encoder.cli.command import Command, CommandGroup, keep_examples
from perception_encoder.cli.eval_models import (
    ModelComparison,
    ProbeComparison,
    describe_model,
    open_evaluated,
    report_notes,
)
from perception_encoder.cli.options import (
    DEFAULT_MODEL,
    BatchSizeOption,
    ColumnOption,
    ComputeFlags,
    ExcludeOption,
    JsonOption,
    LabelsFileOption,
    TemplateOption,
    check_templates,
    complete_model,
    read_labels_file,
    with_flags,
)
from perception_encoder.cli.output import check_folder, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perception_encoder.analysis.evaluation import Accuracy, Retrieval
    from perception_encoder.cli.eval_models import ProbeScore
    from perception_encoder.cli.eval_results import ClipBenchmarkTask
    from perception_encoder.embedder import EmbeddingModel

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
_Test = Annotated[
    list[str] | None,
    typer.Option(
        help="Source of images to measure with; repeat it for several.  [default: a fifth of the "
        "images of each class]",
        show_default=False,
    ),
]
_LabelColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of a table, or key of an archive's .json, that holds the class.  "
        "[default: label if there is one, or the name of the image's folder]",
        show_default=False,
    ),
]
_Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Folder for a JSON file of each model that `clip_benchmark build` reads.",
    ),
]

app = typer.Typer(
    name="eval",
    cls=CommandGroup,
    help="Measure classification and retrieval on your own data.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(cls=Command)
@keep_examples
@with_flags
def classification(  # noqa: PLR0913  one parameter for each option
    sources: _Sources,
    model: _Models = None,
    labels_file: LabelsFileOption = None,
    template: TemplateOption = None,
    label_column: _LabelColumn = None,
    column: ColumnOption = None,
    exclude: ExcludeOption = None,
    out: _Out = None,
    as_json: JsonOption = False,
    *,
    compute: ComputeFlags,
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
    from perception_encoder.cli.eval_results import (
        describe_accuracy,
        write_accuracies,
        write_result,
    )
    from perception_encoder.indexing.stream import iter_items

    templates = check_templates(template)
    check_folder(out)
    given, gap = read_labels_file(labels_file) if labels_file is not None else ({}, None)
    opened = open_evaluated(sources, column, exclude)
    items = list(iter_items(opened))
    report_notes(opened)
    classes = read_classes(items, label_column)
    comparison = ModelComparison(items, classes, compute, batch_size)
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
            described = describe_accuracy(results[name], "zero-shot classification")
            write_json(describe_model(name, loaded) | {"templates": templates} | described)
        if out is not None:
            write_result(out, "zeroshot_classification", sources, name, loaded, results[name])
    if not as_json:
        write_accuracies(results)
    comparison.exit_if_failed()


@app.command(cls=Command)
@keep_examples
@with_flags
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
    out: _Out = None,
    as_json: JsonOption = False,
    *,
    compute: ComputeFlags,
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
    from perception_encoder.cli.eval_results import (
        describe_retrieval,
        write_result,
        write_retrievals,
    )

    check_folder(out)
    opened = open_evaluated(sources, column, exclude)
    rows = [item for source in opened for item in source.items()]
    report_notes(opened)
    columns = find_caption_columns(rows, caption_column or [])
    captions: dict[str, list[str]] = {}
    for row in rows:
        captions.setdefault(row.id, []).extend(read_captions(row, columns))
    unique = {row.id: row for row in rows}
    captions = {key: texts for key, texts in captions.items() if texts}
    chosen = compute
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
            write_json(describe_model(name, loaded) | describe_retrieval(results[name]))
        if out is not None:
            write_result(out, "zeroshot_retrieval", sources, name, loaded, results[name])
    if not as_json:
        write_retrievals(results)
    comparison.exit_if_failed()


@app.command("linear-probe", cls=Command)
@keep_examples
@with_flags
def linear_probe(  # noqa: PLR0913  one parameter for each option
    sources: _Sources,
    model: _Models = None,
    test: _Test = None,
    label_column: _LabelColumn = None,
    column: ColumnOption = None,
    exclude: ExcludeOption = None,
    out: _Out = None,
    as_json: JsonOption = False,
    *,
    compute: ComputeFlags,
    batch_size: BatchSizeOption = 32,
) -> None:
    """Measure logistic regression on embeddings.

    Learns the classes from the images of the sources, as the linear probe of CLIP does, and
    measures it on those of --test. The class of an image is the name of its folder, or stands in a
    column. Needs the extra `teach`.

    Examples:
        pe eval linear-probe flowers/train --test flowers/test -m PE-Core-S16-384 -m clip/ViT-B-32
    """
    from perception_encoder.analysis.probing import probe_linearly

    probing = ProbeComparison(
        open_evaluated(sources, column, exclude),
        open_evaluated(test or [], column, exclude),
        label_column,
        compute,
        batch_size,
    )
    names = test or sources
    _report_probes(probing, "linear_probe", model, probe_linearly, names, out, as_json=as_json)


@app.command(cls=Command)
@keep_examples
@with_flags
def knn(  # noqa: PLR0913  one parameter for each option
    sources: _Sources,
    model: _Models = None,
    test: _Test = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Neighbors that vote.")] = 20,
    label_column: _LabelColumn = None,
    column: ColumnOption = None,
    exclude: ExcludeOption = None,
    out: _Out = None,
    as_json: JsonOption = False,
    *,
    compute: ComputeFlags,
    batch_size: BatchSizeOption = 32,
) -> None:
    """Measure the votes of the nearest neighbors.

    The k nearest images of the sources vote for the class of each image of --test, as in the
    protocol of DINO. The class of an image is the name of its folder, or stands in a column.

    Examples:
        pe eval knn flowers/train --test flowers/test -k 10
    """
    from functools import partial

    from perception_encoder.analysis.probing import vote_by_neighbors

    probing = ProbeComparison(
        open_evaluated(sources, column, exclude),
        open_evaluated(test or [], column, exclude),
        label_column,
        compute,
        batch_size,
    )
    score = partial(vote_by_neighbors, k=k)
    _report_probes(probing, "knn", model, score, test or sources, out, as_json=as_json)


def _report_probes(
    probing: ProbeComparison,
    task: ClipBenchmarkTask,
    models: Sequence[str] | None,
    score: ProbeScore,
    sources: Sequence[str],
    out: Path | None,
    *,
    as_json: bool,
) -> None:
    """Measure each model by a probe, and write the results."""
    from perception_encoder.cli.eval_results import (
        describe_accuracy,
        write_accuracies,
        write_result,
    )

    check_folder(out)
    results = {}
    for name, loaded in probing.comparison.models(models):
        results[name], num_examples = probing.measure(loaded, score)
        if as_json:
            described = describe_accuracy(results[name], task.replace("_", " "))
            write_json(describe_model(name, loaded) | {"examples": num_examples} | described)
        if out is not None:
            write_result(out, task, sources, name, loaded, results[name])
    if not as_json:
        write_accuracies(results)
    probing.comparison.exit_if_failed()
