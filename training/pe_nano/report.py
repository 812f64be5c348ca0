"""Write the scores of evaluate.py into the model card, between its `<!-- scores -->` markers.

    python -m training.pe_nano.report --scores scores.json --card MODEL_CARD.md

Knows no model and no drawing. What stands between the markers is replaced, so it can be run again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- scores -->", "<!-- /scores -->"
HELD_OUT = "held_out_openmoji"
NUM_EXAMPLES = 12
_COLUMNS = ("text_to_image_top1", "text_to_image_top5", "image_to_text_top1", "image_to_text_top5",
            "top1", "top5")  # fmt: skip
_HEAD = """\
| drawings | how many | text → image, top-1 | top-5 | image → text, top-1 | top-5 \
| mean top-1 | mean top-5 |
|---|---:|---:|---:|---:|---:|---:|---:|"""

Scores = dict[str, dict[str, Any]]


def title(name: str) -> str:
    """What a key of scores.json means, for people."""
    kind, _, vendor = name.rpartition("_")
    return f"{vendor}, held out" if kind == "held_out" else f"{vendor}, trained on"


def table(scores: Scores) -> str:
    """One row for each set of drawings."""
    rows = [_HEAD]
    for name, score in scores.items():
        values = " | ".join(f"{score[column]:.3f}" for column in _COLUMNS)
        rows.append(f"| {title(name)} | {score['drawings']} | {values} |")
    return "\n".join(rows)


def examples(confusions: list[dict[str, str]], wanted: int = NUM_EXAMPLES) -> list[dict[str, str]]:
    """At most `wanted` confusions at a fixed spacing, so that nobody picks them."""
    step = max(1, len(confusions) // wanted)
    return confusions[step // 2 :: step][:wanted]


def confusions_text(score: dict[str, Any]) -> str:
    """How many held-out drawings are nearest to another name, and examples of them."""
    confusions = score["confusions"]
    head = (
        f"{len(confusions)} of the {score['drawings']} held-out drawings are nearer to another "
        "name than to their own"
    )
    if not confusions:
        return f"{head}."
    chosen = examples(confusions)
    rows = [f"| {c['drawing']} | {c['taken_for']} |" for c in chosen]
    return "\n".join(
        [f"{head}; {len(chosen)} of them, at a fixed spacing in the emoji order:", "",
         "| drawing of | taken for |", "|---|---|", *rows]
    )  # fmt: skip


def fill(card: str, scores: Scores) -> str:
    """The card with the section between the markers replaced.

    Raises:
        ValueError: the card lacks the markers.
    """
    before, begin, rest = card.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the card needs a section between {BEGIN} and {END}")
    parts = [before + BEGIN, table(scores), "", confusions_text(scores[HELD_OUT]), END + after]
    return "\n".join(parts)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scores", type=Path, required=True, help="written by evaluate")
    parser.add_argument("--card", type=Path, default=Path("MODEL_CARD.md"))
    args = parser.parse_args(argv)
    scores: Scores = json.loads(args.scores.read_text(encoding="utf-8"))
    card = fill(args.card.read_text(encoding="utf-8"), scores)
    args.card.write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
