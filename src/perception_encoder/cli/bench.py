"""`pe bench`: what each model, backend and precision costs on this machine, and how exact it is."""

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_encoder import __version__
from perception_encoder.cli.options import DeviceOption, JsonOption
from perception_encoder.cli.output import check_file, say, short, write_json, write_table

if TYPE_CHECKING:
    from perception_encoder.bench import BenchRow, Drift, EdgeOptions, EdgeRow, Memory


_EDGE_HEADER = [
    "model", "backend", "precision", "images/s", "1 image", "1 text", "12 MP JPEG",
    "files", "memory, images", "memory, both",
]  # fmt: skip
_EDGE_LEGEND = (
    "one core and 1 GiB of private memory; graphs were made before, without limits\n"
    "files: graphs for images + for texts, on disk · memory: the most a process held that embeds "
    'images only,\nor images and texts, mapped files included; "needs": it did not fit, and '
    "held this without a limit"
)
_HEADER = [
    "model", "backend", "precision", "images/s", "batch", "of peak", "1 image", "texts/s",
    "1 text", "12 MP JPEG", "memory", "images agree", "texts agree",
]  # fmt: skip
_LEGEND = (
    "images/s: prepared images at the best batch · of peak: of this machine's own rate of "
    "matrix products in that precision\n1 image, 1 text: until its vector is there · 12 MP JPEG: "
    "decoding and resizing one file on one core · memory: the most the process held\n"
    "agree: lowest cosine with the vectors of fp32"
)


def bench_edge(options: "EdgeOptions", surroundings: Mapping[str, str], *, as_json: bool) -> None:
    """Measure and write rows.

    Raises:
        typer.Exit: nothing could be measured.
    """
    from perception_encoder.bench import EdgeRow
    from perception_encoder.bench import bench_edge as measured

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
            fits = outcome.image_memory.fits
            speed = f"{short(outcome.images_per_second)} images/s" if fits else "does not fit"
            say(f"{outcome.label}, {outcome.backend}, {outcome.precision}: {speed}")
    if not rows:
        say("pe: nothing could be measured")
        raise typer.Exit(1)
    if not as_json:
        write_table(_EDGE_HEADER, [_edge_cells(row) for row in rows])
        say("", *_EDGE_LEGEND.splitlines())


def _edge_cells(row: "EdgeRow") -> list[str]:
    return [
        row.label,
        row.backend,
        row.precision,
        short(row.images_per_second),
        _milliseconds(row.image_ms),
        _milliseconds(row.text_ms),
        _milliseconds(row.decode_ms),
        f"{row.image_file_bytes / 2**20:,.0f} + {row.text_file_bytes / 2**20:,.0f} MB",
        _memory(row.image_memory),
        "-" if row.both_memory is None else _memory(row.both_memory),
    ]


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{short(value)} ms"


def _memory(memory: "Memory") -> str:
    return f"{'' if memory.fits else 'needs '}{memory.peak_bytes / 2**20:,.0f} MB"


class BackendChoice(Enum):
    """Backends that can be named, in a form that typer takes several of."""

    TORCH = "torch"
    OPENVINO = "openvino"
    ONNX = "onnx"


