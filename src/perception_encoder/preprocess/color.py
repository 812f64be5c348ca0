"""Convert colors to sRGB by the profile that a file embeds, as image viewers do.

Most profiles of photos are Display P3 (phones), Adobe RGB (cameras) and those of presses (CMYK).
Layout: ICC.1:2022.
"""

import io
import logging
import struct
from functools import cached_property, lru_cache
from typing import Final

import numpy as np
from PIL import Image, ImageCms

from perception_encoder.errors import ImageDecodeError

logger = logging.getLogger(__name__)

MAX_PROFILE_BYTES: Final = 2**22
"""The largest color profile that is used. Those of presses have up to 3 MB."""

_MODES: Final = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_DEVICES: Final = ("scnr", "mntr", "prtr", "spac")
_TAG_COUNT: Final = 128
_TAG_BYTES: Final = 12
_MAX_TAGS: Final = 100
# A profile may name any number of steps for computing in floats. Viewers do not use them.
_FLOAT_TAG: Final = b"D2B"
_NUM_KEPT: Final = 16
_ROUNDING: Final = 1  # of 255 levels


class ColorProfile:
    """A usable color profile other than sRGB's.

    Attributes:
        mode: of the pixels that it describes: "RGB", "L" or "CMYK".
    """

    def __init__(self, content: bytes) -> None:
        """Read a profile.

        Raises:
            ImageCms.PyCMSError, OSError, ValueError: it is damaged, or of another kind.
        """
        profile = ImageCms.ImageCmsProfile(io.BytesIO(_without_float_tags(content)))
        mode = _MODES.get(profile.profile.xcolor_space.ljust(4))
        if mode is None or profile.profile.device_class not in _DEVICES:
            raise ValueError(f"{profile.profile.device_class} of {profile.profile.xcolor_space}")
        self.mode = mode
        # Shared by threads: Little CMS only reads it.
        self._transform = ImageCms.buildTransform(
            profile, ImageCms.createProfile("sRGB"), mode, "RGB"
        )

    def convert(self, image: Image.Image) -> Image.Image:
        """Return an sRGB image.

        Args:
            image: of `mode`, or "L" where that is "RGB".
        """
        if image.mode != self.mode:
            image = image.convert(self.mode)
        converted = ImageCms.applyTransform(image, self._transform)
        if converted is None:  # only where it is asked to change the image itself
            raise ImageDecodeError("the colors cannot be converted")
        return converted

    @cached_property
    def is_srgb(self) -> bool:
        """Whether colors stay as they are, to a level of rounding."""
        if self.mode == "CMYK":
            return False
        levels = np.arange(0, 256, 17, dtype=np.uint8)
        colors = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(16, -1, 3)
        samples = Image.fromarray(colors[:, :, 0] if self.mode == "L" else colors)
        before = np.asarray(samples.convert("RGB")).astype(int)
        return bool(np.abs(np.asarray(self.convert(samples)) - before).max() <= _ROUNDING)


def find_profile(image: Image.Image) -> ColorProfile | None:
    """Return the profile by which a viewer converts an image; None where it changes nothing.

    Args:
        image: as it was decoded. Profiles that are damaged, too large, or of another number of
            channels are not used.
    """
    content = image.info.get("icc_profile")
    if not isinstance(content, bytes) or not _TAG_COUNT < len(content) <= MAX_PROFILE_BYTES:
        return None
    profile = _read(content)
    if profile is None:
        return None
    is_gray = image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;16")
    if profile.mode == "L" and not is_gray:
        return None
    return profile if (profile.mode == "CMYK") == (image.mode == "CMYK") else None


@lru_cache(maxsize=_NUM_KEPT)
def _read(content: bytes) -> ColorProfile | None:
    """Read a profile; of sRGB, and of one that cannot be used, None is returned."""
    try:
        profile = ColorProfile(content)
        return None if profile.is_srgb else profile
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as err:
        logger.info("colors are taken for sRGB: an embedded profile cannot be used (%s)", err)
        return None


def _without_float_tags(content: bytes) -> bytes:
    """Rename the tags of conversions in floats, so that nobody looks for them."""
    changed = bytearray(content)
    (num_tags,) = struct.unpack_from(">I", content, _TAG_COUNT) if len(content) > 132 else (0,)
    for number in range(min(num_tags, _MAX_TAGS)):
        place = _TAG_COUNT + 4 + _TAG_BYTES * number
        if changed[place : place + 3] == _FLOAT_TAG:
            changed[place : place + 3] = b"zzz"
    return bytes(changed)
