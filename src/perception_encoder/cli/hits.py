"""Shows what searches found: a table, JSON lines or paths; a sheet, a preview, or a viewer."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from perception_encoder.cli.output import say, write_json, write_line, write_path, write_table
from perception_encoder.cli.search_options import SearchFlags

if TYPE_CHECKING:
    from perception_encoder.analysis.contact_sheet import SheetImage
    from perception_encoder.index import Hit, Row
    from perception_encoder.pipeline.queries import Query
    from perception_encoder.pipeline.search import Found


_SHOWN_LABELS: Final = {"strong": "strong", "weak": "weak", "none": "-"}


class Answer(NamedTuple):
    """A query and what it found; `written` tells several apart, and is None for a single one."""

    query: "Query"
    found: "Sequence[Found]"
    written: str | None = None


def show(answers: Sequence[Answer], flags: SearchFlags) -> None:
    """Show the hits of each query in every form that the flags ask for."""
    for answer in answers:
        if flags.null or flags.paths:
            _write_paths(answer.found, null=flags.null)
        elif flags.as_json:
            _write_json(answer)
        elif answer.found:
            _write_table(answer)
        _say_what_it_means(answer, is_first_page=flags.offset == 0)
    if flags.sheet is not None:
        _draw(flags.sheet, answers)
    if flags.preview is not None:
        from perception_encoder.cli.preview import Shown, preview

        hits = [found.hit for answer in answers for found in answer.found]
        preview(
            [Shown(image_of(hit), f"{hit.score:.3f} {short_name(hit)}") for hit in hits],
            flags.preview,
        )
    if flags.open_hits:
        from perception_encoder.cli.viewer import open_pictures

        open_pictures([found.hit for answer in answers for found in answer.found])


def _say_what_it_means(answer: Answer, *, is_first_page: bool) -> None:
    """Say on stderr if there are no hits, or none that is better than those of other queries."""
    which = f"{answer.written}: " if answer.written is not None else ""
    if not answer.found:
        say(f"{which}nothing found")
    elif answer.found[0].label == "none" and is_first_page:
        say(
            f"{which}nothing like it here: these are the nearest, but no nearer than what has "
            "nothing to do with this table"
        )


def _write_paths(found: "Sequence[Found]", *, null: bool) -> None:
    for one in found:
        write_path(one.hit.name, null=null)


def _write_json(answer: Answer) -> None:
    for found in answer.found:
        hit = found.hit
        write_json(
            {
                **({"query": answer.written} if answer.written is not None else {}),
                "id": hit.id,
                "uri": hit.uri,
                "member": hit.member,
                "score": round(hit.score, 6),
                "label": found.label,
                "width": hit.width,
                "height": hit.height,
                **({"also": [copy.name for copy in found.also]} if found.also else {}),
                **({"metadata": dict(hit.metadata)} if hit.metadata else {}),
            }
        )


def _write_table(answer: Answer) -> None:
    if answer.written is not None:
        write_line("", answer.written)
    has_labels = answer.found[0].label is not None
    rows = []
    for found in answer.found:
        copies = f"  +{len(found.also)}" if found.also else ""
        label = [_SHOWN_LABELS[found.label]] if found.label is not None else []
        rows.append([f"{found.hit.score:.4f}", *label, found.hit.name + copies])
    write_table(["score", *(["label"] if has_labels else []), "picture"], rows)


def _draw(path: Path, answers: Sequence[Answer]) -> None:
    from perception_encoder.analysis.contact_sheet import SheetHit, SheetRow, contact_sheet

    rows = [
        SheetRow(
            [SheetHit(image_of(one.hit), one.hit.score, short_name(one.hit)) for one in found],
            text=query.text,
            image=query.picture,
        )
        for query, found, _ in answers
    ]
    contact_sheet(rows, path)
    num_hits = sum(len(answer.found) for answer in answers)
    one = len(answers) == 1
    say(f"{path}: {'the query' if one else f'{len(answers)} queries'} and {num_hits} hits")


def image_of(hit: "Hit | Row") -> "SheetImage":
    """Return the path of a plain file, or what reads a picture that lies elsewhere."""
    from perception_encoder.pipeline.sources import read_picture

    is_file = hit.member is None and "://" not in hit.uri
    return hit.uri if is_file else partial(read_picture, hit.uri, hit.member, hit.offset)


def short_name(hit: "Hit | Row") -> str:
    """Return the file's name without its folder and ending."""
    return Path(hit.member or hit.uri).stem
