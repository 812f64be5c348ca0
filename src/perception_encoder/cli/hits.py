"""The output of `pe search` and `pe similar`: a table, JSON, paths, a sheet, a preview."""

from __future__ import annotations

import datetime
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, NamedTuple

import typer

from perception_encoder.cli.options import (
    DeviceOption,
    IndexModelOption,
    IndexOption,
    JsonOption,
    NullOption,
    PathsOption,
    PreviewChoice,
)
from perception_encoder.cli.output import say, write_json, write_line, write_path, write_table
from perception_encoder.errors import PerceptionEncoderError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from perception_encoder.index import Hit, MetadataValue
    from perception_encoder.search.queries import Query
    from perception_encoder.search.ranking import SearchResult

_UNSAFE_IN_NAMES: Final = re.compile(r"[^\w.-]+")
TAKEN_AT: Final = "taken_at"
_MAX_NAME: Final = 80  # characters of a temporary file's name


@dataclass(frozen=True, slots=True)
class SearchFlags:
    """The options that `pe search` and `pe similar` share."""

    index_path: IndexOption = None
    k: Annotated[int, typer.Option("-k", min=1, help="Number of hits, at most.")] = 10
    offset: Annotated[
        int, typer.Option(min=0, help="Skip this many of the best hits, for the next page.")
    ] = 0
    threshold: Annotated[
        str | None,
        typer.Option(help="Lowest cosine of a hit, such as 0.3; or its label: strong or weak."),
    ] = None
    sort: Annotated[
        Literal["score", "taken_at"],
        typer.Option(help="Order of the hits: best first, or taken_at: newest photo first."),
    ] = "score"
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare with every embedding, even of a large index.")
    ] = False
    unique: Annotated[
        float | None,
        typer.Option(metavar="[=COSINE]", help="Show near duplicates as one hit [0.95]."),
    ] = None
    fold_bursts: Annotated[
        float | None,
        typer.Option(
            metavar="[=SECONDS]",
            help="Show photos of one camera that look alike, within seconds, as one hit [2].",
        ),
    ] = None
    pairs: Annotated[
        bool,
        typer.Option(
            "--pairs/--no-pairs",
            help="Show a photo, its RAW file and its Live Photo clip as one hit.",
        ),
    ] = True
    as_json: JsonOption = False
    paths: PathsOption = False
    null: NullOption = False
    sheet: Annotated[
        Path | None, typer.Option(help="Draw the query and its hits: .png, .jpg, .webp or .html.")
    ] = None
    preview: Annotated[
        PreviewChoice | None,
        typer.Option(
            metavar="[=PROTOCOL]",
            help="Show the hits in the terminal: kitty, iterm2, sixel or blocks.",
        ),
    ] = None
    open_hits: Annotated[
        bool, typer.Option("--open", help="Open the hits in this machine's viewer.")
    ] = False
    model: IndexModelOption = None
    device: DeviceOption = "auto"


@dataclass(frozen=True, slots=True)
class TextFlags:
    """The options that search names and metadata, too."""

    text: Annotated[
        str | None,
        typer.Option(
            help='Words, and "phrases" in double quotes, to find in names, captions and other '
            "metadata. Alone, no model is used; with a query, the ranks of both are fused."
        ),
    ] = None
    text_weight: Annotated[
        float, typer.Option(min=0, max=1, help="Share of --text in the fused score.")
    ] = 0.5


class Answer(NamedTuple):
    """The hits of a query.

    Attributes:
        query: what the images should be near to; None for a text alone.
        found: the hits.
        written: its line in a file of queries.
        text: what was searched for in names and metadata.
    """

    query: Query | None
    found: Sequence[SearchResult]
    written: str | None = None
    text: str | None = None


