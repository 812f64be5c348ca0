"""Hostile videos: the decoder's crash, silence or hunger costs the one file."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_models import drawing, open_tiny
from video_clips import SCENES, write_clip

from perception_encoder.errors import ImageError, VideoDecodeError
from perception_encoder.index import Index
from perception_encoder.indexing import Run
from perception_encoder.sources import SourceOptions, open_sources
from perception_encoder.video import VideoDecoder, decoder
from perception_encoder.video.decoder import VideoFrame

CODECS = {".mp4": "libx264", ".mkv": "libx264", ".avi": "mpeg4", ".mts": "libx264",
          ".webm": "libvpx-vp9", ".3gp": "mpeg4"}  # fmt: skip

TROUBLE = """
import os, signal, time
from perception_encoder.video import child
answer = child._send_frames
def act(request, replies):
    name = os.path.basename(request["path"])
    if name.startswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if name.startswith("exit"):
        os._exit(3)
    if name.startswith("silent"):
        time.sleep(60)
    if name.startswith("wrong"):
        child._reply(replies, kind="frame", time=0, width=2**40, height=2**40)
    if name.startswith("noise"):
        replies.write(b"noise" * 20_000)
        replies.flush()
    if name.startswith("hungry"):
        bytearray(2**40)
    answer(request, replies)
child._send_frames = act
child.main()
"""
MESSAGES = {
    "crash": "the decoder crashed on this file (signal 11)",
    "exit": "the decoder crashed on this file (exit code 3)",
    "silent": "the decoder did nothing for 5 seconds",
    "wrong": "the decoder gave a wrong answer",
    "noise": "the decoder",
    "hungry": "decoding needs more memory than a video is given",
}


@pytest.fixture
def troubled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children that misbehave on files of certain names, as a decoder may."""
    monkeypatch.setattr(decoder, "_PROGRAM", TROUBLE)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("clips")
    return {
        suffix: write_clip(
            folder / f"clip{suffix}", SCENES[:2], 0.6, size=(64, 48), codec=codec
        ).read_bytes()
        for suffix, codec in CODECS.items()
    }


@pytest.fixture(scope="module")
def one_decoder() -> Iterator[VideoDecoder]:
    one = VideoDecoder(silent_seconds=30)
    yield one
    one.close()


@pytest.mark.usefixtures("troubled")
@pytest.mark.parametrize("trouble", MESSAGES)
def test_a_file_that_breaks_the_decoder_fails_alone(tmp_path: Path, trouble: str) -> None:
    clip = write_clip(tmp_path / "clip.mp4", SCENES[:1], 0.3)
    bad = clip.rename(tmp_path / f"{trouble}.mp4")
    good = write_clip(tmp_path / "good.mp4", SCENES[:1], 0.3)
    one = VideoDecoder(silent_seconds=5.0 if trouble == "silent" else 20.0)
    try:
        assert len(list(one.sample(good))) == 1
        with pytest.raises(VideoDecodeError) as caught:
            list(one.sample(bad))
        assert str(bad) in str(caught.value)
        assert MESSAGES[trouble] in str(caught.value)
        assert len(list(one.sample(good))) == 1
    finally:
        one.close()


@pytest.mark.usefixtures("troubled")
def test_a_run_goes_on_after_a_crash(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "crash", "exit", "z"):
        write_clip(folder / f"{name}.mp4", SCENES[len(name) % 5 :][:1], 0.3 + len(name) / 10)
    drawing(1).save(folder / "image.png")
    model = open_tiny()
    index = Index.create(tmp_path / "t.lance", model.identity)
    sources = open_sources([str(folder)], SourceOptions(videos=True))
    outcomes = list(Run(model, index, sources).outcomes())
    assert Counter(one.status for one in outcomes)["failed"] == 2
    assert {Path(row.uri).name for row in index.rows()} == {"a.mp4", "z.mp4", "image.png"}
    failed = [one for one in outcomes if one.status == "failed"]
    assert {one.reason for one in failed} == {"VideoDecodeError"}
    # The file has not changed, so it is not given to the decoder again.
    again = list(Run(model, index, sources).outcomes())
    assert sum(one.decode_ms for one in again) == 0


def test_the_child_of_another_process_is_not_used(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", SCENES[:1], 0.3)
    one = VideoDecoder()
    list(one.sample(clip))
    child = one._child
    assert child is not None
    child._owner = os.getpid() + 1  # what a forked process sees
    assert not child.is_usable
    assert len(list(one.sample(clip))) == 1
    assert one._child is not child
    child._owner, child._process.returncode = os.getpid(), None
    child.close()
    one.close()


def test_a_killed_child_is_started_again(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", SCENES[:3], 2.0)
    one = VideoDecoder()
    list(one.sample(clip))
    assert one._child is not None
    os.kill(one._child._process.pid, signal.SIGKILL)
    one._child._process.wait()
    assert len(list(one.sample(clip))) >= 3
    one.close()


def test_a_half_read_video_is_given_up(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", SCENES[:3], 2.0)
    one = VideoDecoder()
    frames = iter(one.sample(clip))
    next(frames)
    frames.close()  # type: ignore[attr-defined]
    assert len(list(one.sample(clip))) >= 3
    one.close()


def test_frames_that_are_too_large_are_refused(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.avi", SCENES[:1], 0.2, size=(64, 48), codec="mpeg4")
    data = bytearray(clip.read_bytes())
    place = data.index(b"strf") + 12  # width and height of the BITMAPINFOHEADER
    data[place : place + 8] = (60_000).to_bytes(4, "little") * 2
    clip.write_bytes(data)
    one = VideoDecoder()
    try:
        for frame in one.sample(clip):
            assert max(frame.pixels.shape) <= 8192
    except VideoDecodeError:
        pass
    finally:
        one.close()


@pytest.mark.parametrize("suffix", CODECS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_containers_give_frames_or_one_of_our_errors(
    suffix: str,
    clips: dict[str, bytes],
    one_decoder: VideoDecoder,
    tmp_path: Path,
    data: st.DataObject,
) -> None:
    content = bytearray(clips[suffix])
    for _ in range(data.draw(st.integers(1, 12))):
        place = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "copy", "number"])):
            case "flip":
                content[place] ^= data.draw(st.integers(1, 255))
            case "cut":
                del content[place : place + data.draw(st.integers(1, 200))]
            case "copy":
                content[place:place] = content[: data.draw(st.integers(1, 300))]
            case _:
                value = data.draw(st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1]))
                content[place : place + 4] = value.to_bytes(4, "big")
        if not content:
            return
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    for read in (
        lambda: list(one_decoder.sample(path, min_side=32)),
        lambda: list(one_decoder.uniform(path, 3)),
        lambda: [one_decoder.frame(path, 0.5)],
    ):
        frames, message = list[VideoFrame](), path.name
        try:
            frames = read()
        except ImageError as err:
            message = str(err)
        assert path.name in message
        assert all(frame.pixels.ndim == 3 for frame in frames)
