"""Shows what searches found: an index, JSON lines or paths; a sheet, a preview, or a viewer."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from perception_encoder.cli.options import SearchFlags
from perception_encoder.cli.output import say, write_json, write_line, write_path, write_table
from perception_encoder.errors import PerceptionEncoderError

if TYPE_CHECKING:
    from perception_encoder.index import Hit
    from perception_encoder.search.queries import Query
    from perception_encoder.search.search import SearchResult


_SHOWN_LABELS: Final = {"strong": "strong", "weak": "weak", "none": "-"}
_UNFIT: Final = re.compile(r"[^\w.-]+")
_LONGEST_NAME: Final = 80


class Answer(NamedTuple):
    """A query and what it found; `written` tells several apart, and is None for a single one."""

    query: "Query"
    found: "Sequence[SearchResult]"
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
        from perception_encoder.analysis.thumbnails import short_name, stored_image
        from perception_encoder.cli.preview import PreviewTile, preview

        hits = [found.hit for answer in answers for found in answer.found]
        preview(
            [PreviewTile(stored_image(hit), f"{hit.score:.3f} {short_name(hit)}") for hit in hits],
            flags.preview,
        )
    if flags.open_hits:
        open_images([found.hit for answer in answers for found in answer.found])


def _say_what_it_means(answer: Answer, *, is_first_page: bool) -> None:
    """Say on stderr if there are no hits, or none that is better than those of other queries."""
    which = f"{answer.written}: " if answer.written is not None else ""
    if not answer.found:
        say(f"{which}nothing found")
    elif answer.found[0].label == "none" and is_first_page:
        say(
            f"{which}none is likely: these are the nearest images, but unrelated queries find "
            "images as near"
        )


def _write_paths(found: "Sequence[SearchResult]", *, null: bool) -> None:
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
    write_table(["score", *(["label"] if has_labels else []), "image"], rows)


def _draw(path: Path, answers: Sequence[Answer]) -> None:
    from perception_encoder.analysis.contact_sheet import SheetHit, SheetRow
    from perception_encoder.analysis.thumbnails import short_name, stored_image
    from perception_encoder.cli.progress import draw_sheet

    rows = [
        SheetRow(
            [SheetHit(stored_image(one.hit), one.hit.score, short_name(one.hit)) for one in found],
            text=query.text,
            image=query.image,
        )
        for query, found, _ in answers
    ]
    num_hits = sum(len(answer.found) for answer in answers)
    queries = "the query" if len(answers) == 1 else f"{len(answers)} queries"
    draw_sheet(path, rows, f"{queries} and {num_hits} hits")


def open_images(hits: "Sequence[Hit]") -> None:
    """Open the hits, best first; one that cannot be read is told of and left out.

    Raises:
        PerceptionEncoderError: there is no viewer.
    """
    command = _viewer()
    folder = cache(lambda: Path(tempfile.mkdtemp(prefix="pe-")))  # not made before it is needed
    paths = [path for number, hit in enumerate(hits, 1) if (path := _path(hit, number, folder))]
    for path in paths:
        if command is None:
            os.startfile(path)  # type: ignore[attr-defined,unused-ignore]  # Windows only
        else:
            subprocess.run(
                [command, path],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )


def _viewer() -> str | None:
    """Return the command that opens a file; None where Windows does it itself."""
    if sys.platform == "win32":
        return None
    name = "open" if sys.platform == "darwin" else "xdg-open"
    found = shutil.which(name)
    if found is None:
        raise PerceptionEncoderError(
            f"--open needs the program {name}, which is not here; use --paths with a viewer of "
            "yours, or --sheet"
        )
    return found


def _path(hit: "Hit", number: int, folder: Callable[[], Path]) -> str | None:
    from perception_encoder.preprocess import decode_image
    from perception_encoder.preprocess.files import IMAGE_SUFFIXES
    from perception_encoder.sources import read_image

    name = os.path.basename(hit.member or hit.uri)
    stem, suffix = os.path.splitext(name)
    if hit.member is None and suffix.lower() in IMAGE_SUFFIXES and os.path.isfile(hit.uri):
        return hit.uri
    try:
        data = read_image(hit.uri, hit.member, hit.offset)
        found = decode_image(data, item=name).format
    except (PerceptionEncoderError, OSError) as err:
        say(f"not opened: {err}")
        return None
    stem = _UNFIT.sub("_", stem)[:_LONGEST_NAME]
    path = folder() / f"{number}-{stem}.{(found or 'png').lower()}"
    path.write_bytes(data)
    return str(path)
