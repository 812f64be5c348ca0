"""Parts of images: boxes as W3C media fragments write them, and cutting them out.

    dog.jpg#xywh=10,20,200,150    dog.jpg#xywh=percent:25,25,50,50    film.mp4#t=4&xywh=0,0,640,360

A box refers to the image as a viewer shows it: upright, after its EXIF orientation. What is cut out
is what a viewer shows, in sRGB over white, whatever the preprocessing.

Source of the notation: Media Fragments URI 1.0, 4.2.2 (https://www.w3.org/TR/media-frags/). Numbers
may have decimals here.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Self, TypeAlias
from urllib.parse import unquote

from PIL import Image

from perception_encoder.errors import ImageValueError
from perception_encoder.preprocess.color import find_profile
from perception_encoder.preprocess.transforms import convert_colors, to_opaque, turn_of

if TYPE_CHECKING:
    from perception_encoder.preprocess.decode import ImageInput

Unit: TypeAlias = Literal["pixel", "percent"]

_KEY: Final = "xywh"
_BOX: Final = re.compile(r"(?:(pixel|percent):)?(.*)", re.DOTALL)
_FRAGMENT: Final = re.compile(rf"(?:[^#]*&)?{_KEY}=", re.DOTALL)
_MAX_WRITTEN: Final = 200  # characters of a box
_MAX_PIXELS: Final = 1_000_000  # of a number; no image has such a side
_EXAMPLES: Final = "10,20,200,150 in pixels, or percent:25,25,50,50"


@dataclass(frozen=True, slots=True)
class CropBox:
    """A rectangle of an image as a viewer shows it, from the upper left corner.

    Attributes:
        x: its left side.
        y: its upper side.
        width: above 0.
        height: above 0.
        unit: of all four: pixels, or percent of the image's width and height.

    Raises:
        ImageValueError: a number is negative, not finite or out of all proportion, or a side is 0.
    """

    x: float
    y: float
    width: float
    height: float
    unit: Unit = "pixel"

    def __post_init__(self) -> None:
        numbers = (self.x, self.y, self.width, self.height)
        most = _MAX_PIXELS if self.unit == "pixel" else 100
        if not all(math.isfinite(one) for one in numbers):
            reason = "its numbers must be finite"
        elif min(numbers) < 0:
            reason = "its numbers must not be negative"
        elif max(numbers) > most:
            reason = f"its numbers must be at most {most:,}"
        elif not self.width or not self.height:
            reason = "its width and height must be above 0"
        else:
            return
        raise ImageValueError(f"the box {self} cannot be cut out: {reason}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `10,20,200,150`, `pixel:10,20,200,150` or `percent:25,25,50,50`.

        Raises:
            ImageValueError: it is not such a box, or as for `CropBox`.
        """
        shown = text if len(text) <= _MAX_WRITTEN else f"{text[:_MAX_WRITTEN]}…"
        message = f"{shown!r} is not a box; write x,y,width,height, such as {_EXAMPLES}"
        found = _BOX.fullmatch(text.strip())
        parts = found[2].split(",") if found is not None and len(text) <= _MAX_WRITTEN else []
        if len(parts) != 4:
            raise ImageValueError(message)
        try:
            x, y, width, height = map(float, parts)
        except ValueError as err:
            raise ImageValueError(message) from err
        return cls(x, y, width, height, "percent" if text.strip().startswith("pe") else "pixel")

    @classmethod
    def of(cls, box: CropInput) -> CropBox:
        """Return a box that was given as one, as text, or as (x, y, width, height) in pixels.

        Raises:
            ImageValueError: as `parse`.
            TypeError: something else.
        """
        if isinstance(box, CropBox):
            return box
        if isinstance(box, str):
            return cls.parse(box)
        if not isinstance(box, Sequence) or len(box) != 4:
            raise TypeError(f"a crop is (x, y, width, height) or text such as {_EXAMPLES}")
        x, y, width, height = map(float, box)
        return cls(x, y, width, height)

    def __str__(self) -> str:
        numbers = ",".join(f"{one:.6g}" for one in (self.x, self.y, self.width, self.height))
        return numbers if self.unit == "pixel" else f"percent:{numbers}"

    def place(self, size: tuple[int, int], *, item: str) -> tuple[int, int, int, int]:
        """Return left, top, right and lower side in whole pixels; what is outside is left out.

        A side between two pixels goes to the nearest. At least one pixel is inside.

        Args:
            size: width and height of the image as shown.
            item: names the image in errors.

        Raises:
            ImageValueError: the whole box is outside the image.
        """
        across = (1.0, 1.0) if self.unit == "pixel" else (size[0] / 100, size[1] / 100)
        starts = [self.x * across[0], self.y * across[1]]
        ends = [(self.x + self.width) * across[0], (self.y + self.height) * across[1]]
        if starts[0] >= size[0] or starts[1] >= size[1]:
            raise ImageValueError(
                f"{item}: the box {self} is outside the image of {size[0]} × {size[1]} pixels; "
                "it counts from the upper left corner of the image as shown",
                item=item,
            )
        left, top = (min(round(start), side - 1) for start, side in zip(starts, size, strict=True))
        right, lower = (min(round(end), side) for end, side in zip(ends, size, strict=True))
        return left, top, max(right, left + 1), max(lower, top + 1)


