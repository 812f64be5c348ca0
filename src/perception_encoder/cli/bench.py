"""`pe bench`: speed, memory and precision of each model and backend on this machine."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

import typer

from perception_encoder import __version__
from perception_encoder.cli.options import DeviceOption, JsonOption
from perception_encoder.cli.output import check_file, format_number, say, write_json, write_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from perception_encoder.bench import BenchRow, Drift, EdgeOptions, EdgeRow, Memory, SkippedCase

_Row = TypeVar("_Row", "BenchRow", "EdgeRow")

_BACKENDS: Final = ("torch", "openvino", "onnx")
_PRECISIONS: Final = ("fp32", "bf16", "fp16", "int8")
_HEADER: Final = [
    "model", "backend", "precision", "instructions", "images/s", "batch", "of peak", "1 image",
    "texts/s", "1 text", "12 MP JPEG", "memory", "images agree", "texts agree",
]  # fmt: skip
_LEGEND: Final = (
    "instructions: what multiplies matrices on this CPU · images/s: prepared images at the best "
    "batch size\nof peak: share of this machine's own rate of matrix products in that precision\n"
    "1 image, 1 text: time for one embedding · 12 MP JPEG: decoding and resizing one file on one "
    "core\nmemory: peak of the process · agree: lowest cosine with the embeddings of fp32"
)
_EDGE_HEADER: Final = [
    "model", "backend", "precision", "images/s", "1 image", "1 text", "12 MP JPEG",
    "files", "memory, images", "memory, both",
]  # fmt: skip
_EDGE_LEGEND: Final = (
    "one core and 1 GiB of private memory; graphs were exported before, without limits\n"
    "files: graphs for images + for texts, on disk · memory: peak of a process that embeds images "
    'only,\nor images and texts, mapped files included; "needs": it did not fit, and took this '
    "much without a limit"
)


def _check_choices(choices: tuple[str, ...]) -> Callable[[list[str] | None], list[str] | None]:
    """Return a check for an option that may be repeated; typer takes no list of Literal."""

    def check(values: list[str] | None) -> list[str] | None:
        for value in values or ():
            if value not in choices:
                raise typer.BadParameter(f"{value!r} is not one of {', '.join(choices)}")
        return values

    return check


def bench(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="Model id or path; repeat it for several.  [default: the five PE-Core]",
            show_default=False,
        ),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            metavar=f"[{'|'.join(_BACKENDS)}]",
            callback=_check_choices(_BACKENDS),
            help="Backend; repeat it for several.  [default: all that are installed]",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            metavar=f"[{'|'.join(_PRECISIONS)}]",
            callback=_check_choices(_PRECISIONS),
            help="Number format; repeat it for several.  [default: fp32, bf16 and int8]",
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = "auto",
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Fewer rounds; without --backend and --precision one backend only."
        ),
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Plot speed against published accuracy: .png, .svg, .pdf.")
    ] = None,
    profile: Annotated[
        Literal["edge"] | None,
        typer.Option(help="edge: exports of T16, S16 and B16 on one core with 1 GiB (Linux)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure speed, memory and precision of the models on this machine.

    Models that are not on this machine get random weights instead of a download, since speed and
    memory do not depend on the weights. Measuring all models takes a while, the largest one most.

    `--profile edge` measures exports for edge devices. Graphs for ONNX and OpenVINO are exported
    without limits, as by `pe export`. Then processes with one core run them, with 1 GiB for all
    memory that they may write to (RLIMIT_DATA). The reported peak includes mapped files; a process
    whose peak exceeds 1 GiB does not fit either.

    Examples:
        pe bench --quick
        pe bench --profile edge --quick
        pe bench --model PE-Core-B16-224 --model PE-Core-T16-384 --plot speed.png
    """
    from perception_encoder.bench import EDGE_MODELS, BenchOptions, EdgeOptions, bench
    from perception_encoder.bench.figures import check_plot, plot_speed

    named: dict[str, Any] = {"backends": backend or None, "precisions": precision or None}
    if profile is not None:
        _check_edge(backend, device, plot)
        edge = EdgeOptions(models=model or EDGE_MODELS, is_quick=quick, **named)
        measure_edge(edge, _describe_environment(), as_json=as_json)
        return
    _check_device(device)
    if plot is not None:
        check_plot(plot)
        check_file(plot)
    if model:
        named["models"] = model
    options = BenchOptions(device=device, is_quick=quick, **named)
    rows: list[BenchRow] = []
    for row in _iter_measured(bench(options)):
        rows.append(row)
        if as_json:
            write_json(asdict(row) | _describe_environment())
        else:
            speed = format_number(row.figures.images_per_second)
            say(f"{row.label}, {row.figures.backend}, {row.figures.precision}: {speed} images/s")
    if not as_json:
        write_table(_HEADER, [_to_cells(row) for row in rows])
        say("", *_LEGEND.splitlines())
        _report_random_weights(rows)
    if plot is not None:
        plot_speed(rows, plot, title=f"Perception Encoder on {_describe_machine()}")
        say(f"{plot}: speed against published accuracy")


