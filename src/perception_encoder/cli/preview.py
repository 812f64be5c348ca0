"""Shows hits in the terminal: which way of drawing it knows, and images side by side with names.

It is talk, so it goes to stderr. Knows nothing of indexes or models.
"""

from __future__ import annotations

import base64
import io
import logging
import os
import shutil
import struct
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from perception_encoder.cli.output import say
from perception_encoder.errors import ImageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from perception_encoder.preprocess import ImageInput


_KITTY_CHUNK: Final = 4096  # characters of one escape sequence, set by the protocol
_SIXEL_COLORS: Final = 255
_OPAQUE: Final = 128  # of 255: terminals that know no half transparency draw from here on
_CUBE_LEVELS: Final = (0, 95, 135, 175, 215, 255)  # of the 256 colors' 6 x 6 x 6 cube


def kitty(image: Image, columns: int, rows: int) -> str:
    """Return an image for terminals that speak kitty's graphics protocol, scaled to cells."""
    data = base64.b64encode(_png(image)).decode()
    head = f"a=T,f=100,q=2,c={columns},r={rows},"  # q=2: the terminal shall not answer
    parts = [data[start : start + _KITTY_CHUNK] for start in range(0, len(data), _KITTY_CHUNK)]
    return "".join(
        f"\x1b_G{head if not number else ''}m={int(number < len(parts) - 1)};{part}\x1b\\"
        for number, part in enumerate(parts)
    )


def iterm2(image: Image, columns: int, rows: int) -> str:
    """Return an image for iTerm2, WezTerm and others with its protocol, scaled to cells."""
    data = _png(image)
    head = f"inline=1;size={len(data)};width={columns};height={rows};preserveAspectRatio=1"
    return f"\x1b]1337;File={head}:{base64.b64encode(data).decode()}\x07"


def sixel(image: Image) -> str:
    """Return an image for terminals that draw sixels, pixel for pixel, in up to 255 colors."""
    import numpy as np
    from PIL.Image import Dither

    quantized = image.convert("RGB").quantize(_SIXEL_COLORS, dither=Dither.NONE)
    levels = np.asarray(quantized.getpalette()).reshape(-1, 3)[:_SIXEL_COLORS]
    percent = (levels * 100 + 127) // 255
    colors = "".join(f"#{n};2;{r};{g};{b}" for n, (r, g, b) in enumerate(percent))
    numbers = np.asarray(quantized).astype(np.int16)  # (H, W)
    numbers[~_opaque(image)] = -1
    bands = "-".join(
        "$".join(_sixel_lines(numbers[top : top + 6])) for top in range(0, image.height, 6)
    )
    # 1: what is not drawn keeps the terminal's own ground.
    return f'\x1bP0;1;0q"1;1;{image.width};{image.height}{colors}{bands}\x1b\\'


def blocks(image: Image, *, is_true_color: bool) -> str:
    """Return an image as colored half-block letters: one column and half a line a pixel.

    Args:
        image: as wide as columns and twice as high as lines.
        is_true_color: whether the terminal takes any color, or 256 of them.
    """
    import numpy as np

    colors = np.asarray(image.convert("RGB"))
    opaque = _opaque(image)
    lines = []
    for top in range(0, image.height - 1, 2):
        letters = [
            _half_blocks(
                tuple(colors[top, x]) if opaque[top, x] else None,
                tuple(colors[top + 1, x]) if opaque[top + 1, x] else None,
                is_true_color=is_true_color,
            )
            for x in range(image.width)
        ]
        lines.append("".join(letters) + "\x1b[0m")
    return "\n".join(lines)


