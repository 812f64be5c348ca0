"""`pe select`: some images of an index, to look at, to label or to train on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from perception_encoder.cli.clean import LabelColumnOption, LabelFoldersOption, say_damaged
from perception_encoder.cli.options import (
    DeviceOption,
    IndexModelOption,
    IndexOption,
    JsonOption,
    LabelsFileOption,
    LabelsOption,
    NullOption,
    RowFlags,
    TemplateOption,
    check_templates,
    find_index,
    read_labels,
    with_flags,
)
from perception_encoder.cli.output import check_sheet, format_images, say, write_json, write_path
from perception_encoder.cli.teach import read_named

if TYPE_CHECKING:
    from perception_encoder.analysis.classifiers import ImageClassifier
    from perception_encoder.analysis.selection import Selection
    from perception_encoder.index import Index


@with_flags
def select(  # noqa: PLR0913  one parameter for each option
    index_path: IndexOption = None,
    count: Annotated[
        int, typer.Option("-n", min=1, help="Number of images; of each class with --per-class.")
    ] = 100,
    by: Annotated[
        Literal["diverse", "representative", "uncertain"],
        typer.Option(help="What kind of images to choose."),
    ] = "diverse",
    *,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Choose from each class of the labels.")
    ] = False,
    label_column: LabelColumnOption = None,
    label_folders: LabelFoldersOption = False,
    labels: LabelsOption = None,
    labels_file: LabelsFileOption = None,
    template: TemplateOption = None,
    classifier_name: Annotated[
        str | None,
        typer.Option(
            "--classifier", help="Classifier from `pe teach`, by name or path, in place of labels."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed can give other images.")] = 0,
    rows: RowFlags,
    as_json: JsonOption = False,
    null: NullOption = False,
    sheet: Annotated[
        Path | None, typer.Option(help="Draw the images: .png, .jpg, .webp or .html.")
    ] = None,
    model: IndexModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Choose some images of an index, and list them in the order of the choice.

    diverse: each is as far as possible from those before, which covers everything, outliers first.
    representative: the most central image of each of as many clusters. uncertain: the labels
    of --labels or --classifier, or those that the index has, are hardest to tell apart; where only
    some images have labels, the others are chosen from. The same index and seed give the same
    images.

    Examples:
        pe select -n 500 --by diverse > to-label.txt
        pe select -n 20 --by representative --sheet overview.png
        pe select -n 100 --by uncertain --labels cat,dog -0 | xargs -0 cp -t unsure
        pe select -n 50 --by uncertain --classifier pets
        pe select -n 10 --per-class --label-column species --json
    """
    from perception_encoder.analysis.selection import SelectOptions, select_images
    from perception_encoder.cli.progress import show_steps
    from perception_encoder.index import Index

    check_sheet(sheet)
    texts = read_labels(labels, labels_file)
    if texts is not None and classifier_name is not None:
        raise typer.BadParameter("--classifier has labels of its own: leave out --labels")
    if by != "uncertain" and (texts is not None or classifier_name is not None):
        raise typer.BadParameter("--labels, --labels-file and --classifier are for --by uncertain")
    options = SelectOptions(
        count=count,
        by=by,
        label_column=label_column,
        label_folders=label_folders,
        per_class=per_class,
        seed=seed,
    )
    index = Index.open(find_index(index_path))
    classifier: ImageClassifier | None = None
    if classifier_name is not None:
        classifier = read_named(classifier_name)
    elif texts is not None:
        classifier = _classifier(index, texts, check_templates(template), model, device)
    with show_steps(f"choosing among {format_images(index.count())}") as report:
        found = select_images(
            index, options, classifier=classifier, where=rows.condition(index), report=report
        )
    _write(found, as_json=as_json, null=null)
    if sheet is not None and len(found):
        _draw_sheet(sheet, found)
    _say(found)
    say_damaged(found.damaged)
    if found.damaged:
        raise typer.Exit(1)


def _classifier(
    index: Index, labels: dict[str, tuple[str, ...]], templates: list[str], model: str | None,
    device: str,
) -> ImageClassifier:  # fmt: skip
    from perception_encoder.analysis.classifiers import ZeroShotClassifier
    from perception_encoder.backends import ComputeOptions
    from perception_encoder.search.query_model import open_index_model

    opened = open_index_model(index, model, ComputeOptions(device=device))
    return ZeroShotClassifier.from_model(opened, labels, templates)


def _write(found: Selection, *, as_json: bool, null: bool) -> None:
    for row, label, score in zip(found.rows, found.labels, found.scores, strict=True):
        if as_json:
            write_json({"uri": row.uri, "member": row.member, "label": label, "score": score})
        else:
            write_path(row.name, null=null)


def _draw_sheet(path: Path, found: Selection) -> None:
    from perception_encoder.analysis.contact_sheet import SheetHit, SheetRow
    from perception_encoder.analysis.drawing import image_source_of, short_name_of
    from perception_encoder.cli.progress import draw_sheet

    hits = [SheetHit(image_source_of(row), None, short_name_of(row)) for row in found.rows]
    draw_sheet(path, [SheetRow(hits, text=found.by)], format_images(len(hits)))


def _say(found: Selection) -> None:
    if found.num_candidates < found.num_images:
        say(f"chosen among {found.num_candidates:,} of {format_images(found.num_images)}")
    say(
        f"{len(found):,} of {format_images(found.num_images)}: the others are on average "
        f"{found.mean_distance:.3f} (1 - cosine) from the nearest chosen one, at most "
        f"{found.radius:.3f}"
    )
