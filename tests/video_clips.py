"""Video clips that tests write with PyAV: drawings of the gallery, each shown for a while."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = (160, 120)
FPS = 10
SCENES = ("rose", "airplane", "anchor", "avocado", "bus")
"""Drawings that pe-nano tells apart by their names."""


def gallery(name: str) -> Image.Image:
    """Return a drawing of the gallery on white."""
    source = files("perception_encoder") / "data" / "gallery" / f"{name}.webp"
    with source.open("rb") as file:
        drawn = Image.open(file).convert("RGBA")
    white = Image.new("RGBA", drawn.size, "white")
    return Image.alpha_composite(white, drawn).convert("RGB")


def frames_of(
    scenes: Sequence[str],
    seconds: float | Sequence[float],
    *,
    fps: int = FPS,
    size: tuple[int, int] = SIZE,
) -> Iterator[NDArray[np.uint8]]:
    """Yield the (H, W, 3) uint8 RGB frames of scenes, each a slow pan over one drawing."""
    lengths = seconds if isinstance(seconds, Sequence) else [seconds] * len(scenes)
    for name, length in zip(scenes, lengths, strict=True):
        drawn = gallery(name).resize((size[0] * 5 // 4, size[1] * 5 // 4))
        count = round(length * fps)
        for number in range(count):
            left = (drawn.width - size[0]) * number // count
            top = (drawn.height - size[1]) // 2
            yield np.asarray(drawn.crop((left, top, left + size[0], top + size[1])))


def write_clip(
    path: Path,
    scenes: Sequence[str] = SCENES[:3],
    seconds: float | Sequence[float] = 2.0,
    *,
    fps: int = FPS,
    size: tuple[int, int] = SIZE,
    codec: str = "libx264",
    gop: int = 250,
    rotation: int = 0,
    aspect: Fraction | None = None,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    color: dict[str, Any] | None = None,
    times: Sequence[float] | None = None,
) -> Path:
    """Write a clip and return its path; the same clip is encoded once in a run of tests.

    Args:
        path: the suffix decides the container.
        scenes: names of drawings.
        seconds: of each scene, or of all.
        fps: frames a second.
        size: width and height, pixels.
        codec: the encoder.
        gop: frames from one keyframe to the next, at most; scene cuts begin a new one.
        rotation: degrees counterclockwise by which a player turns the frames.
        aspect: of a pixel.
        pix_fmt: of the encoder.
        options: more of the encoder's.
        color: attributes of the codec context, such as `color_trc`.
        times: seconds at which each frame is shown, instead of 1/fps apart.
    """
    asked = (
        *(scenes, seconds, fps, size, codec, gop, rotation, aspect, pix_fmt, options, color, times),
        path.suffix,
    )
    if "PE_TEST_CLIPS" not in os.environ:  # outside of pytest
        _encode(path, *asked[:-1])
        return path
    folder = Path(os.environ["PE_TEST_CLIPS"])
    folder.mkdir(exist_ok=True)
    kept = folder / f"{hashlib.sha256(repr(asked).encode()).hexdigest()[:32]}{path.suffix}"
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=folder) as unfinished:
            written = Path(unfinished) / kept.name
            _encode(written, *asked[:-1])
            written.replace(kept)  # another worker may have written it as well
    shutil.copyfile(kept, path)
    return path


def _encode(
    path: Path,
    scenes: Sequence[str],
    seconds: float | Sequence[float],
    fps: int,
    size: tuple[int, int],
    codec: str,
    gop: int,
    rotation: int,
    aspect: Fraction | None,
    pix_fmt: str,
    options: dict[str, str] | None,
    color: dict[str, Any] | None,
    times: Sequence[float] | None,
) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options={"g": str(gop), **(options or {})})
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for name, value in (color or {}).items():
            setattr(stream.codec_context, name, value)
        if rotation:
            stream.set_display_rotation(rotation)
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, pixels in enumerate(frames_of(scenes, seconds, fps=fps, size=size)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(1000 * times[number]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
