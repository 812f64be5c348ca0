"""Plot speed against accuracy."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from perception_encoder.atomic import atomic_write
from perception_encoder.bench.figures import BenchRow
from perception_encoder.errors import BackendUnavailableError, ImageWriteError

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
