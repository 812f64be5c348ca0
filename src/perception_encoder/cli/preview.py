"""Previews of images in the terminal, on stderr: kitty, iTerm2, sixel, or colored half blocks.

Libraries for this are no alternative: textual-image is LGPL, writes to stdout and has no iTerm2
protocol; term-image excludes current versions of Pillow and has no sixel.
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

logger = logging.getLogger(__name__)

Protocol: TypeAlias = Literal["kitty", "iterm2", "sixel", "blocks"]

_TILE_COLUMNS: Final = 20  # of one image, at least, if the terminal has as many
_CELL: Final = (10, 20)  # pixels of a character cell, if the terminal does not report it
_BLOCK: Final = (1, 2)  # pixels of a cell with a half block
_BROKEN: Final = "#9aa0a6"
_KITTY_CHUNK: Final = 4096  # characters in one escape sequence, by the protocol
_SIXEL_COLORS: Final = 255
_OPAQUE: Final = 128  # alpha from which a pixel is drawn where there is no transparency
_CUBE_LEVELS: Final = (0, 95, 135, 175, 215, 255)  # of the 256 colors' 6 x 6 x 6 cube


@dataclass(frozen=True, slots=True)
class PreviewTile:
    """An image, or a function that reads it, and its caption."""

    image: ImageInput | Callable[[], ImageInput]
    caption: str


@dataclass(frozen=True, slots=True)
class Terminal:
    """The size of a terminal.

    Attributes:
        columns: characters in a line.
        cell: width and height of a character, pixels.
    """

    columns: int
    cell: tuple[int, int] = _CELL


def preview(images: Sequence[PreviewTile], protocol: Protocol | Literal["auto"]) -> None:
    """Show images in the terminal of stderr; "auto" shows none if it has no colors."""
    if protocol == "auto":
        detected = detect_protocol(os.environ) if sys.stderr.isatty() else None
        if detected is None:
            say("no preview: this terminal shows no colors; --preview=blocks tries nevertheless")
            return
        protocol = detected
    is_true_color = os.environ.get("COLORTERM") in ("truecolor", "24bit")
    sys.stderr.write(
        render_tiles(images, protocol, _read_terminal_size(), is_true_color=is_true_color)
    )


def detect_protocol(environment: Mapping[str, str]) -> Protocol | None:
    """Return how this terminal draws images, by the environment; None if it has no colors."""
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if term in ("", "dumb"):
        return None
    if "TMUX" in environment or term.startswith(("screen", "tmux")):
        return "blocks"  # a multiplexer passes images on only if it is configured to
    if "KITTY_WINDOW_ID" in environment or term in ("xterm-kitty", "xterm-ghostty"):
        return "kitty"
    if program in ("iTerm.app", "WezTerm", "mintty") or "WEZTERM_PANE" in environment:
        return "iterm2"
    if term.startswith(("foot", "mlterm", "contour")) or "sixel" in term:
        return "sixel"
    return "blocks"


def render_tiles(
    images: Sequence[PreviewTile], protocol: Protocol, terminal: Terminal, *, is_true_color: bool
) -> str:
    """Return the text that shows images side by side in a terminal, each above its caption."""
    per_line = max(1, min(len(images), terminal.columns // _TILE_COLUMNS))
    columns = min(terminal.columns // per_line, 2 * _TILE_COLUMNS)  # of one image and a gap
    cell = _BLOCK if protocol == "blocks" else terminal.cell
    rows = max(1, round((columns - 1) * cell[0] / cell[1]))
    parts = []
    for start in range(0, len(images), per_line):
        line = images[start : start + per_line]
        strip = _strip(line, columns * cell[0], (columns - 1) * cell[0], rows * cell[1])
        size = (len(line) * columns, rows)
        parts.append(_encode(strip, protocol, size, is_true_color=is_true_color))
        captions = [fit_text(image.caption, columns - 1) + " " for image in line]
        parts.append("\n" + "".join(captions).rstrip() + "\n\n")
    return "".join(parts)


def fit_text(text: str, columns: int) -> str:
    """Cut or pad a text to a number of columns; replace control characters."""
    characters = [sign if sign.isprintable() else "?" for sign in text]
    if sum(map(_width, characters)) > columns:
        while sum(map(_width, characters)) > columns - 1:
            characters.pop()
        characters.append("…")
    return "".join(characters) + " " * (columns - sum(map(_width, characters)))


def _width(sign: str) -> int:
    """Return how many columns a character takes."""
    if unicodedata.combining(sign):
        return 0
    return 2 if unicodedata.east_asian_width(sign) in "WF" else 1


def _strip(images: Sequence[PreviewTile], step: int, width: int, height: int) -> Image:
    """Draw images in a row, each in its box; RGBA, transparent elsewhere."""
    from PIL import Image

    from perception_encoder.analysis.drawing import make_thumbnail

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


def _encode(strip: Image, protocol: Protocol, size: tuple[int, int], *, is_true_color: bool) -> str:
    if protocol == "kitty":
        return encode_kitty(strip, *size)
    if protocol == "iterm2":
        return encode_iterm2(strip, *size)
    if protocol == "sixel":
        return encode_sixel(strip)
    return encode_blocks(strip, is_true_color=is_true_color)


def _read_terminal_size() -> Terminal:
    """Return the size of the terminal of stderr, or a usual size without one."""
    fallback = shutil.get_terminal_size().columns
    try:
        import fcntl
        import termios

        answer = fcntl.ioctl(sys.stderr.fileno(), termios.TIOCGWINSZ, bytes(8))
    except (ImportError, OSError, ValueError):
        return Terminal(fallback)
    lines, columns, width, height = struct.unpack("HHHH", answer)
    if not (lines and columns and width >= columns and height >= lines):
        return Terminal(columns or fallback)
    return Terminal(columns, (width // columns, height // lines))


def encode_kitty(image: Image, columns: int, rows: int) -> str:
    """Encode an image by kitty's graphics protocol, scaled to a number of cells."""
    data = base64.b64encode(_png(image)).decode()
    head = f"a=T,f=100,q=2,c={columns},r={rows},"  # q=2: no answer from the terminal
    parts = [data[start : start + _KITTY_CHUNK] for start in range(0, len(data), _KITTY_CHUNK)]
    return "".join(
        f"\x1b_G{head if not number else ''}m={int(number < len(parts) - 1)};{part}\x1b\\"
        for number, part in enumerate(parts)
    )


