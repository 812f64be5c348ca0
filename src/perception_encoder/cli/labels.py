"""The options that say what labels there are, and what is read from them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from perception_encoder.cli.text_files import problem_of, read_text

if TYPE_CHECKING:
    from perception_encoder.analysis.labels import Labels

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


def read_labels(labels: str | None, file: Path | None) -> "Labels | None":
    """Return the labels that the options give; None where none does."""
    from perception_encoder.analysis.labels import listed_labels

    if labels is not None and file is not None:
        raise typer.BadParameter("give --labels or --labels-file, not both")
    if file is not None:
        return read_labels_file(file)[0]
    if labels is None:
        return None
    try:
        return _checked(listed_labels(labels))
    except ValueError as err:
        raise typer.BadParameter(f"--labels: {err}") from err


def read_labels_file(file: Path) -> "tuple[Labels, int | None]":
    """Return a file's labels, and the first empty line before one, by which numbers shift."""
    from perception_encoder.analysis.labels import gap_in, labels_in

    text = read_text(file)
    try:
        return _checked(labels_in(text)), gap_in(text)
    except ValueError as err:
        raise typer.BadParameter(f"{file}: {err}") from err


def _checked(labels: "Labels") -> "Labels":
    """Refuse labels that are no text.

    Raises:
        ValueError: one is not.
    """
    for label, names in labels.items():
        for name in (label, *names):
            if problem := problem_of(name, f"the label {label[:_SHOWN]!a}"):
                raise ValueError(problem)
    return labels


def checked_templates(templates: list[str] | None) -> list[str]:
    """Return the templates, or the one that is used where none is given."""
    from perception_encoder.analysis.zero_shot import DEFAULT_TEMPLATE

    templates = templates or [DEFAULT_TEMPLATE]
    for template in templates:
        if problem := problem_of(template, f"--template {template[:_SHOWN]!a}"):
            raise typer.BadParameter(problem)
        if "{}" not in template:
            raise typer.BadParameter(f"--template {template!r} needs {{}} where the label goes")
    return templates
