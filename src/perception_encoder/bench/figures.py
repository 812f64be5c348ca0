"""The results of measurements as plain data, and their plot."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from perception_encoder.atomic import atomic_write
from perception_encoder.errors import BackendUnavailableError, ImageWriteError
from perception_encoder.types import BackendKind, Precision

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_SOURCE: Final = "Accuracy: zero-shot top-1 on ImageNet-1k as published with the models."
_INK: Final = "#1b1f24"
_SOFT_INK: Final = "#69717c"
_LINE: Final = "#e3e6ea"
# The colors of Okabe and Ito, which people with any kind of color vision tell apart.
_COLORS: Final = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one backend did with one model, medians of several rounds.

    Attributes:
        backend: the backend that computed, and on which device, in which precision.
        open_seconds: from the call to a model that is ready.
        image_ms: one prepared image to its vector.
        images_per_second: prepared images, at the best batch size.
        image_batch: that batch size.
        text_ms: one caption, tokenizing included; None for models that read no text here.
        texts_per_second: captions of 6 to 10 words, at the best batch size.
        text_batch: that batch size.
        decode_ms: a JPEG file of 12 megapixels to the model's square, on one core.
        peak_bytes: the most memory the process held; None where the system does not tell.
        peak_device_bytes: the most memory held on a CUDA device.
        instructions: what multiplied matrices on the CPU, "avx512_amx_bf16" for instance; None on
            other devices, and for backends that do not tell.
    """

    backend: BackendKind
    device: str
    precision: Precision
    open_seconds: float
    image_ms: float
    images_per_second: float
    image_batch: int
    text_ms: float | None
    texts_per_second: float | None
    text_batch: int | None
    decode_ms: float
    peak_bytes: int | None
    peak_device_bytes: int | None
    instructions: str | None


@dataclass(frozen=True)
class Drift:
    """Cosines of vectors with those of fp32 and the same weights; 1 is no drift."""

    worst: float
    mean: float


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """One model with one backend and precision.

    Attributes:
        model: its registered id, or the path that was given.
        has_random_weights: speed and memory do not depend on weights, but drift does.
        imagenet_accuracy: published zero-shot top-1, percent; see `registry.ModelEntry`.
        operations: of one image.
        ceiling: operations a second of the device's own matrix product in this precision.
        fraction: of the ceiling that was reached with images, 0 to 1.
        image_drift: over images of the bundled gallery.
        text_drift: over captions.
    """

    model: str
    has_random_weights: bool
    imagenet_accuracy: float | None
    figures: Figures
    operations: int
    ceiling: float | None
    fraction: float | None
    image_drift: Drift | None
    text_drift: Drift | None

    @property
    def label(self) -> str:
        """The model's name without its owner, for indexes and plots."""
        return self.model.removeprefix("perception-encoder/")


@dataclass(frozen=True)
class Memory:
    """What a process held.

    Attributes:
        peak_bytes: the most, mapped files that were read included. Where it did not run within the
            limit, what it held without one.
        fits: whether it ran within the limit, and held no more than that.
    """

    peak_bytes: int
    fits: bool


@dataclass(frozen=True, kw_only=True)
class EdgeRow:
    """One exported model within the limits of a small machine; None is what did not run in them.

    Attributes:
        model: its registered id, or the path that was given.
        has_random_weights: speed and memory do not depend on weights.
        backend: the backend.
        precision: that it ran in.
        image_file_bytes: the graph that reads images, on disk.
        text_file_bytes: the graph that reads texts; 0 for models without.
        image_ms: one prepared image to its vector.
        images_per_second: prepared images, at the best batch size.
        image_batch: that batch size.
        decode_ms: a JPEG file of 12 megapixels to the model's square.
        text_ms: one caption, tokenizing included.
        image_memory: of a process that embeds images only, decoding such a file included.
        both_memory: of a process that embeds images and texts; None for models without.
    """

    model: str
    has_random_weights: bool
    backend: BackendKind
    precision: Precision
    image_file_bytes: int
    text_file_bytes: int
    image_ms: float | None
    images_per_second: float | None
    image_batch: int | None
    decode_ms: float | None
    text_ms: float | None
    image_memory: Memory
    both_memory: Memory | None

    @property
    def label(self) -> str:
        """The model's name without its owner, for indexes."""
        return self.model.removeprefix("perception-encoder/")


@dataclass(frozen=True)
class SkippedCase:
    """What could not be measured, and why."""

    model: str
    backend: str
    precision: str
    reason: str


def check_plot(path: str | os.PathLike[str]) -> None:
    """Find out before anything is measured whether a plot could be drawn there.

    Raises:
        BackendUnavailableError: matplotlib is not installed.
        ImageWriteError: the folder does not exist, or the ending is no image's.
    """
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        raise BackendUnavailableError(
            "plots need matplotlib; install it: pip install 'perception-encoder[plot]'"
        )
    target = Path(path)
    if not target.parent.is_dir() or target.suffix not in (".png", ".svg", ".pdf"):
        raise ImageWriteError(
            f"{target}: the plot cannot be saved there; choose a folder that exists and a name "
            "that ends in .png, .svg or .pdf",
            item=str(target),
        )


def plot_speed(rows: Sequence[BenchRow], path: str | os.PathLike[str], *, title: str) -> None:
    """Draw images a second, on a logarithmic axis, against published accuracy.

    Each backend and precision is a line through its models.

    Args:
        rows: as `bench` gives them; those without a published accuracy are left out.
        path: where to save: .png, .svg or .pdf.
        title: what was measured where.

    Raises:
        ValueError: none of the models has a published accuracy.
        ImageWriteError: it cannot be saved there.
    """
    from matplotlib.figure import Figure

    series: dict[str, list[tuple[float, float]]] = {}
    labels: dict[str, tuple[float, float]] = {}
    for row in rows:
        if row.imagenet_accuracy is None:
            continue
        figures = row.figures
        point = (figures.images_per_second, row.imagenet_accuracy)
        series.setdefault(f"{figures.backend} {figures.precision}", []).append(point)
        labels[row.label] = max(labels.get(row.label, point), point)
    if not series:
        raise ValueError("none of the models has a published accuracy to draw speed against")
    figure = Figure(figsize=(9, 5.4), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    for (name, points), color in zip(series.items(), _COLORS * len(series), strict=False):
        line = sorted(points)
        axes.plot(*zip(*line, strict=True), "o-", color=color, label=name, linewidth=1.7, ms=5)
    for name, point in labels.items():
        axes.annotate(
            name.removeprefix("PE-Core-"),
            point,
            xytext=(9, 5),
            textcoords="offset points",
            color=_INK,
            fontsize=10,
            fontweight="bold",
        )
    _dress(axes, title)
    figure.supxlabel(_SOURCE, x=0.012, ha="left", color=_SOFT_INK, fontsize=8)
    target = Path(path)
    with atomic_write(target, ImageWriteError) as temporary:
        figure.savefig(temporary, dpi=150, format=target.suffix.removeprefix("."))


def _dress(axes: "Axes", title: str) -> None:
    """Axes, grid and legend."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    axes.set_title(title, loc="left", color=_INK, fontsize=12, fontweight="bold", pad=12)
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.14)
    axes.set_xlabel("images per second", color=_INK)
    axes.set_ylabel("ImageNet-1k zero-shot, %", color=_INK)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(True, which="major", color=_LINE)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_LINE)
    axes.tick_params(which="both", color=_LINE, labelcolor=_SOFT_INK)
    axes.legend(frameon=False, labelcolor=_INK)
