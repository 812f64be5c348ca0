"""Draws docs/images/growth.png from benchmarks/results/growth.json, and prints the docs' table.

python -m benchmarks.growth_plot
"""

import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.plots import IMAGES, INK, OURS, SOFT_INK, short
from benchmarks.report import RESULTS

_ORANGE: Final = "#d55e00"


class Panel(NamedTuple):
    """A panel of the plot and a row of the table.

    Attributes:
        title: with the unit.
        lines: labels, and where the figures of a size are.
        factor: from the unit of the results to that of the title.
    """

    title: str
    lines: dict[str, str]
    factor: float = 1.0


PANELS: Final = (
    Panel("add all rows, s", {"": "ingest/seconds"}),
    Panel("optimize, s", {"": "optimize/seconds"}),
    Panel("first query of a new process, s", {"": "cold/first_query_seconds"}),
    Panel(
        "approximate query, ms",
        {"p50": "query/approximate/p50_ms", "p95": "query/approximate/p95_ms"},
    ),
    Panel("exact query, ms", {"p50": "query/exact/p50_ms", "p95": "query/exact/p95_ms"}),
    Panel("filter met by 0.1 %, ms", {"p50": "filtered/0.1_percent/p50_ms"}),
    Panel("filter met by 1 %, ms", {"p50": "filtered/1_percent/p50_ms"}),
    Panel("filter met by 10 %, ms", {"p50": "filtered/10_percent/p50_ms"}),
    Panel("filter met by 50 %, ms", {"p50": "filtered/50_percent/p50_ms"}),
    Panel("add 10,000 rows, s", {"": "add/seconds"}),
    Panel(
        "query after adding 10,000, ms", {"p50": "add/search/p50_ms", "p95": "add/search/p95_ms"}
    ),
    Panel("delete 1,000 rows, s", {"": "delete/seconds"}),
    Panel("run with nothing changed, s", {"": "rerun/seconds"}),
    Panel("near pairs, s", {"": "near_pairs/seconds"}),
    Panel("clusters, s", {"": "clusters/seconds"}),
    Panel("map (of 100,000 at most), s", {"": "map/seconds"}),
)

MEMORY: Final = {
    "add all rows": "ingest",
    "optimize": "optimize",
    "queries": "query",
    "filters": "filtered",
    "add 10,000": "add",
    "run again": "rerun",
    "near pairs": "near_pairs",
    "clusters": "clusters",
    "map": "map",
}


def main() -> None:
    """Draw the plot, and print the table."""
    report = json.loads((RESULTS / "growth.json").read_text(encoding="utf-8"))
    sizes = {int(size): figures for size, figures in report["sizes"].items()}
    draw(sizes, f"embeddings of {report['embed_dim']:,} dimensions, float16 · {report['machine']}")
    print(*table(sizes), sep="\n")


def figure_at(figures: dict[str, Any], path: str) -> float | None:
    """The figure at a path such as "query/exact/p50_ms"; None where it was not measured."""
    found: Any = figures
    for key in path.split("/"):
        found = found.get(key, {})
    return float(found) if found != {} else None


def draw(sizes: dict[int, dict[str, Any]], subtitle: str) -> None:
    """Draw time and memory against rows, both axes logarithmic."""
    figure = Figure(figsize=(12, 13), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    figure.suptitle(
        f"Cost against rows · {subtitle}\ngray: in proportion to the rows",
        x=0.01,
        ha="left",
        color=SOFT_INK,
        fontsize=10,
    )
    grid = figure.subplots(5, 4)
    for axes, panel in zip(grid.flat, PANELS, strict=False):
        draw_panel(axes, sizes, panel)
    for axes in grid[-1]:
        axes.set_visible(False)
    memory = Panel(
        "most private memory of a step, GiB",
        {label: f"{phase}/peak_private_bytes" for label, phase in MEMORY.items()},
        2.0**-30,
    )
    wide = figure.add_subplot(grid[-1, 0].get_gridspec()[-1, :])
    draw_panel(wide, sizes, memory)
    figure.savefig(IMAGES / "growth.png", dpi=110)


def draw_panel(axes: Axes, sizes: dict[int, dict[str, Any]], panel: Panel) -> None:
    """Draw the lines of one panel, and a line of proportional growth from the first point."""
    many = len(panel.lines) > 2
    for number, (label, path) in enumerate(panel.lines.items()):
        found = {
            size: panel.factor * value
            for size in sorted(sizes)
            if (value := figure_at(sizes[size], path)) is not None
        }
        color = f"C{number}" if many else (OURS, _ORANGE)[number]
        axes.plot(list(found), list(found.values()), "o-", color=color, markersize=4, label=label)
        if number == 0 and not many and found:
            rows = list(found)
            start = found[rows[0]]
            axes.plot(rows, [start * r / rows[0] for r in rows], color="#d0d4d9", zorder=0)
        if not many:
            for size, value in found.items():
                words = short(value)
                offset = (0, 5) if number else (0, -12)
                axes.annotate(
                    words, (size, value), offset, textcoords="offset points", ha="center",
                    fontsize=7, color=SOFT_INK,
                )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sorted(sizes), [short_rows(size) for size in sorted(sizes)])
    axes.minorticks_off()
    axes.margins(0.05 if many else 0.12, 0.35 if many else 0.2)
    axes.set_title(panel.title, loc="left", color=INK, fontsize=9, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelcolor=SOFT_INK, labelsize=8)
    if len(panel.lines) > 1:
        axes.legend(fontsize=8, frameon=False, loc="upper left", ncols=5 if many else 1)


def short_rows(rows: int) -> str:
    """10,000 as 10 k, 1,000,000 as 1 M."""
    return f"{rows // 1_000_000} M" if rows >= 1_000_000 else f"{rows // 1000} k"


def table(sizes: dict[int, dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    rows = sorted(sizes)
    yield f"| | {' | '.join(short_rows(size) for size in rows)} |"
    yield "|---" * (len(rows) + 1) + "|"
    memory = [
        Panel(f"memory: {label}, GiB", {"": f"{phase}/peak_private_bytes"}, 2.0**-30)
        for label, phase in MEMORY.items()
    ]
    recall = Panel("recall@10 of approximate queries", {"": "query/approximate/recall_at_10"})
    stored = Panel("bytes of a row: index", {"": "optimize/index_bytes_per_row"})
    searcher = Panel("bytes of a row: searcher", {"": "optimize/searcher_bytes_per_row"})
    for panel in (*PANELS, recall, stored, searcher, *memory):
        cells = []
        for size in rows:
            found = [figure_at(sizes[size], path) for path in panel.lines.values()]
            known = [short(panel.factor * one) for one in found if one is not None]
            cells.append(" / ".join(known) or "-")
        title = panel.title + (f" ({' / '.join(panel.lines)})" if len(panel.lines) > 1 else "")
        yield f"| {title} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
