"""Shows hits in the terminal: which way of drawing it knows, and pictures side by side with names.

It is talk, so it goes to stderr. Knows nothing of tables or models.
"""

import logging
import os
import shutil
import struct
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from perception_encoder.cli.output import say
from perception_encoder.cli.terminal_pictures import blocks, iterm2, kitty, sixel
from perception_encoder.errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image

    from perception_encoder.preprocess import ImageInput

logger = logging.getLogger(__name__)

Protocol: TypeAlias = Literal["kitty", "iterm2", "sixel", "blocks"]

_TILE_COLUMNS: Final = 20  # of one picture, at least where the terminal has so many
_CELL: Final = (10, 20)  # pixels of a letter where the terminal does not tell
_BLOCK: Final = (1, 2)  # pixels of a letter that is a half block
_BROKEN: Final = "#9aa0a6"


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture, or what reads it, and the words under it."""

    image: "ImageInput | Callable[[], bytes]"
    caption: str


@dataclass(frozen=True, slots=True)
class Terminal:
    """How large a terminal is.

    Attributes:
        columns: letters in a line.
        cell: width and height of a letter, pixels.
    """

    columns: int
    cell: tuple[int, int] = _CELL


def preview(pictures: Sequence[Shown], protocol: Protocol | Literal["auto"]) -> None:
    """Show pictures in the terminal of stderr; with "auto" only if it is one that can."""
    if protocol == "auto":
        known = protocol_of(os.environ) if sys.stderr.isatty() else None
        if known is None:
            say("no preview: this is no terminal that shows colours; --preview=blocks tries anyway")
            return
        protocol = known
    is_true_colour = os.environ.get("COLORTERM") in ("truecolor", "24bit")
    sys.stderr.write(drawn(pictures, protocol, _terminal(), is_true_colour=is_true_colour))


def protocol_of(environment: Mapping[str, str]) -> Protocol | None:
    """Tell from the environment how this terminal draws pictures; None if it has no colours."""
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if term in ("", "dumb"):
        return None
    if "TMUX" in environment or term.startswith(("screen", "tmux")):
        return "blocks"  # a multiplexer lets no pictures through unless it is told to
    if "KITTY_WINDOW_ID" in environment or term in ("xterm-kitty", "xterm-ghostty"):
        return "kitty"
    if program in ("iTerm.app", "WezTerm", "mintty") or "WEZTERM_PANE" in environment:
        return "iterm2"
    if term.startswith(("foot", "mlterm", "contour")) or "sixel" in term:
        return "sixel"
    return "blocks"


def drawn(
    pictures: Sequence[Shown], protocol: Protocol, terminal: Terminal, *, is_true_colour: bool
) -> str:
    """Return what makes a terminal show the pictures side by side, each above its caption."""
    per_line = max(1, min(len(pictures), terminal.columns // _TILE_COLUMNS))
    columns = min(terminal.columns // per_line, 2 * _TILE_COLUMNS)  # of one picture and a gap
    cell = _BLOCK if protocol == "blocks" else terminal.cell
    rows = max(1, round((columns - 1) * cell[0] / cell[1]))
    parts = []
    for start in range(0, len(pictures), per_line):
        line = pictures[start : start + per_line]
        strip = _strip(line, columns * cell[0], (columns - 1) * cell[0], rows * cell[1])
        size = (len(line) * columns, rows)
        parts.append(_encoded(strip, protocol, size, is_true_colour=is_true_colour))
        captions = [fitted(picture.caption, columns - 1) + " " for picture in line]
        parts.append("\n" + "".join(captions).rstrip() + "\n\n")
    return "".join(parts)


def fitted(text: str, columns: int) -> str:
    """Cut or fill a text to so many columns, without anything that steers a terminal."""
    signs = [sign if sign.isprintable() else "?" for sign in text]
    if sum(map(_width, signs)) > columns:
        while sum(map(_width, signs)) > columns - 1:
            signs.pop()
        signs.append("…")
    return "".join(signs) + " " * (columns - sum(map(_width, signs)))


def _width(sign: str) -> int:
    """Return how many columns of a terminal a sign takes."""
    if unicodedata.combining(sign):
        return 0
    return 2 if unicodedata.east_asian_width(sign) in "WF" else 1


def _strip(pictures: Sequence[Shown], step: int, width: int, height: int) -> "Image":
    """Draw pictures in a row, each in a box of its own; RGBA, clear where there is none."""
    from PIL import Image

    from perception_encoder.analysis.contact_sheet import thumbnail

    strip = Image.new("RGBA", (step * len(pictures), height))
    side = min(width, height)
    for number, shown in enumerate(pictures):
        try:
            picture = thumbnail(shown.image, side, item=shown.caption)
        except (ImageError, OSError) as err:
            logger.warning("%s", err)
            picture = Image.new("RGB", (side, side), _BROKEN)
        left = number * step + (width - picture.width) // 2
        strip.paste(picture, (left, (height - picture.height) // 2))
    return strip


def _encoded(
    strip: "Image", protocol: Protocol, size: tuple[int, int], *, is_true_colour: bool
) -> str:
    if protocol == "kitty":
        return kitty(strip, *size)
    if protocol == "iterm2":
        return iterm2(strip, *size)
    if protocol == "sixel":
        return sixel(strip)
    return blocks(strip, is_true_colour=is_true_colour)


def _terminal() -> Terminal:
    """Ask the terminal of stderr for its size; a usual one where there is none."""
    columns = shutil.get_terminal_size().columns
    try:
        import fcntl
        import termios

        answer = fcntl.ioctl(sys.stderr.fileno(), termios.TIOCGWINSZ, bytes(8))
    except (ImportError, OSError, ValueError):
        return Terminal(columns)
    lines, asked, width, height = struct.unpack("HHHH", answer)
    if not (lines and asked and width >= asked and height >= lines):
        return Terminal(asked or columns)
    return Terminal(asked, (width // asked, height // lines))
