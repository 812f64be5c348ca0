"""Pictures as the bytes that terminals draw: kitty's protocol, iTerm2's, sixel, and half blocks.

Knows nothing of which terminal this is, nor of searching.
"""

import base64
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

_KITTY_CHUNK: Final = 4096  # characters of one escape sequence, set by the protocol
_SIXEL_COLOURS: Final = 255
_OPAQUE: Final = 128  # of 255: terminals that know no half transparency draw from here on
_CUBE_LEVELS: Final = (0, 95, 135, 175, 215, 255)  # of the 256 colours' 6 x 6 x 6 cube


def kitty(picture: "Image", columns: int, rows: int) -> str:
    """Return a picture for terminals that speak kitty's graphics protocol, scaled to cells."""
    data = base64.b64encode(_png(picture)).decode()
    head = f"a=T,f=100,q=2,c={columns},r={rows},"  # q=2: the terminal shall not answer
    parts = [data[start : start + _KITTY_CHUNK] for start in range(0, len(data), _KITTY_CHUNK)]
    return "".join(
        f"\x1b_G{head if not number else ''}m={int(number < len(parts) - 1)};{part}\x1b\\"
        for number, part in enumerate(parts)
    )


def iterm2(picture: "Image", columns: int, rows: int) -> str:
    """Return a picture for iTerm2, WezTerm and others with its protocol, scaled to cells."""
    data = _png(picture)
    head = f"inline=1;size={len(data)};width={columns};height={rows};preserveAspectRatio=1"
    return f"\x1b]1337;File={head}:{base64.b64encode(data).decode()}\x07"


def sixel(picture: "Image") -> str:
    """Return a picture for terminals that draw sixels, pixel for pixel, in up to 255 colours."""
    import numpy as np
    from PIL.Image import Dither

    quantised = picture.convert("RGB").quantize(_SIXEL_COLOURS, dither=Dither.NONE)
    levels = np.asarray(quantised.getpalette()).reshape(-1, 3)[:_SIXEL_COLOURS]
    percent = (levels * 100 + 127) // 255
    colours = "".join(f"#{n};2;{r};{g};{b}" for n, (r, g, b) in enumerate(percent))
    numbers = np.asarray(quantised).astype(np.int16)  # (H, W)
    numbers[~_opaque(picture)] = -1
    bands = "-".join(
        "$".join(_sixel_lines(numbers[top : top + 6])) for top in range(0, picture.height, 6)
    )
    # 1: what is not drawn keeps the terminal's own ground.
    return f'\x1bP0;1;0q"1;1;{picture.width};{picture.height}{colours}{bands}\x1b\\'


def blocks(picture: "Image", *, is_true_colour: bool) -> str:
    """Return a picture as coloured half-block letters: one column and half a line a pixel.

    Args:
        picture: as wide as columns and twice as high as lines.
        is_true_colour: whether the terminal takes any colour, or 256 of them.
    """
    import numpy as np

    colours = np.asarray(picture.convert("RGB"))
    opaque = _opaque(picture)
    lines = []
    for top in range(0, picture.height - 1, 2):
        letters = [
            _half_blocks(
                tuple(colours[top, x]) if opaque[top, x] else None,
                tuple(colours[top + 1, x]) if opaque[top + 1, x] else None,
                is_true_colour=is_true_colour,
            )
            for x in range(picture.width)
        ]
        lines.append("".join(letters) + "\x1b[0m")
    return "\n".join(lines)


def _png(picture: "Image") -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _opaque(picture: "Image") -> "NDArray[np.bool_]":
    """(H, W): which pixels are drawn at all."""
    import numpy as np

    return np.asarray(picture.convert("RGBA"))[:, :, 3] >= _OPAQUE


def _sixel_lines(band: "NDArray[np.int16]") -> Iterator[str]:
    """Yield, for each colour of a band of up to 6 rows, its letters from left to right."""
    import numpy as np

    bits = 1 << np.arange(len(band))
    for number in np.unique(band[band >= 0]):
        column = bits @ (band == number) + 63  # (W,): which of the six pixels have the colour
        starts = np.flatnonzero(np.diff(column, prepend=-1))
        lengths = np.diff(starts, append=len(column))
        yield f"#{number}" + "".join(
            f"!{length}{chr(letter)}" if length > 3 else chr(letter) * length
            for letter, length in zip(column[starts], lengths, strict=True)
        )


def _half_blocks(
    upper: tuple[int, ...] | None, lower: tuple[int, ...] | None, *, is_true_colour: bool
) -> str:
    if upper is None and lower is None:
        return "\x1b[0m "
    if upper is None or lower is None:
        letter, colour = ("▄", lower) if upper is None else ("▀", upper)
        assert colour is not None
        return f"\x1b[0;38;{_colour(colour, is_true_colour=is_true_colour)}m{letter}"
    front = _colour(upper, is_true_colour=is_true_colour)
    back = _colour(lower, is_true_colour=is_true_colour)
    return f"\x1b[38;{front};48;{back}m▀"


def _colour(colour: tuple[int, ...], *, is_true_colour: bool) -> str:
    if is_true_colour:
        return "2;" + ";".join(map(str, colour))
    red, green, blue = (
        min(range(6), key=lambda level: abs(_CUBE_LEVELS[level] - int(part))) for part in colour
    )
    return f"5;{16 + 36 * red + 6 * green + blue}"
