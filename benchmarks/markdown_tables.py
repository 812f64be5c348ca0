"""Writes the tables of docs/reference/benchmarks.md from benchmarks/results/encoders.json.

python -m benchmarks.markdown_tables
"""

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.plots import TITLES, short
from benchmarks.report import RESULTS

PAGE = Path(__file__).parent.parent / "docs/reference/benchmarks.md"
MARK = "<!-- encoders.json, written by benchmarks/markdown_tables.py -->"
MORE_TITLES = {
    "images_fp32": "Prepared images in fp32, PE-Core-B16",
    "texts_fp32": "Captions in fp32, PE-Core-B16",
    "compiled": "Prepared images, PE-Core-B16, beside open_clip through torch.compile",
    "one_image": "One image at a time, PE-Core-B16",
    "padded_texts": "Captions in all 32 columns, PE-Core-B16",
}


def main() -> None:
    """Replace what stands between the two marks."""
    rows = json.loads((RESULTS / "encoders.json").read_text(encoding="utf-8"))["rows"]
    tables = "\n\n".join(
        table(title, rows[name]) for name, title in (TITLES | MORE_TITLES).items() if name in rows
    )
    page = PAGE.read_text(encoding="utf-8")
    page = re.sub(f"{MARK}.*{MARK}", lambda _: f"{MARK}\n\n{tables}\n\n{MARK}", page, flags=re.S)
    PAGE.write_text(page, encoding="utf-8")


def table(title: str, row: dict[str, Any]) -> str:
    """One row of the results as Markdown, the fastest backend first."""
    backends = sorted(row["backends"].items(), key=lambda item: -item[1]["rate"])
    has_fraction = any("fraction_of_machine" in figures for _, figures in backends)
    has_cosine = any("cosine_with_default" in figures for _, figures in backends)
    header = ["backend", "a second", "ms each", "size", "× default", "× best peer"]
    header += ["of the machine's rate"] * has_fraction + ["lowest cosine with fp32"] * has_cosine
    lines = [" | ".join(header), "|".join(["---"] + ["---:"] * (len(header) - 1))]
    for label, figures in backends:
        cells = [
            label.replace("ours", "**perception-encoder**"),
            short(figures["rate"]),
            f"{figures['ms_of_one']:.1f}",
            str(figures["size"]),
            number(figures.get("over_default"), ".2f"),
            number(figures.get("over_best"), ".2f"),
        ]
        if has_fraction:
            cells.append(number(figures.get("fraction_of_machine"), ".2f"))
        if has_cosine:
            cells.append(number(figures.get("cosine_with_default"), ".6f"))
        lines.append(" | ".join(cells))
    rates = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in row["machine"].items())
    note = f"{row['date']}, commit {row['commit'][:10]}; matrix products: {rates} GFLOP/s."
    rows = "\n".join(f"| {line} |" for line in lines)
    return f"### {title}\n\n{rows}\n\n{note}"


def number(value: float | None, form: str) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else format(value, form)


if __name__ == "__main__":
    main()
