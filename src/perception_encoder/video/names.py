"""Names of videos and of moments in them.

A moment is the member of a row: the time of its frame, such as `00:01:12.480`, so that the frame
can be read again from the file and the member alone.
"""

import posixpath
import re
from importlib.util import find_spec
from typing import Final

VIDEO_SUFFIXES: Final = frozenset((".3gp", ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mts", ".webm"))
"""Suffixes of video files, in lower case."""

INSTALL: Final = "pip install 'perception-encoder[video]'"

_MOMENT: Final = re.compile(r"(\d{2,6}):([0-5]\d):([0-5]\d\.\d{3})")
_FRAGMENT: Final = re.compile(r"(.+)#t=(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)", re.DOTALL)


def is_video(name: str) -> bool:
    """Whether a name has the suffix of a video file."""
    return posixpath.splitext(name)[1].lower() in VIDEO_SUFFIXES


def is_moment(uri: str, member: str | None) -> bool:
    """Whether a row is a segment of a video."""
    return member is not None and is_video(uri) and _MOMENT.fullmatch(member) is not None


def can_decode() -> bool:
    """Whether the extra `video` is installed."""
    return find_spec("av") is not None


def format_moment(seconds: float) -> str:
    """Return the member that names a frame: `00:01:12.480`."""
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest / 1000:06.3f}"


def parse_moment(member: str) -> float | None:
    """Return the seconds of a member; None if it names no moment."""
    found = _MOMENT.fullmatch(member)
    return None if found is None else 3600 * int(found[1]) + 60 * int(found[2]) + float(found[3])


def format_time(seconds: float) -> str:
    """Return a time as players show it: `0:12`, `1:02:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def split_fragment(name: str) -> tuple[str, float | None]:
    """Split `clip.mp4#t=12` or `clip.mp4#t=1:02:03` into the video and the seconds.

    Returns:
        The name as it is and None if it names no time of a video.
    """
    found = _FRAGMENT.fullmatch(name)
    if found is None or not is_video(found[1]):
        return name, None
    hours, minutes = int(found[2] or 0), int(found[3] or 0)
    return found[1], 3600 * hours + 60 * minutes + float(found[4])


def is_clip(name: str) -> bool:
    """Whether a name is that of a video, or of a frame in it: `clip.mp4`, `clip.mp4#t=12`."""
    return is_video(split_fragment(name)[0])
