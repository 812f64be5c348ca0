"""Frames of real files in every container, as players show them."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from video_clips import FPS, SCENES, SIZE, frames_of, write_clip

from perception_encoder.errors import (
    ImageEmptyError,
    ImageNotFoundError,
    ImageUnreadableError,
    VideoDecodeError,
)
from perception_encoder.video import VideoDecoder, read_frame
from perception_encoder.video.decoder import VideoFrame

CONTAINERS = {
    ".mp4": "libx264",
    ".mov": "libx264",
    ".m4v": "mpeg4",
    ".mkv": "libx264",
    ".webm": "libvpx-vp9",
    ".avi": "mpeg4",
    ".mts": "libx264",
    ".3gp": "mpeg4",
}
ORIGINAL = list(frames_of(SCENES[:3], 2.0))
"""The frames that `write_clip` writes by default: 60 in 6 seconds."""


@pytest.fixture(scope="module")
def decoder() -> Iterator[VideoDecoder]:
    decoder = VideoDecoder()
    yield decoder
    decoder.close()


def difference(frame: VideoFrame, number: int) -> float:
    """Mean difference from an original frame, in gray levels of 255."""
    return float(np.abs(frame.pixels.astype(float) - ORIGINAL[number]).mean())


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_frames_of_every_container_are_found_by_number_and_by_time(
    decoder: VideoDecoder, tmp_path: Path, suffix: str
) -> None:
    clip = write_clip(tmp_path / f"clip{suffix}", codec=CONTAINERS[suffix])
    for frame, number in zip(decoder.uniform(clip, 5), (0, 14, 29, 44, 59), strict=True):
        assert frame.time == pytest.approx(number / FPS, abs=0.002)
        assert difference(frame, number) < 8
    for seconds, number in ((0, 0), (2.0, 20), (3.05, 31), (5.9, 59), (99, 59)):
        frame = decoder.frame(clip, seconds)
        assert frame.time == pytest.approx(number / FPS, abs=0.002)
        assert difference(frame, number) < 8
    sampled = decoder.sample(clip)
    frames = list(sampled)
    assert sampled.end == pytest.approx(6, abs=0.01)
    assert (sampled.width, sampled.height) == SIZE
    times = [frame.time for frame in frames]
    assert times == sorted(times)
    assert times[0] == 0
    assert max(np.diff([*times, 6])) <= 2.3
    for frame in frames:
        assert difference(frame, round(frame.time * FPS)) < 8


def test_one_frame_of_a_video_is_its_middle(decoder: VideoDecoder, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    (frame,) = decoder.uniform(clip, 1)
    assert frame.time == pytest.approx(3.0)
    with pytest.raises(ValueError, match="num_frames"):
        list(decoder.uniform(clip, 0))


def test_more_frames_than_there_are_come_twice(decoder: VideoDecoder, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", SCENES[:1], 0.3)
    times = [round(frame.time, 3) for frame in decoder.uniform(clip, 7)]
    assert times == [0, 0, 0, 0.1, 0.1, 0.1, 0.2]


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (180, 2), (-90, 3)])
def test_frames_are_turned_as_the_file_says(
    decoder: VideoDecoder, tmp_path: Path, rotation: int, turns: int
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", rotation=rotation)
    frame = decoder.frame(clip, 0)
    upright = np.rot90(ORIGINAL[0], turns)
    assert frame.pixels.shape == upright.shape
    assert np.abs(frame.pixels.astype(float) - upright).mean() < 8
    sampled = decoder.sample(clip)
    assert len(list(sampled)) == 3
    assert (sampled.height, sampled.width) == upright.shape[:2]


@pytest.mark.parametrize(
    ("aspect", "size"), [(Fraction(2), (320, 120)), (Fraction(1, 2), (160, 240))]
)
def test_pixels_become_square(
    decoder: VideoDecoder, tmp_path: Path, aspect: Fraction, size: tuple[int, int]
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", aspect=aspect)
    assert decoder.frame(clip, 0).pixels.shape == (size[1], size[0], 3)


def test_frames_are_shrunk_to_a_shorter_side(decoder: VideoDecoder, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    assert decoder.frame(clip, 0, min_side=60).pixels.shape == (60, 80, 3)
    assert decoder.frame(clip, 0, min_side=500).pixels.shape == (120, 160, 3)


def test_keyframes_are_taken_first_and_long_gaps_are_filled(
    decoder: VideoDecoder, tmp_path: Path
) -> None:
    every_second = write_clip(tmp_path / "a.mp4", SCENES[:1], 6, gop=FPS)
    assert [frame.time for frame in decoder.sample(every_second)] == [0, 1, 2, 3, 4, 5]
    never = write_clip(tmp_path / "b.mp4", SCENES[:1], 9, options={"sc_threshold": "0"})
    times = [frame.time for frame in decoder.sample(never)]
    assert len(times) == 5
    assert np.diff(times) == pytest.approx(2, abs=0.3)


def test_variable_frame_rate_keeps_its_times(decoder: VideoDecoder, tmp_path: Path) -> None:
    times = [0.1 * number + (5 if number > 20 else 0) for number in range(60)]
    clip = write_clip(tmp_path / "clip.mp4", times=times)
    sampled = decoder.sample(clip)
    found = [frame.time for frame in sampled]
    assert sampled.end >= 10.9
    assert all(min(abs(time - one) for one in times) < 0.01 for time in found)
    assert decoder.frame(clip, 3.0).time == pytest.approx(7.1)


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_is_tone_mapped(decoder: VideoDecoder, tmp_path: Path, transfer: int) -> None:
    color = {"color_trc": transfer, "color_primaries": 9, "colorspace": 9}
    clip = write_clip(tmp_path / "clip.mp4", SCENES[:1], 0.2, pix_fmt="yuv420p10le", color=color)
    plain = write_clip(tmp_path / "plain.mkv", SCENES[:1], 0.2)
    mapped, shown = decoder.frame(clip, 0).pixels, decoder.frame(plain, 0).pixels
    assert mapped.max() > 230
    assert np.abs(mapped.astype(float) - shown).mean() > 2  # not taken for SDR


def test_one_frame_is_a_video(decoder: VideoDecoder, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", SCENES[:1], 0.1)
    sampled = decoder.sample(clip)
    assert [frame.time for frame in sampled] == [0]
    assert sampled.end == pytest.approx(0.1)


def test_sound_without_a_picture_is_no_video(decoder: VideoDecoder, tmp_path: Path) -> None:
    import av

    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VideoDecodeError, match="no video in it"):
        list(decoder.sample(path))


def test_a_truncated_file_gives_what_is_there(decoder: VideoDecoder, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", gop=5)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    sampled = decoder.sample(clip)
    assert [frame.time for frame in sampled] == [0, 1, 2]
    assert 2 < sampled.end < 4
    mp4 = write_clip(tmp_path / "clip.mp4")
    mp4.write_bytes(mp4.read_bytes()[:3000])  # its index is at the end
    with pytest.raises(VideoDecodeError, match=r"clip\.mp4: the video cannot be decoded"):
        list(decoder.sample(mp4))


def test_what_cannot_be_opened_is_named(decoder: VideoDecoder, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "text.mp4").write_text("no video" * 100)
    for name, error in (
        ("empty.mp4", ImageEmptyError),
        ("folder.mp4", ImageUnreadableError),
        ("text.mp4", VideoDecodeError),
        ("none.mp4", ImageNotFoundError),
    ):
        with pytest.raises(error, match=name):
            list(decoder.sample(tmp_path / name))


def test_a_playlist_opens_no_other_file(decoder: VideoDecoder, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    listed = tmp_path / "list.mp4"
    for text in (
        f"#EXTM3U\n#EXTINF:6,\n{clip}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile {clip}\n",
    ):
        listed.write_text(text)
        with pytest.raises(VideoDecodeError):
            list(decoder.sample(listed))


def test_without_the_extra_the_message_has_the_command(
    decoder: VideoDecoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perception_encoder.video.decoder.can_decode", lambda: False)
    with pytest.raises(ImageUnreadableError, match=r"pip install 'perception-encoder\[video\]'"):
        list(decoder.sample(tmp_path / "clip.mp4"))


def test_a_frame_is_read_as_a_jpeg(tmp_path: Path) -> None:
    data = read_frame(write_clip(tmp_path / "clip.mp4"), 2.0)
    assert data.startswith(b"\xff\xd8\xff")