def write_answers(answers: Sequence[Answer], flags: SearchFlags) -> None:
    """Write the hits of each query in every form that the flags ask for."""
    for answer in answers:
        if flags.null or flags.paths:
            for one in answer.found:
                write_path(one.hit.name, null=flags.null)
        elif flags.as_json:
            _write_json(answer)
        elif answer.found:
            _write_table(answer, flags.sort)
        _report_poor_hits(answer, is_first_page=flags.offset == 0)
    if flags.sheet is not None:
        _draw_sheet(flags.sheet, answers)
    hits = [one.hit for answer in answers for one in answer.found]
    if flags.preview is not None:
        from perception_encoder.analysis.drawing import image_source_of, short_name_of
        from perception_encoder.cli.preview import PreviewTile, preview

        preview(
            [
                PreviewTile(image_source_of(hit), f"{hit.score:.3f} {short_name_of(hit)}")
                for hit in hits
            ],
            flags.preview,
        )
    if flags.open_hits:
        open_images(hits)


def _report_poor_hits(answer: Answer, *, is_first_page: bool) -> None:
    """Report that there are no hits, or that unrelated queries find hits as good."""
    which = f"{answer.written}: " if answer.written is not None else ""
    if not answer.found:
        say(f"{which}nothing found")
    elif (
        all(one.label == "none" and one.kind == "cosine" for one in answer.found) and is_first_page
    ):
        say(f"{which}none is likely; unrelated queries find images that are just as near")


def _write_json(answer: Answer) -> None:
    for found in answer.found:
        hit = found.hit
        write_json(
            {
                **({"query": answer.written} if answer.written is not None else {}),
                "id": hit.id,
                "uri": hit.uri,
                "member": hit.member,
                **(hit.moment._asdict() if hit.moment is not None else {}),
                "score": round(hit.score, 6),
                "label": found.label,
                **_describe_scores(found),
                "width": hit.width,
                "height": hit.height,
                **({"box": hit.box._asdict()} if hit.box is not None else {}),
                **({"also": [copy.name for copy in found.also]} if found.also else {}),
                **({"metadata": dict(hit.metadata)} if hit.metadata else {}),
            }
        )


def _describe_scores(found: SearchResult) -> dict[str, object]:
    """Say what a score is, unless it is a cosine."""
    if found.kind == "cosine":
        return {}
    return {
        "score_kind": found.kind,
        "cosine": None if found.cosine is None else round(found.cosine, 6),
        "text_score": None if found.text_score is None else round(found.text_score, 6),
    }


def _write_table(answer: Answer, sort: str) -> None:
    if answer.written is not None:
        write_line("", answer.written)
    kind = answer.found[0].kind
    has_labels = answer.found[0].label is not None
    has_times = any(TAKEN_AT in found.hit.metadata for found in answer.found) and sort == TAKEN_AT
    rows = []
    for found in answer.found:
        copies = f"  +{len(found.also)}" if found.also else ""
        label = ["-" if found.label == "none" else str(found.label)] if has_labels else []
        time = [_format_time(found.hit.metadata.get(TAKEN_AT))] if has_times else []
        cosine = [f"{found.cosine:.4f}"] if kind in ("fusion", "rerank") else []
        score = f"{found.hit.score:.4f}" if found.kind == kind else "-"
        rows.append([score, *cosine, *label, *time, found.hit.shown_name + copies])
    scores = {
        "cosine": ["score"],
        "bm25": ["BM25"],
        "fusion": ["fused", "cosine"],
        "rerank": ["reranked", "cosine"],
    }[kind]
    optional = [*(["label"] if has_labels else []), *(["taken"] if has_times else [])]
    write_table([*scores, *optional, "image"], rows)


def _format_time(value: MetadataValue) -> str:
    return value.isoformat(" ", "minutes") if isinstance(value, datetime.datetime) else "-"


