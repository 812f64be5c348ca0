"""What a terminal makes of the bytes it is sent: escape sequences back to pixels (H, W, 4)."""

import base64
import io
import re

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

_KITTY = re.compile(r"\x1b_G([^;\x1b]*);([A-Za-z0-9+/=]*)\x1b\\")
_ITERM2 = re.compile(r"\x1b\]1337;File=([^:]*):([A-Za-z0-9+/=]*)\x07")
_SIXEL = re.compile(r"\x1bP0;1;0q(.*?)\x1b\\", re.DOTALL)
_SGR = re.compile(r"\x1b\[([\d;]*)m|([^\x1b])", re.DOTALL)
_CUBE = (0, 95, 135, 175, 215, 255)


def kitty(text: str) -> list[tuple[dict[str, str], Pixels]]:
    """Each image with the keys of its first chunk; a chunk holds 4096 letters at most."""
    images, data = [], ""
    for head, part in _KITTY.findall(text):
        keys = dict(pair.split("=") for pair in head.split(","))
        assert len(part) <= 4096
        if not data:
            first = keys
        data += part
        if keys["m"] == "0":
            images.append((first, _png(data)))
            data = ""
    assert not data
    return images


def iterm2(text: str) -> list[tuple[dict[str, str], Pixels]]:
    images = []
    for head, data in _ITERM2.findall(text):
        keys = dict(pair.split("=") for pair in head.split(";"))
        assert int(keys["size"]) == len(base64.b64decode(data))
        images.append((keys, _png(data)))
    return images


def sixel(text: str) -> list[Pixels]:
    return [_draw_sixels(body) for body in _SIXEL.findall(text)]


def blocks(text: str) -> Pixels:
    """Two pixels of each letter, one above the other; clear where the ground shows."""
    lines = []
    for line in text.splitlines():
        front = back = (0, 0, 0, 0)
        pixels = []
        for codes, letter in _SGR.findall(line):
            if not letter:
                front, back = _styled(codes, front, back)  # type: ignore[assignment]
            else:
                upper, lower = {"▀": (front, back), "▄": (back, front), " ": (back, back)}[letter]
                pixels.append((upper, lower))
        lines.append(pixels)
    cells = np.array(lines, np.uint8)  # (lines, columns, 2, 4)
    return cells.transpose(0, 2, 1, 3).reshape(2 * len(lines), -1, 4)


def _png(data: str) -> Pixels:
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGBA"))


def _draw_sixels(body: str) -> Pixels:
    raster, width, height = re.match(r'"1;1;(\d+);(\d+)', body), 0, 0
    assert raster is not None
    width, height = int(raster[1]), int(raster[2])
    pixels = np.zeros((height + 6, width, 4), np.uint8)
    colors: dict[int, tuple[int, ...]] = {}
    left, top, current = 0, 0, (0, 0, 0, 0)
    tokens = re.findall(
        r"#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|!(\d+)([?-~])|([?-~])|([$-])", body[raster.end() :]
    )
    for number, red, green, blue, chosen, times, repeated, letter, control in tokens:
        if number:
            colors[int(number)] = (*(round(int(c) * 2.55) for c in (red, green, blue)), 255)
        elif chosen:
            current = colors[int(chosen)]  # type: ignore[assignment]
        elif control:
            left, top = 0, top + 6 * (control == "-")
        else:
            bits, length = ord(repeated or letter) - 63, int(times or 1)
            for row in range(6):
                if bits >> row & 1:
                    pixels[top + row, left : left + length] = current
            left += length
            assert left <= width
    assert not pixels[height:].any()
    return pixels[:height]


_Color = tuple[int, ...]


def _styled(codes: str, front: _Color, back: _Color) -> tuple[_Color, _Color]:
    numbers = [int(code or 0) for code in codes.split(";")]
    while numbers:
        code = numbers.pop(0)
        if code == 0:
            front = back = (0, 0, 0, 0)
            continue
        assert code in (38, 48)
        if numbers.pop(0) == 2:
            color, numbers = (*numbers[:3], 255), numbers[3:]
        else:
            index = numbers.pop(0) - 16
            color = (_CUBE[index // 36], _CUBE[index // 6 % 6], _CUBE[index % 6], 255)
        front, back = (color, back) if code == 38 else (front, color)
    return front, back
