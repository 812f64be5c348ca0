"""The options that say what labels there are, and what is read from them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from perception_encoder.analysis.labels import Labels

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
    from perception_encoder.analysis.labels import labels_in, listed_labels

    if labels is not None and file is not None:
        raise typer.BadParameter("give --labels or --labels-file, not both")
    try:
        if labels is not None:
            return listed_labels(labels)
        if file is not None:
            return labels_in(file.read_text(encoding="utf-8"))
    except ValueError as err:
        raise typer.BadParameter(f"{'--labels' if file is None else file}: {err}") from err
    return None


def checked_templates(templates: list[str] | None) -> list[str]:
    """Return the templates, or the one that is used where none is given."""
    from perception_encoder.analysis.zero_shot import DEFAULT_TEMPLATE

    templates = templates or [DEFAULT_TEMPLATE]
    for template in templates:
        if "{}" not in template:
            raise typer.BadParameter(f"--template {template!r} needs {{}} where the label goes")
    return templates