def _draw_sheet(path: Path, answers: Sequence[Answer]) -> None:
    from perception_encoder.analysis.contact_sheet import SheetHit, SheetRow
    from perception_encoder.analysis.drawing import image_source_of, outline_of, short_name_of
    from perception_encoder.cli.progress import draw_sheet

    rows = [
        SheetRow(
            [
                SheetHit(
                    image_source_of(one.hit),
                    one.hit.score,
                    short_name_of(one.hit),
                    outline_of(one.hit),
                )
                for one in found
            ],
            text=" ".join(filter(None, [query.text if query is not None else None, text])),
            image=query.image if query is not None else None,
        )
        for query, found, _, text in answers
    ]
    num_hits = sum(len(answer.found) for answer in answers)
    queries = "the query" if len(answers) == 1 else f"{len(answers)} queries"
    draw_sheet(path, rows, f"{queries} and {num_hits} hits")


def open_images(hits: Sequence[Hit]) -> None:
    """Open the hits in a viewer, best first; report and skip those that cannot be read.

    Raises:
        PerceptionEncoderError: there is no viewer.
    """
    if (player := _find_player()) is not None:
        moments = [hit for hit in hits if hit.moment is not None and os.path.isfile(hit.uri)]
        if moments:
            _run_program(_player_command(player, moments))
        hits = [hit for hit in hits if hit not in moments]
        if not hits:
            return
    command = _find_viewer()

    @functools.cache
    def make_folder() -> Path:  # only if it is needed
        return Path(tempfile.mkdtemp(prefix="pe-"))

    paths = [_save_image(hit, number, make_folder) for number, hit in enumerate(hits, 1)]
    for path in filter(None, paths):
        if command is None:
            os.startfile(path)  # type: ignore[attr-defined,unused-ignore]  # Windows only
        else:
            _run_program([command, path])


def _run_program(command: Sequence[str]) -> None:
    subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _find_player() -> str | None:
    """Return the player that can start at a given second, or None."""
    return next(filter(None, map(shutil.which, ("mpv", "vlc"))), None)


def _player_command(player: str, hits: Sequence[Hit]) -> list[str]:
    """Return the command that plays moments of videos one after another."""
    command = [player]
    for hit in hits:
        start = f"{hit.moment.start:.3f}" if hit.moment is not None else "0"
        if "vlc" in os.path.basename(player).lower():
            command += [hit.uri, f":start-time={start}"]
        else:  # options between braces are those of one file
            command += ["--{", f"--start={start}", hit.uri, "--}"]
    return command


def _find_viewer() -> str | None:
    """Return the command that opens a file; None on Windows, which has a function for it."""
    if sys.platform == "win32":
        return None
    name = "open" if sys.platform == "darwin" else "xdg-open"
    found = shutil.which(name)
    if found is None:
        raise PerceptionEncoderError(
            f"--open needs the program {name}, which is not installed; use --sheet, or --paths "
            "with a viewer of your choice"
        )
    return found


def _save_image(hit: Hit, number: int, make_folder: Callable[[], Path]) -> str | None:
    """Return the path of a hit's file; an image in an archive or on the web is saved as one."""
    from perception_encoder.preprocess import decode_image
    from perception_encoder.preprocess.files import IMAGE_SUFFIXES
    from perception_encoder.sources import read_image

    name = os.path.basename(hit.member or hit.uri)
    stem, suffix = os.path.splitext(name)
    if hit.member is None and suffix.lower() in IMAGE_SUFFIXES and os.path.isfile(hit.uri):
        return hit.uri
    if hit.moment is not None and os.path.isfile(hit.uri):
        say(f"{hit.shown_name}: opened at its start; mpv or vlc would start at that time")
        return hit.uri
    try:
        data = read_image(hit.uri, hit.member, hit.offset)
        kind = decode_image(data, item=name).format
    except (PerceptionEncoderError, OSError) as err:
        say(f"not opened: {err}")
        return None
    stem = _UNSAFE_IN_NAMES.sub("_", stem)[:_MAX_NAME]
    path = make_folder() / f"{number}-{stem}.{(kind or 'png').lower()}"
    path.write_bytes(data)
    return str(path)