def encode_iterm2(image: Image, columns: int, rows: int) -> str:
    """Encode an image by the protocol of iTerm2 and WezTerm, scaled to a number of cells."""
    data = _png(image)
    head = f"inline=1;size={len(data)};width={columns};height={rows};preserveAspectRatio=1"
    return f"\x1b]1337;File={head}:{base64.b64encode(data).decode()}\x07"


def encode_sixel(image: Image) -> str:
    """Encode an image as sixels, pixel for pixel, in up to 255 colors."""
    import numpy as np
    from PIL.Image import Dither

    quantized = image.convert("RGB").quantize(_SIXEL_COLORS, dither=Dither.NONE)
    levels = np.asarray(quantized.getpalette()).reshape(-1, 3)[:_SIXEL_COLORS]
    percent = (levels * 100 + 127) // 255
    colors = "".join(f"#{n};2;{r};{g};{b}" for n, (r, g, b) in enumerate(percent))
    numbers = np.asarray(quantized).astype(np.int16)  # (H, W)
    numbers[~_find_opaque(image)] = -1
    bands = "-".join(
        "$".join(_iter_sixel_lines(numbers[top : top + 6])) for top in range(0, image.height, 6)
    )
    # 1: undrawn pixels keep the terminal's background.
    return f'\x1bP0;1;0q"1;1;{image.width};{image.height}{colors}{bands}\x1b\\'


def encode_blocks(image: Image, *, is_true_color: bool) -> str:
    """Encode an image as colored half blocks: a pixel is one column wide and half a line high.

    Args:
        image: as wide as the columns and twice as high as the lines.
        is_true_color: any color, instead of 256.
    """
    import numpy as np

    colors = np.asarray(image.convert("RGB"))
    opaque = _find_opaque(image)
    lines = []
    for top in range(0, image.height - 1, 2):
        letters = [
            _encode_half_block(
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


def _find_opaque(image: Image) -> NDArray[np.bool_]:
    """Return (H, W) which pixels are drawn."""
    import numpy as np

    return np.asarray(image.convert("RGBA"))[:, :, 3] >= _OPAQUE


def _iter_sixel_lines(band: NDArray[np.int16]) -> Iterator[str]:
    """Yield the characters of each color in a band of up to 6 rows, from left to right."""
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


def _encode_half_block(
    upper: tuple[int, ...] | None, lower: tuple[int, ...] | None, *, is_true_color: bool
) -> str:
    if upper is None and lower is None:
        return "\x1b[0m "
    if upper is None or lower is None:
        letter, color = ("▄", lower) if upper is None else ("▀", upper)
        assert color is not None
        return f"\x1b[0;38;{_encode_color(color, is_true_color=is_true_color)}m{letter}"
    front = _encode_color(upper, is_true_color=is_true_color)
    back = _encode_color(lower, is_true_color=is_true_color)
    return f"\x1b[38;{front};48;{back}m▀"


def _encode_color(color: tuple[int, ...], *, is_true_color: bool) -> str:
    if is_true_color:
        return "2;" + ";".join(map(str, color))
    red, green, blue = (
        min(range(6), key=lambda level: abs(_CUBE_LEVELS[level] - int(part))) for part in color
    )
    return f"5;{16 + 36 * red + 6 * green + blue}"
