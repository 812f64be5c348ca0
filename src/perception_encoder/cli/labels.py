"""The options that name labels and prompt templates, and reading what they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from perception_encoder.cli.text_files import find_error, read_text

if TYPE_CHECKING:
    from perception_encoder.analysis.labels import Labels

LabelsOption = Annotated[
    str | None, typer.Option("--labels", "-l", help="Labels, separated by commas: cat,dog,red car.")
]
LabelsFileOption = Annotated[
    Path | None,
    typer.Option(
        help="File of labels, one a line: `cat`, or `pet: cat, dog` with the words that the model "
        'reads instead; or JSON: {"pet": ["cat", "dog"]}.'
    ),
]
TemplateOption = Annotated[
    list[str] | None,
    typer.Option(
        "--template",
        "-t",
        help="A sentence with {} for the label, such as 'a photo of a {}'; several are averaged.  "
        "[default: {}]",
        show_default=False,
    ),
]
_MAX_LABEL: Final = 40  # characters of a label in a message; it may be an encoded image


def read_labels(labels: str | None, file: Path | None) -> Labels | None:
    """Return the labels that the options name; None if they name none."""
    from perception_encoder.analysis.labels import parse_label_list

    if labels is not None and file is not None:
        raise typer.BadParameter("give --labels or --labels-file, not both")
    if file is not None:
        return read_labels_file(file)[0]
    if labels is None:
        return None
    try:
        return _check_labels(parse_label_list(labels))
    except ValueError as err:
        raise typer.BadParameter(f"--labels: {err}") from err


def read_labels_file(file: Path) -> tuple[Labels, int | None]:
    """Return a file's labels, and its first empty line before a label, which shifts numbers."""
    from perception_encoder.analysis.labels import find_gap, parse_labels

    text = read_text(file)
    try:
        return _check_labels(parse_labels(text)), find_gap(text)
    except ValueError as err:
        raise typer.BadParameter(f"{file}: {err}") from err


def check_templates(templates: list[str] | None) -> list[str]:
    """Return the templates, or the default one if none is given.

    Raises:
        typer.BadParameter: one of them is not valid text, or has no {}.
    """
    from perception_encoder.analysis.classifiers import DEFAULT_TEMPLATE

    templates = templates or [DEFAULT_TEMPLATE]
    for template in templates:
        if error := find_error(template, f"--template {template[:_MAX_LABEL]!a}"):
            raise typer.BadParameter(error)
        if "{}" not in template:
            raise typer.BadParameter(f"--template {template!r} needs {{}} where the label goes")
    return templates


def _check_labels(labels: Labels) -> Labels:
    """Return the labels.

    Raises:
        ValueError: one of them is not valid text.
    """
    for label, names in labels.items():
        for name in (label, *names):
            if error := find_error(name, f"the label {label[:_MAX_LABEL]!a}"):
                raise ValueError(error)
    return labels