def _png(image: Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _opaque(image: Image) -> NDArray[np.bool_]:
    """(H, W): which pixels are drawn at all."""
    import numpy as np

    return np.asarray(image.convert("RGBA"))[:, :, 3] >= _OPAQUE


def _sixel_lines(band: NDArray[np.int16]) -> Iterator[str]:
    """Yield, for each color of a band of up to 6 rows, its letters from left to right."""
    import numpy as np

    bits = 1 << np.arange(len(band))
    for number in np.unique(band[band >= 0]):
        column = bits @ (band == number) + 63  # (W,): which of the six pixels have the color
        starts = np.flatnonzero(np.diff(column, prepend=-1))
        lengths = np.diff(starts, append=len(column))
        yield f"#{number}" + "".join(
            f"!{length}{chr(letter)}" if length > 3 else chr(letter) * length
            for letter, length in zip(column[starts], lengths, strict=True)
        )


def _half_blocks(
    upper: tuple[int, ...] | None, lower: tuple[int, ...] | None, *, is_true_color: bool
) -> str:
    if upper is None and lower is None:
        return "\x1b[0m "
    if upper is None or lower is None:
        letter, color = ("▄", lower) if upper is None else ("▀", upper)
        assert color is not None
        return f"\x1b[0;38;{_color(color, is_true_color=is_true_color)}m{letter}"
    front = _color(upper, is_true_color=is_true_color)
    back = _color(lower, is_true_color=is_true_color)
    return f"\x1b[38;{front};48;{back}m▀"


def _color(color: tuple[int, ...], *, is_true_color: bool) -> str:
    if is_true_color:
        return "2;" + ";".join(map(str, color))
    red, green, blue = (
        min(range(6), key=lambda level: abs(_CUBE_LEVELS[level] - int(part))) for part in color
    )
    return f"5;{16 + 36 * red + 6 * green + blue}"


logger = logging.getLogger(__name__)

Protocol: TypeAlias = Literal["kitty", "iterm2", "sixel", "blocks"]

_TILE_COLUMNS: Final = 20  # of one image, at least where the terminal has so many
_CELL: Final = (10, 20)  # pixels of a letter where the terminal does not tell
_BLOCK: Final = (1, 2)  # pixels of a letter that is a half block
_BROKEN: Final = "#9aa0a6"


@dataclass(frozen=True, slots=True)
class PreviewTile:
    """An image, or what reads it, and the words under it."""

    image: ImageInput | Callable[[], bytes]
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


def preview(images: Sequence[PreviewTile], protocol: Protocol | Literal["auto"]) -> None:
    """Show images in the terminal of stderr; with "auto" only if it is one that can."""
    if protocol == "auto":
        known = protocol_of(os.environ) if sys.stderr.isatty() else None
        if known is None:
            say("no preview: this is no terminal that shows colors; --preview=blocks tries anyway")
            return
        protocol = known
    is_true_color = os.environ.get("COLORTERM") in ("truecolor", "24bit")
    sys.stderr.write(drawn(images, protocol, _terminal(), is_true_color=is_true_color))


def protocol_of(environment: Mapping[str, str]) -> Protocol | None:
    """Tell from the environment how this terminal draws images; None if it has no colors."""
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if term in ("", "dumb"):
        return None
    if "TMUX" in environment or term.startswith(("screen", "tmux")):
        return "blocks"  # a multiplexer lets no images through unless it is told to
    if "KITTY_WINDOW_ID" in environment or term in ("xterm-kitty", "xterm-ghostty"):
        return "kitty"
    if program in ("iTerm.app", "WezTerm", "mintty") or "WEZTERM_PANE" in environment:
        return "iterm2"
    if term.startswith(("foot", "mlterm", "contour")) or "sixel" in term:
        return "sixel"
    return "blocks"


def drawn(
    images: Sequence[PreviewTile], protocol: Protocol, terminal: Terminal, *, is_true_color: bool
) -> str:
    """Return what makes a terminal show the images side by side, each above its caption."""
    per_line = max(1, min(len(images), terminal.columns // _TILE_COLUMNS))
    columns = min(terminal.columns // per_line, 2 * _TILE_COLUMNS)  # of one image and a gap
    cell = _BLOCK if protocol == "blocks" else terminal.cell
    rows = max(1, round((columns - 1) * cell[0] / cell[1]))
    parts = []
    for start in range(0, len(images), per_line):
        line = images[start : start + per_line]
        strip = _strip(line, columns * cell[0], (columns - 1) * cell[0], rows * cell[1])
        size = (len(line) * columns, rows)
        parts.append(_encoded(strip, protocol, size, is_true_color=is_true_color))
        captions = [fitted(image.caption, columns - 1) + " " for image in line]
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


def _strip(images: Sequence[PreviewTile], step: int, width: int, height: int) -> Image:
    """Draw images in a row, each in a box of its own; RGBA, clear where there is none."""
    from PIL import Image

    from perception_encoder.analysis.thumbnails import make_thumbnail

    strip = Image.new("RGBA", (step * len(images), height))
    side = min(width, height)
    for number, shown in enumerate(images):
        try:
            image = make_thumbnail(shown.image, side, item=shown.caption)
        except (ImageError, OSError) as err:
            logger.warning("%s", err)
            image = Image.new("RGB", (side, side), _BROKEN)
        left = number * step + (width - image.width) // 2
        strip.paste(image, (left, (height - image.height) // 2))
    return strip


def _encoded(
    strip: Image, protocol: Protocol, size: tuple[int, int], *, is_true_color: bool
) -> str:
    if protocol == "kitty":
        return kitty(strip, *size)
    if protocol == "iterm2":
        return iterm2(strip, *size)
    if protocol == "sixel":
        return sixel(strip)
    return blocks(strip, is_true_color=is_true_color)


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
