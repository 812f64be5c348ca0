"""What contact sheets and maps draw with: fonts, lines of text, thumbnails, saving the result."""

from __future__ import annotations

import io
import logging
import os
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from PIL import Image, ImageDraw, ImageFont

from perception_encoder.atomic import atomic_write
from perception_encoder.errors import ImageError, ImageWriteError
from perception_encoder.preprocess.color import find_profile
from perception_encoder.preprocess.crops import crop_image, name_without_crop, split_crop
from perception_encoder.preprocess.decode import ImageInput, decode_scaled
from perception_encoder.preprocess.images import num_usable_cores
from perception_encoder.preprocess.transforms import convert_colors, to_opaque, turn_upright
from perception_encoder.video.names import format_time

if TYPE_CHECKING:
    from perception_encoder.index import Hit, Row


logger = logging.getLogger(__name__)

_MAX_ENLARGEMENT: Final = 4  # of small images; beyond it they only blur
_JPEG_QUALITY: Final = 90
_AHEAD: Final = 4  # thumbnails read in advance by each thread

SheetImage: TypeAlias = ImageInput | Callable[[], ImageInput]
"""An image, or a function that reads it when it is drawn and raises ImageError or OSError."""
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


def image_source_of(row: Row | Hit) -> SheetImage:
    """Return the path of an indexed file, or a function that reads an image stored elsewhere."""
    from perception_encoder.sources import read_image

    if row.member is not None:
        return partial(read_image, row.uri, row.member, row.offset)
    is_file = "://" not in row.uri
    if name_without_crop(row.uri) != row.uri and not (is_file and os.path.isfile(row.uri)):
        return partial(_read_part, row.uri)
    return row.uri if is_file else partial(read_image, row.uri)


def _read_part(uri: str) -> ImageInput:
    from perception_encoder.sources import read_image

    whole, box = split_crop(uri)
    return crop_image(read_image(whole), box)


Outline: TypeAlias = tuple[float, float, float, float]
"""A part of an image: left, upper, right and lower side as shares of its width and height."""


def outline_of(hit: Hit) -> Outline | None:
    """Return the part of an image that was found; None for all of it."""
    if hit.box is None or not hit.width or not hit.height:
        return None
    x, y, width, height = hit.box
    return (
        x / hit.width,
        y / hit.height,
        min(1.0, (x + width) / hit.width),
        min(1.0, (y + height) / hit.height),
    )


def draw_outline(image: Image.Image, outline: Outline) -> None:
    """Draw a frame around a part of an image, which shows on any ground."""
    draw = ImageDraw.Draw(image)
    width, height = image.width - 1, image.height - 1
    left, top, right, lower = outline
    box = (round(left * width), round(top * height), round(right * width), round(lower * height))
    thickness = max(2, min(image.size) // 60)
    draw.rectangle(box, outline="black", width=thickness + 2)
    inner = (box[0] + 1, box[1] + 1, box[2] - 1, box[3] - 1)
    draw.rectangle(inner, outline="white", width=thickness)


def short_name_of(row: Row | Hit) -> str:
    """Return an image's file name without folder and suffix; of a video with the time."""
    if row.moment is not None:
        return f"{Path(row.uri).stem} {format_time(row.moment.start)}"
    return Path(row.member or row.uri).stem


def make_thumbnail(image: SheetImage, side: int, *, item: str = "") -> Image.Image:
    """Fit an image into a square of `side` pixels; keeps its proportions, returns RGB.

    Raises:
        ImageError: the image cannot be decoded; `item` names it.
        OSError: the file cannot be read.
    """
    source = image() if callable(image) else image
    decoded = turn_upright(decode_scaled(source, item=item or None, min_side=side).image)
    profile = find_profile(decoded)
    opaque = to_opaque(decoded, item=item, profile=profile)
    scale = min(side / max(opaque.size), _MAX_ENLARGEMENT)
    size = (max(1, round(opaque.width * scale)), max(1, round(opaque.height * scale)))
    small = opaque.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return convert_colors(small, profile, item=item)


def read_thumbnails(
    images: Iterable[tuple[SheetImage, str]], side: int
) -> Iterator[Image.Image | ImageError | OSError]:
    """Yield the thumbnail of each (image, name), or the error of an image that cannot be read."""
    num_threads = num_usable_cores()
    waiting: deque[Future[Image.Image | ImageError | OSError]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        begun = (pool.submit(_try_thumbnail, image, side, name) for image, name in images)
        try:
            waiting.extend(islice(begun, num_threads * _AHEAD))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(islice(begun, 1))
        finally:
            for one in waiting:
                one.cancel()


def read_tiles(images: Iterable[SheetImage], side: int) -> Iterator[Image.Image | None]:
    """Yield the thumbnail of each image; None for an image that cannot be read."""
    for found in read_thumbnails(((image, "") for image in images), side):
        if isinstance(found, Image.Image):
            yield found
        else:
            logger.info("%s", found)
            yield None


def save_image(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Save an image in the format that the suffix of `path` names.

    Raises:
        ImageWriteError: the file cannot be written, or no image format has this suffix.
    """
    Image.init()
    name = os.fsdecode(path)
    encoded = io.BytesIO()  # on a full disk Pillow truncates a file and raises nothing
    try:
        kind = Image.registered_extensions()[os.path.splitext(name)[1].lower()]
        image.save(encoded, kind, quality=_JPEG_QUALITY)
    except (KeyError, ValueError, OSError) as err:
        raise ImageWriteError(
            f"{name}: the image cannot be saved: {err}; choose a name that ends in .png or .jpg",
            item=name,
        ) from err
    with atomic_write(path, ImageWriteError) as partial:
        partial.write_bytes(encoded.getbuffer())


def _try_thumbnail(image: SheetImage, side: int, name: str) -> Image.Image | ImageError | OSError:
    try:
        return make_thumbnail(image, side, item=name)
    except (ImageError, OSError) as err:
        return err
