"""Fonts and line breaks for text in images.

Pillow's built-in font has ASCII characters only. Other texts take the common system font that has
most of their characters. Characters that are still missing lose their accents, or become question
marks.
"""

import unicodedata
from functools import lru_cache
from typing import Final

from PIL import ImageFont

_SYSTEM_FONTS: Final = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf", "segoeui.ttf", "Arial Unicode.ttf",
    "NotoSansCJK-Regular.ttc", "PingFang.ttc", "Hiragino Sans GB.ttc", "msyh.ttc", "malgun.ttf",
    "meiryo.ttc",
)  # fmt: skip
_BUILT_IN: Final = ""
_UNASSIGNED: Final = "\U0010fffd"  # every font draws its glyph for missing characters
_ELLIPSIS: Final = "…"


class TextLayout:
    """A text in a font that can draw it.

    Args:
        text: the text; white space is collapsed, and control characters are dropped.
        size: of the font, pixels.
    """

    def __init__(self, text: str, size: int) -> None:
        printable = "".join(sign for sign in " ".join(text.split()) if sign.isprintable())
        composed = unicodedata.normalize("NFC", printable)
        name = _best_font(composed)
        self.text: Final = "".join(
            sign if _has(name, sign) else _strip_accents(sign) for sign in composed
        )
        self.font: Final = _font(name, size)

    def width(self, text: str) -> float:
        """Return the width of a part of the text, pixels."""
        return self.font.getlength(text)

    def lines(self, width: float, max_lines: int) -> list[str]:
        """Break the text into lines of at most that width, at spaces if possible.

        The last line ends in an ellipsis if the text is longer.
        """
        lines: list[str] = []
        rest = self.text
        while rest and len(lines) < max_lines:
            length = self._count_fitting(rest, width)
            if length < len(rest):
                space = rest.rfind(" ", 0, length + 1)
                length = space if space > 0 else length
            lines.append(rest[:length].rstrip())
            rest = rest[length:].lstrip()
        if rest:
            lines[-1] = self._cut(f"{lines[-1]} {rest}", width)
        return lines

    def shortened(self, width: float) -> str:
        """Return the text as one line; if it is too wide, its middle is replaced by an ellipsis."""
        if self.width(self.text) <= width:
            return self.text
        kept = self._count_fitting(self.text, width) + self._count_fitting(self.text[::-1], width)
        kept = min(kept, len(self.text) - 1)
        while kept > 0:
            head = (kept + 1) // 2
            short = f"{self.text[:head]}{_ELLIPSIS}{self.text[len(self.text) - kept + head :]}"
            if self.width(short) <= width:
                return short
            kept -= 1
        return _ELLIPSIS

    def _count_fitting(self, text: str, width: float) -> int:
        """Return the number of first characters that fit, at least one."""
        length = 1
        while length < len(text) and self.width(text[: length + 1]) <= width:
            length += 1
        return length

    def _cut(self, text: str, width: float) -> str:
        text = text[: self._count_fitting(text, width)]
        while text and self.width(text + _ELLIPSIS) > width:
            text = text[:-1]
        return text.rstrip() + _ELLIPSIS


def _best_font(text: str) -> str:
    """Return the font with the most characters of a text, preferably the built-in one."""
    signs = dict.fromkeys(text)
    best, fewest = _BUILT_IN, len(signs) + 1
    for name in (_BUILT_IN, *_SYSTEM_FONTS):
        num_missing = sum(not _has(name, sign) for sign in signs)
        if num_missing < fewest:
            best, fewest = name, num_missing
        if fewest == 0:
            break
    return best


def _strip_accents(sign: str) -> str:
    """Return a letter without its accents, or a question mark if it is not ASCII then."""
    letters = unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode()
    return letters if letters and letters.isprintable() else "?"


@lru_cache(maxsize=4096)
def _has(name: str, sign: str) -> bool:
    try:
        font = _font(name, 20)
    except OSError:  # no such font here
        return False
    return sign == " " or bytes(font.getmask(sign)) != bytes(font.getmask(_UNASSIGNED))


@lru_cache(maxsize=64)
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.truetype(name, size) if name else ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # Pillow's wheels all have FreeType
    return font