class NumberFormat(Enum):
    """Precisions that can be named, likewise."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    INT8 = "int8"


class Profile(Enum):
    """Machines that can be imitated."""

    EDGE = "edge"


def bench(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", help="Model id or path; again for more. Default: the five PE-Core."
        ),
    ] = None,
    backend: Annotated[
        list[BackendChoice] | None,
        typer.Option(help="Backend; again for more. Default: all that are installed."),
    ] = None,
    precision: Annotated[
        list[NumberFormat] | None,
        typer.Option(help="Number format; again for more. Default: fp32, bf16 and int8."),
    ] = None,
    device: DeviceOption = "auto",
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Fewer rounds; without --backend and --precision one backend."
        ),
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw speed against published accuracy: .png, .svg, .pdf.")
    ] = None,
    profile: Annotated[
        Profile | None,
        typer.Option(help="edge: exports of T16, S16 and B16 on one core with 1 GiB (Linux)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure speed, memory and precision of the models on this machine.

    Weights that are not here are made up, not downloaded: speed and memory do not depend on them.
    Everything takes a while, the largest model most of it.

    `--profile edge` is for small machines. Graphs for ONNX and OpenVINO are made as by `pe export`,
    without limits. They are opened by processes that have one core, and 1 GiB for all memory that
    they may write to (RLIMIT_DATA). Mapped files do not count there, but they do in the peak that
    is told, and what holds more than 1 GiB with them does not fit either.

    Example:
        pe bench --quick
        pe bench --profile edge --quick
        pe bench --model PE-Core-B16-224 --model PE-Core-T16-384 --plot speed.png
    """
    if profile is not None:
        _check_edge(backend, device, plot)
        from perception_encoder.bench import EDGE_MODELS, EdgeOptions

        edge = EdgeOptions(
            models=model or EDGE_MODELS,
            backends=[choice.value for choice in backend] if backend else None,
            precisions=[choice.value for choice in precision] if precision else None,
            is_quick=quick,
        )
        bench_edge(edge, _surroundings(), as_json=as_json)
        return
    from perception_encoder.bench import BenchOptions, BenchRow
    from perception_encoder.bench import bench as measured
    from perception_encoder.bench.plot import check_plot, plot_speed

    _check_one(device)
    if plot is not None:
        check_plot(plot)
        check_file(plot)
    options = BenchOptions(
        **({"models": model} if model else {}),
        backends=[choice.value for choice in backend] if backend else None,
        precisions=[choice.value for choice in precision] if precision else None,
        device=device,
        is_quick=quick,
    )
    rows: list[BenchRow] = []
    for outcome in measured(options):
        if not isinstance(outcome, BenchRow):
            case = f"{outcome.model}, {outcome.backend}, {outcome.precision}"
            say(f"{case.removesuffix(', -, -')}: left out: {outcome.reason}")
            continue
        rows.append(outcome)
        if as_json:
            write_json(asdict(outcome) | _surroundings())
        else:
            figures = outcome.figures
            say(
                f"{outcome.label}, {figures.backend}, {figures.precision}: "
                f"{short(figures.images_per_second)} images/s"
            )
    if not rows:
        say("pe: nothing could be measured")
        raise typer.Exit(1)
    if not as_json:
        write_table(_HEADER, [_cells(row) for row in rows])
        say("", *_LEGEND.splitlines())
        _say_what_was_made_up(rows)
    if plot is not None:
        plot_speed(rows, plot, title=f"Perception Encoder on {_machine()}")
        say(f"{plot}: speed against published accuracy")


def _check_edge(backend: list[BackendChoice] | None, device: str, plot: Path | None) -> None:
    """Refuse what a small machine's profile does not have.

    Raises:
        typer.BadParameter: an option that means nothing there.
    """
    if BackendChoice.TORCH in (backend or ()):
        raise typer.BadParameter("--profile edge runs exports: --backend is onnx or openvino")
    if device not in ("auto", "cpu") or plot is not None:
        raise typer.BadParameter("--profile edge has one core of the CPU, and no --plot")


def _check_one(device: str) -> None:
    """Refuse several cards: a figure of one caller keeps only one of them busy.

    Raises:
        typer.BadParameter: the device is several.
    """
    kind, _, numbers = device.partition(":")
    if "," in numbers or numbers == "all":
        first = numbers.partition(",")[0].strip() if "," in numbers else "0"
        raise typer.BadParameter(
            f"pe bench measures one card, and --device {device} is several. Type --device "
            f"{kind}:{first}; alike cards share a run's batches, so speeds add up"
        )


def _cells(row: "BenchRow") -> list[str]:
    figures = row.figures
    peak = figures.peak_device_bytes or figures.peak_bytes
    return [
        row.label,
        figures.backend,
        figures.precision,
        short(figures.images_per_second),
        str(figures.image_batch),
        "-" if row.fraction is None else f"{row.fraction:.0%}",
        f"{short(figures.image_ms)} ms",
        short(figures.texts_per_second),
        "-" if figures.text_ms is None else f"{short(figures.text_ms)} ms",
        f"{short(figures.decode_ms)} ms",
        "-" if peak is None else f"{peak / 2**20:,.0f} MB",
        _cosine(row.image_drift),
        _cosine(row.text_drift),
    ]


def _cosine(drift: "Drift | None") -> str:
    return "-" if drift is None else f"{drift.worst:.6f}"


def _say_what_was_made_up(rows: "list[BenchRow]") -> None:
    made_up = dict.fromkeys(row.label for row in rows if row.has_made_up_weights)
    if made_up:
        say(
            f"weights of {', '.join(made_up)} are not on this machine and were made up: speed and "
            "memory are right, agreement is of the made-up ones"
        )


def _surroundings() -> dict[str, str]:
    return {
        "machine": _machine(),
        "python": platform.python_version(),
        "perception_encoder": __version__,
    }


def _machine() -> str:
    """Return the processor's kind and number of cores."""
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
