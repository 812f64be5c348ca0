"""`pe classify`: labels for images, by zero-shot classification."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from perception_encoder.cli.classify_results import NO_LABEL, ClassifyOutput, Results
from perception_encoder.cli.options import (
    ABOUT_DEFAULT_MODEL,
    DEFAULT_MODEL,
    BackendOption,
    BatchSizeOption,
    ColumnOption,
    CompileOption,
    DeviceOption,
    ExcludeOption,
    IndexOption,
    JsonOption,
    LabelsFileOption,
    LabelsOption,
    PathsOption,
    PrecisionOption,
    PreprocessOption,
    RowFlags,
    SourcesModelOption,
    TemplateOption,
    check_moving,
    check_templates,
    find_index,
    open_model,
    read_labels,
    warn_of_photo_index,
    with_flags,
)
from perception_encoder.cli.output import check_sheet, say
from perception_encoder.cli.teach import read_named

if TYPE_CHECKING:
    from perception_encoder.analysis.classifiers import ImageClassifier
    from perception_encoder.analysis.few_shot import FewShotClassifier
    from perception_encoder.analysis.labels import Labels
    from perception_encoder.index import Index, Outcome, Row
    from perception_encoder.indexing import Progress
    from perception_encoder.indexing.stream import EmbeddedImages
    from perception_encoder.sources import Source

_SCORES_AT_ONCE: Final = 2**20  # a block of an index is large, and there may be thousands of labels


@with_flags
def classify(  # noqa: PLR0913  one parameter for each option
    context: typer.Context,
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Images, folders, globs, tars, tables, URLs; - reads names from stdin.  "
            "[default: the images of --index]",
            show_default=False,
        ),
    ] = None,
    labels: LabelsOption = None,
    labels_file: LabelsFileOption = None,
    template: TemplateOption = None,
    classifier_name: Annotated[
        str | None,
        typer.Option(
            "--classifier", help="Classifier from `pe teach`, by name or path, in place of labels."
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of labels for each image.")] = 1,
    min_probability: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Give no label to images whose best label has less.  [default: 0, or the "
            "classifier's cutoff]",
            show_default=False,
        ),
    ] = None,
    min_fit: Annotated[
        Literal["strong", "weak", "none"] | None,
        typer.Option(
            help="Give no label to images whose best label fits less.  [default: weak for one "
            "label, none for several]",
            show_default=False,
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Show only images with this label, - for none; repeat it for several."),
    ] = None,
    index_path: IndexOption = None,
    *,
    rows: RowFlags,
    exclude: ExcludeOption = None,
    column: ColumnOption = None,
    as_json: JsonOption = False,
    paths: PathsOption = False,
    null: Annotated[
        bool, typer.Option("-0", help="NUL instead of newlines, on stdin and with --paths.")
    ] = False,
    sheet: Annotated[
        Path | None,
        typer.Option(help="Draw the nearest images of each label: .png, .jpg, .webp or .html."),
    ] = None,
    move_to: Annotated[
        Path | None,
        typer.Option(help="Move images into this folder, one folder a label; needs --yes."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --move-to: only show the moves.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --move-to: move the files.")] = False,
    model: SourcesModelOption = None,
    device: DeviceOption = "auto",
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    compiled: CompileOption = False,
    preprocess: PreprocessOption = None,
    batch_size: BatchSizeOption = 32,
) -> None:
    """Assign labels to images: by texts, without training, or by a classifier from `pe teach`.

    Without sources, the embeddings of an index are classified, and no image is read. A source like
    dog.jpg#xywh=10,20,200,150 is a part of an image.

    A probability compares a label with the other labels: one of them is likely even if none fits.
    "fit" compares a label with unrelated prompts: strong, weak, or - if it does not fit. A single
    label is a yes-or-no question, answered by its fit. The exit code is 1 if an image could not be
    read.

    Examples:
        pe classify ~/Pictures --labels cat
        pe classify ~/Pictures --labels "cat,dog,red car"
        pe classify --index images.lance --labels cat,dog --where "width > 800" --sheet labels.png
        pe classify inbox --classifier pets
        pe classify . --labels-file pets.txt --only cat --paths -0 | xargs -0 cp -t cats
        pe classify inbox -l "cat,dog" --min-probability 0.8 --move-to sorted --dry-run
    """
    source = context.get_parameter_source("index_path")
    is_named = source is not None and source.name == "COMMANDLINE"  # not by PE_INDEX
    if sources and (is_named or rows):
        raise typer.BadParameter(
            "--index, --where, --since, --until, --near and --camera are for an index's images: "
            "name no sources"
        )
    if not sources and (exclude or column or (null and not paths)):
        raise typer.BadParameter("--exclude, --column and -0 need sources")
    check_sheet(sheet)
    check_moving(move_to, dry_run=dry_run, yes=yes)
    taught = None
    if classifier_name is not None:
        if (labels, labels_file, template, min_fit) != (None, None, None, None):
            raise typer.BadParameter(
                "--classifier has labels of its own: leave out --labels, --labels-file, --template "
                "and --min-fit"
            )
        taught = _read_taught(classifier_name, moves=move_to is not None)
    named = _read_labels(labels, labels_file) if taught is None else {}
    _check_only(only or (), named if taught is None else taught.labels)
    templates = check_templates(template)
    from perception_encoder.analysis.classifiers import ZeroShotClassifier
    from perception_encoder.backends import ComputeOptions
    from perception_encoder.cli.progress import show_steps
    from perception_encoder.index import Index
    from perception_encoder.indexing import Progress
    from perception_encoder.indexing.stream import embed_items, iter_items
    from perception_encoder.search.null_distribution import load_prompts
    from perception_encoder.search.query_model import open_index_model
    from perception_encoder.sources import SourceOptions, open_sources
    from perception_encoder.sources.item import collect_notes

    index: Index | None = None
    progress: Progress | None = None
    blocks: Iterator[EmbeddedImages]
    opened: list[Source] = []
    if sources:
        options = SourceOptions(
            exclude=tuple(exclude or ()), null_separated=null, column=column, crops=True
        )
        opened = open_sources(sources, options)  # before the model: a wrong name shows at once
        if model is None:
            say(f"classified by {ABOUT_DEFAULT_MODEL}")
        loaded = open_model(
            model or DEFAULT_MODEL,
            device=device,
            backend=backend,
            precision=precision,
            compiled=compiled,
            preprocess=preprocess,
        )
        progress = Progress()
        blocks = embed_items(loaded, iter_items(opened), batch_size=batch_size, progress=progress)
    else:
        index = Index.open(find_index(index_path))
        warn_of_photo_index(index)
        loaded = open_index_model(index, model, ComputeOptions(device=device))
        blocks = _read_index(index, rows.condition(index))
    classifier: ImageClassifier
    prompts = None
    if taught is None:
        classifier = ZeroShotClassifier.from_model(loaded, named, templates)
        with show_steps("embedding prompts to compare labels with"):
            prompts = load_prompts(loaded, index)
    else:
        taught.check(loaded.identity)
        classifier = taught if min_probability is None else taught.with_cutoff(min_probability)
    wanted = ClassifyOutput(
        k=k,
        min_probability=min_probability or 0.0,
        min_fit=min_fit or ("weak" if len(named) == 1 else "none"),
        only=frozenset(only or ()),
        as_json=as_json,
        paths=paths,
        null=null,
        sheet=sheet,
        move_to=move_to,
        dry_run=dry_run,
    )
    results = Results(classifier.labels, wanted, prompts)
    _classify(blocks, classifier, results, progress)
    for note in collect_notes(opened):
        say(f"pe: {note}")
    if results.num_failed:
        raise typer.Exit(1)


def _read_labels(labels: str | None, file: Path | None) -> Labels:
    named = read_labels(labels, file)
    if named is None:
        raise typer.BadParameter(
            "name the labels to choose from: --labels cat,dog; or a --classifier"
        )
    if NO_LABEL in named:
        raise typer.BadParameter(f"the label {NO_LABEL!r} means no label; give it another name")
    return named


def _read_taught(name: str, *, moves: bool) -> FewShotClassifier:
    taught = read_named(name)
    if moves and taught.is_multi_label:
        raise typer.BadParameter("--move-to needs one label for each image; these have several")
    return taught


def _check_only(only: Sequence[str], labels: Iterable[str] | None) -> None:
    """Check that the labels of --only are among them."""
    for label in only:
        if label not in (*(labels or ()), NO_LABEL):
            raise typer.BadParameter(f"--only {label}: it is not among the labels")


def _read_index(index: Index, where: str | None) -> Iterator[EmbeddedImages]:
    """Read the embeddings of an index, a block at a time."""
    from perception_encoder.analysis.ranked_images import read_blocks
    from perception_encoder.indexing.stream import EmbeddedImages

    for block in read_blocks(index, where):
        failed = [_to_outcome(row) for row in block.damaged]
        yield EmbeddedImages(block.rows, block.vectors, failed)


def _to_outcome(row: Row) -> Outcome:
    from perception_encoder.analysis.ranked_images import DAMAGE_REASON
    from perception_encoder.index import Outcome

    message = f"{row.name}: {DAMAGE_REASON}"
    return Outcome(row.uri, "failed", member=row.member, reason="DamagedVector", message=message)


def _classify(
    blocks: Iterator[EmbeddedImages],
    classifier: ImageClassifier,
    results: Results,
    progress: Progress | None,
) -> None:
    from perception_encoder.cli.progress import ProgressDisplay

    step = max(1, _SCORES_AT_ONCE // len(classifier.labels))
    # On a terminal the results themselves show the progress; a bar would break them.
    shown = None if sys.stdout.isatty() else progress
    with nullcontext() if shown is None else ProgressDisplay(shown) as display:
        for block in blocks:
            for start in range(0, len(block.rows), step):
                vectors = block.vectors[start : start + step]
                rows = block.rows[start : start + step]
                results.add(rows, vectors, classifier.classify(vectors))
            results.add_failed(block.failed, say if display is None else display.say)
            if display is not None:
                display.update()
    results.finish()
