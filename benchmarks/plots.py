"""Draws docs/images/encoders.png and speed.png from benchmarks/results/encoders.json.

python -m benchmarks.plots
"""

import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report import RESULTS

IMAGES = Path(__file__).parent.parent / "docs/images"
TITLES = {
    "images": "Images, PE-Core-B16",
    "texts": "Captions, PE-Core-B16",
    "jpegs": "12-megapixel JPEG files, PE-Core-T16",
    "one_text": "One caption at a time, PE-Core-B16",
    "clip_files": "Photo files, CLIP ViT-B-32",
    "clip_texts": "Captions, CLIP ViT-B-32",
}
OURS, PEER, INK, SOFT_INK = "#0072b2", "#b8bec6", "#1b1f24", "#69717c"
BAR_INCHES, PANEL_INCHES = 0.27, 0.85


SHORT = ("images", "texts")
"""The panels of the README's chart."""


def main() -> None:
    """Draw all panels, and the short chart."""
    report = json.loads((RESULTS / "encoders.json").read_text(encoding="utf-8"))
    draw_panels([name for name in TITLES if name in report["rows"]], report, "encoders.png")
    draw_panels(list(SHORT), report, "speed.png")


def draw_panels(names: list[str], report: dict[str, Any], file: str) -> None:
    """Draw rows of the results, two panels side by side, into a file of docs/images."""
    rows = report["rows"]
    pairs = [names[start : start + 2] for start in range(0, len(names), 2)]
    most = [max(len(rows[name]["backends"]) for name in pair) for pair in pairs]
    heights = [PANEL_INCHES + BAR_INCHES * count for count in most]
    figure = Figure(figsize=(12, sum(heights) + 0.5), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.12)
    figure.suptitle(
        f"Items per second, and speedup over the other library's default · {report['machine']}",
        x=0.01,
        ha="left",
        color=SOFT_INK,
        fontsize=10,
    )
    grid = figure.subplots(len(pairs), 2, squeeze=False, height_ratios=heights)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for place, name in enumerate(names):
        draw(grid.flat[place], TITLES[name], rows[name]["backends"], most[place // 2])
    figure.savefig(IMAGES / file, dpi=130)


def draw(axes: Axes, title: str, backends: dict[str, dict[str, Any]], most: int) -> None:
    """Draw one row of the results, the fastest backend on top.

    `most` is the number of bars of the longer panel in this line: all bars get the same height.
    """
    in_order = sorted(backends.items(), key=lambda item: item[1]["rate"])
    rates = [figures["rate"] for _, figures in in_order]
    colors = [OURS if label.startswith("ours") else PEER for label, _ in in_order]
    names = [label.replace("ours", "perception-encoder") for label, _ in in_order]
    bars = axes.barh(names, rates, color=colors, height=0.72)
    words = [f"{short(f['rate'])}/s · {f['over_default']:.2f}×" for _, f in in_order]
    axes.bar_label(bars, words, padding=5, color=INK, fontsize=9)
    axes.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold")
    axes.set_ylim(len(in_order) - most - 0.5, len(in_order) - 0.5)
    axes.set_xlim(0, 1.32 * max(rates))
    axes.xaxis.set_visible(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelcolor=INK, labelsize=9)


def short(rate: float) -> str:
    """Format with three significant digits."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


if __name__ == "__main__":
    main()