CropInput: TypeAlias = CropBox | str | Sequence[float]
"""A box; text as in `CropBox.parse`; or (x, y, width, height) in pixels."""


@dataclass(frozen=True, slots=True)
class CroppedImage:
    """An image of which only a part counts; it can be used wherever an image can."""

    image: ImageInput
    box: CropBox


def crop_image(image: ImageInput, box: CropInput | None) -> ImageInput:
    """Return an image of which only the part in a box counts; of None all of it.

    Raises:
        ImageValueError, TypeError: as `CropBox.of`.
    """
    return image if box is None else CroppedImage(image, CropBox.of(box))


class ShownImage:
    """A decoded image as a viewer shows it, to cut parts out.

    Args:
        decoded: in its own mode, not yet turned; only read.
        item: names it in errors.

    Raises:
        ImageError: the mode cannot be converted.
    """

    def __init__(self, decoded: Image.Image, *, item: str) -> None:
        turn = turn_of(decoded)
        self._item = item
        self._profile = find_profile(decoded)
        opaque = to_opaque(decoded, item=item, profile=self._profile)
        self._upright = opaque if turn is None else opaque.transpose(turn)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return self._upright.size

    def cut(self, box: CropBox) -> Image.Image:
        """Return a part as RGB or gray.

        Raises:
            ImageValueError: the box is outside the image.
        """
        part = self._upright.crop(box.place(self.size, item=self._item))
        part = convert_colors(part, self._profile, item=self._item)
        part.info = {}  # else the part would be turned again by the orientation of the whole
        return part


def split_crop(name: str, *, item: str | None = None) -> tuple[str, CropBox | None]:
    """Split `dog.jpg#xywh=10,20,200,150` into the name and the box.

    Other parts of the fragment stay: of `film.mp4#t=4&xywh=…` the name is `film.mp4#t=4`.

    Args:
        name: of an image, or what else stands for one, such as a data URI.
        item: names it in errors; None takes the name.

    Returns:
        The name as it is and None if it has no box.

    Raises:
        ImageValueError: what follows `xywh=` is not a box.
    """
    base, written = _split(name)
    if written is None:
        return name, None
    try:
        return base, CropBox.parse(unquote(written))
    except ImageValueError as err:
        raise ImageValueError(f"{item or name}: {err}", item=item or name) from err


def name_without_crop(name: str) -> str:
    """Return a name without what stands at the place of a box, whether or not it is one."""
    return _split(name)[0]


def _split(name: str) -> tuple[str, str | None]:
    base, sign, fragment = name.rpartition("#")
    if not sign or not base or _FRAGMENT.match(fragment) is None:
        return name, None
    parts = fragment.split("&")
    boxes = [part.removeprefix(f"{_KEY}=") for part in parts if part.startswith(f"{_KEY}=")]
    others = "&".join(part for part in parts if not part.startswith(f"{_KEY}="))
    return f"{base}#{others}" if others else base, boxes[-1]


def split_crop_of_path(path: str) -> tuple[str, CropBox | None]:
    """As `split_crop`, but a file that has the whole name wins.

    Raises:
        ImageValueError: as `split_crop`.
    """
    is_whole = name_without_crop(path) == path or os.path.isfile(path)
    return (path, None) if is_whole else split_crop(path)


def with_crop(name: str, box: CropInput | None) -> str:
    """Return a name with a box, as `split_crop` reads it.

    Raises:
        ImageValueError, TypeError: as `CropBox.of`.
    """
    if box is None:
        return name
    sign = "&" if re.search(r"#t=[^#]*$", name) else "#"
    return f"{name}{sign}{_KEY}={CropBox.of(box)}"
