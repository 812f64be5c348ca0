"""The blocks of code on the pages of the documentation.

A comment just before a block says why it is not run, or which test runs it:

    <!-- not run: it downloads 1 GB -->
    <!-- run by tests/server/test_api_roboflow.py -->
"""

import re
from dataclasses import dataclass
from pathlib import Path

from scripts.reference import PAGES as GENERATED
from scripts.reference import SHELF

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for path in (
        *(set(REPOSITORY.glob("docs/**/*.md")) - {SHELF / name for name in GENERATED}),
        *(REPOSITORY / name for name in ("README.md", "CHANGELOG.md", "MODEL_CARD.md")),
        REPOSITORY / "CONTRIBUTING.md",
        *REPOSITORY.glob("compat/*/README.md"),
    )
)

_BLOCK = re.compile(
    r"(?:^[ ]*<!-- (?P<note>.+?) -->\n\n?)?"
    r"^(?P<indent>[ ]*)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
_NOTE = re.compile(r"(not run: |run by )(.+)")


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code: its position, its language ("" if none is given), and its text."""

    page: str
    line: int
    language: str
    text: str
    not_run: str | None = None
    """The reason on the page."""
    run_by: str | None = None
    """The test named on the page."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str) -> list[Block]:
    """Return the blocks of a page, in order."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        indent = len(match["indent"])
        lines = [line[indent:] for line in match["text"].splitlines()]
        note = _NOTE.fullmatch(match["note"] or "")
        kind, what = (note[1], note[2]) if note else ("", None)
        found.append(
            Block(
                page,
                text.count("\n", 0, match.start("text")) + 1,
                match["language"],
                "\n".join(lines) + "\n",
                not_run=what if kind == "not run: " else None,
                run_by=what if kind == "run by " else None,
            )
        )
    return found


def python_blocks(page: str) -> list[str]:
    """Return the texts of a page's Python blocks."""
    return [block.text for block in blocks_of(page) if block.language == "python"]