def measure_edge(options: EdgeOptions, environment: Mapping[str, str], *, as_json: bool) -> None:
    """Measure exports within the limits of an edge device, and write the rows.

    Raises:
        typer.Exit: nothing could be measured.
    """
    from perception_encoder.bench import bench_edge

    rows: list[EdgeRow] = []
    for row in _iter_measured(bench_edge(options)):
        rows.append(row)
        if as_json:
            write_json(asdict(row) | {"limits": asdict(options.limits)} | dict(environment))
        else:
            fits = row.image_memory.fits
            speed = f"{format_number(row.images_per_second)} images/s" if fits else "does not fit"
            say(f"{row.label}, {row.backend}, {row.precision}: {speed}")
    if not as_json:
        write_table(_EDGE_HEADER, [_to_edge_cells(row) for row in rows])
        say("", *_EDGE_LEGEND.splitlines())


def _iter_measured(outcomes: Iterator[_Row | SkippedCase]) -> Iterator[_Row]:
    """Yield the rows; report progress, and the cases that could not be measured.

    Raises:
        typer.Exit: nothing could be measured.
    """
    from perception_encoder.bench import SkippedCase
    from perception_encoder.cli.progress import show_steps

    num_rows = num_outcomes = 0
    while True:
        with show_steps(f"measuring, {num_outcomes} done"):
            outcome = next(outcomes, None)
        if outcome is None:
            break
        num_outcomes += 1
        if isinstance(outcome, SkippedCase):
            case = f"{outcome.model}, {outcome.backend}, {outcome.precision}"
            say(f"{case.removesuffix(', -, -')}: left out: {outcome.reason}")
            continue
        num_rows += 1
        yield outcome
    if not num_rows:
        say("pe: nothing could be measured")
        raise typer.Exit(1)


def _check_edge(backends: list[str] | None, device: str, plot: Path | None) -> None:
    """Refuse options that the edge profile does not have.

    Raises:
        typer.BadParameter: one of them is given.
    """
    if "torch" in (backends or ()):
        raise typer.BadParameter("--profile edge runs exports: --backend is onnx or openvino")
    if device not in ("auto", "cpu") or plot is not None:
        raise typer.BadParameter("--profile edge has one core of the CPU, and no --plot")


def _check_device(device: str) -> None:
    """Refuse several GPUs: a single caller keeps only one of them busy.

    Raises:
        typer.BadParameter: several are named.
    """
    kind, _, numbers = device.partition(":")
    if "," in numbers or numbers == "all":
        first = numbers.partition(",")[0].strip() if "," in numbers else "0"
        raise typer.BadParameter(
            f"pe bench measures one GPU, and --device {device} names several. Type --device "
            f"{kind}:{first}; GPUs of one kind share a run's batches, so their speeds add up"
        )


def _to_cells(row: BenchRow) -> list[str]:
    figures = row.figures
    peak = figures.peak_device_bytes or figures.peak_bytes
    return [
        row.label,
        figures.backend,
        figures.precision,
        figures.instructions or "-",
        format_number(figures.images_per_second),
        str(figures.image_batch),
        "-" if row.fraction is None else f"{row.fraction:.0%}",
        _format_ms(figures.image_ms),
        format_number(figures.texts_per_second),
        _format_ms(figures.text_ms),
        _format_ms(figures.decode_ms),
        "-" if peak is None else f"{peak / 2**20:,.0f} MB",
        _format_cosine(row.image_drift),
        _format_cosine(row.text_drift),
    ]


def _to_edge_cells(row: EdgeRow) -> list[str]:
    return [
        row.label,
        row.backend,
        row.precision,
        format_number(row.images_per_second),
        _format_ms(row.image_ms),
        _format_ms(row.text_ms),
        _format_ms(row.decode_ms),
        f"{row.image_file_bytes / 2**20:,.0f} + {row.text_file_bytes / 2**20:,.0f} MB",
        _format_memory(row.image_memory),
        "-" if row.both_memory is None else _format_memory(row.both_memory),
    ]


def _format_ms(value: float | None) -> str:
    return "-" if value is None else f"{format_number(value)} ms"


def _format_memory(memory: Memory) -> str:
    return f"{'' if memory.fits else 'needs '}{memory.peak_bytes / 2**20:,.0f} MB"


def _format_cosine(drift: Drift | None) -> str:
    return "-" if drift is None else f"{drift.worst:.6f}"


def _report_random_weights(rows: list[BenchRow]) -> None:
    names = dict.fromkeys(row.label for row in rows if row.has_random_weights)
    if names:
        say(
            f"{', '.join(names)}: measured with random weights, as the real ones are not on this "
            "machine. Speed and memory are the same; agreement is that of the random weights"
        )


def _describe_environment() -> dict[str, str]:
    return {
        "machine": _describe_machine(),
        "python": platform.python_version(),
        "perception_encoder": __version__,
    }


def _describe_machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
