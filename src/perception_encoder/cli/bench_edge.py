"""`pe bench --profile edge`: what exported models cost within the limits of a small machine."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from perception_encoder.cli.output import say, short, write_json, write_table

if TYPE_CHECKING:
    from perception_encoder.pipeline.bench import EdgeOptions, EdgeRow, Memory

_HEADER = [
    "model", "engine", "precision", "pictures/s", "1 picture", "1 text", "12 MP JPEG",
    "files", "memory, pictures", "memory, both",
]  # fmt: skip
_LEGEND = (
    "one core and 1 GiB of private memory; graphs were made before, without limits\n"
    "files: graphs for pictures + for texts, on disk · memory: the most a process held that embeds "
    'pictures only,\nor pictures and texts, mapped files included; "needs": it did not fit, and '
    "held this without a limit"
)


def bench_edge(options: "EdgeOptions", surroundings: Mapping[str, str], *, as_json: bool) -> None:
    """Measure and write rows.

    Raises:
        typer.Exit: nothing could be measured.
    """
    from perception_encoder.pipeline.bench import EdgeRow
    from perception_encoder.pipeline.bench import bench_edge as measured

    rows: list[EdgeRow] = []
    for outcome in measured(options):
        if not isinstance(outcome, EdgeRow):
            case = f"{outcome.model}, {outcome.backend}, {outcome.precision}"
            say(f"{case}: left out: {outcome.reason}")
            continue
        rows.append(outcome)
        if as_json:
            write_json(asdict(outcome) | {"limits": asdict(options.limits)} | dict(surroundings))
        else:
            fits = outcome.picture_memory.fits
            speed = f"{short(outcome.pictures_per_second)} pictures/s" if fits else "does not fit"
            say(f"{outcome.label}, {outcome.backend}, {outcome.precision}: {speed}")
    if not rows:
        say("pe: nothing could be measured")
        raise typer.Exit(1)
    if not as_json:
        write_table(_HEADER, [_cells(row) for row in rows])
        say("", *_LEGEND.splitlines())


def _cells(row: "EdgeRow") -> list[str]:
    return [
        row.label,
        row.backend,
        row.precision,
        short(row.pictures_per_second),
        _milliseconds(row.picture_ms),
        _milliseconds(row.text_ms),
        _milliseconds(row.decode_ms),
        f"{row.picture_file_bytes / 2**20:,.0f} + {row.text_file_bytes / 2**20:,.0f} MB",
        _memory(row.picture_memory),
        "-" if row.both_memory is None else _memory(row.both_memory),
    ]


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{short(value)} ms"


def _memory(memory: "Memory") -> str:
    return f"{'' if memory.fits else 'needs '}{memory.peak_bytes / 2**20:,.0f} MB"
