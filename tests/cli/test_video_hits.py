"""Moments of videos on the command line: found by text, shown with their time, opened there."""

import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from cli.command import Ended, pe_inside
from video_clips import SCENES, write_clip

from perception_encoder import AutoModel, ImageIndex
from perception_encoder.preprocess.files import IMAGE_SUFFIXES
from perception_encoder.video import VideoDecoder

SCENE_SECONDS = 3.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a clip of five scenes, and an index of it by pe-nano."""
    folder = tmp_path_factory.mktemp("videos")
    write_clip(folder / "clip.mp4", SCENES, SCENE_SECONDS, options={"crf": "18"})
    done = pe_inside("index", str(folder), "--index", str(folder / "t.lance"), "--model", "pe-nano")
    assert done.code == 0, done.err
    return folder


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def search(*arguments: str) -> Ended:
    done = pe_inside(*arguments, "--index", "t.lance")
    assert done.code == 0, done.err
    return done


@pytest.mark.parametrize("scene", SCENES)
def test_a_text_finds_the_moment(scene: str) -> None:
    (hit,) = search("search", scene, "-k1", "--json").records()
    shown_from = SCENES.index(scene) * SCENE_SECONDS
    assert shown_from <= hit["frame_time"] < shown_from + SCENE_SECONDS
    assert abs(hit["start"] - shown_from) <= 1.01
    assert abs(hit["end"] - shown_from - SCENE_SECONDS) <= 1.01
    assert hit["uri"] == os.path.abspath("clip.mp4")


def test_borders_are_where_the_encoder_saw_the_scenes_change(tmp_path: Path) -> None:
    lengths = [2.7, 3.3, 4.6, 2.2, 3.1]
    write_clip(tmp_path / "cuts.mp4", SCENES, lengths, options={"crf": "18"})
    index = ImageIndex(tmp_path / "t.lance", model="pe-nano")
    index.add(str(tmp_path / "cuts.mp4"))
    starts = np.cumsum([0, *lengths])[:-1]
    for scene, start in zip(SCENES, starts, strict=True):
        moment = index.search(scene, k=1)[0].hit.moment
        assert moment.start == pytest.approx(start, abs=0.11)  # a frame


def test_the_table_shows_the_time(folder: Path) -> None:
    out = search("search", SCENES[0], "-k1").out.decode()
    assert f"{folder}/clip.mp4 at 0:00" in out


def test_paths_name_items_that_can_be_queries() -> None:
    best = search("search", SCENES[2], "-k1", "--paths").out.decode().strip()
    assert "/clip.mp4/00:00:" in best
    hits = search("similar", f"@{best}", "--json").records()
    assert best not in {f"{hit['uri']}/{hit['member']}" for hit in hits}
    by_end = search("similar", "@" + best[best.index("clip.mp4") :], "--json").records()
    assert [hit["id"] for hit in by_end] == [hit["id"] for hit in hits]


def test_a_time_of_a_video_is_a_query(monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy("clip.mp4", "other.MP4")
    new = search("search", f"other.MP4#t={SCENE_SECONDS * 3.5}", "-k1", "--json").records()[0]
    assert new["start"] <= SCENE_SECONDS * 3.5 < new["end"]
    monkeypatch.setattr(VideoDecoder, "frame", None)  # an indexed video is not decoded
    known = search("search", f"clip.mp4#t={SCENE_SECONDS * 3.5}", "-k1", "--json").records()[0]
    assert known["id"] == new["id"]
    assert known["score"] == pytest.approx(1, abs=1e-3)
    os.remove("other.MP4")


def test_a_whole_video_is_a_query_without_its_own_moments(tmp_path: Path) -> None:
    assert search("similar", "clip.mp4").err.startswith("nothing found")
    only = write_clip(tmp_path / "one.mp4", SCENES[1:2], 2.0)
    (hit,) = search("similar", str(only), "-k1", "--json").records()
    assert SCENE_SECONDS <= hit["frame_time"] < 2 * SCENE_SECONDS


def test_a_missing_video_is_named() -> None:
    for query in ("none.mp4", "none.mp4#t=3"):
        done = pe_inside("search", query, "--index", "t.lance")
        assert done.code == 1
        assert "there is no image none.mp4" in done.err


def test_sheets_draw_the_frames(tmp_path: Path) -> None:
    sheet = tmp_path / "hits.png"
    assert sheet.suffix in IMAGE_SUFFIXES
    search("search", SCENES[3], "--sheet", str(sheet))
    assert sheet.stat().st_size > 10_000


@pytest.mark.parametrize("player", ["mpv", "vlc", "xdg-open"])
def test_hits_are_played_from_their_second(
    player: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / player
    program.write_text(f'#!/bin/sh\nfor one; do echo "$one" >> {tmp_path}/opened; done\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    hits = search("search", SCENES[2], "-k2", "--open", "--json").records()
    opened = (tmp_path / "opened").read_text().splitlines()
    starts = [f"{hit['start']:.3f}" for hit in hits]
    clip = str(folder / "clip.mp4")
    expected = {
        "mpv": [word for start in starts for word in ("--{", f"--start={start}", clip, "--}")],
        "vlc": [word for start in starts for word in (clip, f":start-time={start}")],
        "xdg-open": [clip, clip],
    }
    assert opened == expected[player]


def test_python_finds_the_moment_and_its_frame(folder: Path) -> None:
    with ImageIndex(folder / "t.lance", model=AutoModel.from_pretrained("pe-nano")) as index:
        hits = index.search(SCENES[4], k=1)
        moment = hits[0].hit.moment
        assert moment is not None
        assert moment.start <= 4.5 * SCENE_SECONDS < moment.end
        assert hits[0].image().size == (160, 120)
        assert "clip.mp4 at 0:" in repr(hits)


def test_a_clip_has_one_embedding(folder: Path) -> None:
    done = pe_inside("embed", "clip.mp4", "clip.mp4#t=1", "gone.mp4", "--model", "pe-nano")
    assert done.code == 1
    assert "gone.mp4: no such file" in done.err
    clip, frame = done.records()
    model = AutoModel.from_pretrained("pe-nano")
    assert clip["item"] == "clip.mp4"
    expected = model.embed_video(folder / "clip.mp4")
    assert model.similarity(np.array([clip["vector"]], np.float32), expected) > 0.9999
    decoder = VideoDecoder()
    pixels = decoder.frame(folder / "clip.mp4", 1).pixels
    decoder.close()
    expected = model.embed_image(pixels, input_color_format="rgb")
    assert model.similarity(np.array([frame["vector"]], np.float32), expected) > 0.9999
    (cut,) = pe_inside("embed", "clip.mp4", "--dim", "16", "--model", "pe-nano").records()
    short = np.array(cut["vector"], np.float32)
    assert short.shape == (16,)
    assert np.linalg.norm(short) == pytest.approx(1)


@pytest.mark.parametrize("clip", ["clip.mp4", f"clip.mp4#t={SCENE_SECONDS + 1:g}"])
def test_a_clip_is_compared_with_texts_images_and_clips(clip: str) -> None:
    texts = [*SCENES, "clip.mp4"]
    done = pe_inside("compare", clip, *texts, "--model", "pe-nano", "--json")
    assert done.code == 0, done.err
    scores: dict[object, float] = {one["item"]: float(str(one["score"])) for one in done.records()}
    if clip == "clip.mp4":
        assert scores["clip.mp4"] == pytest.approx(1, abs=1e-5)
    else:
        assert max(SCENES, key=lambda scene: scores[scene]) == SCENES[1]
    back = pe_inside("compare", SCENES[0], clip, "gone.mov", "--model", "pe-nano", "--json")
    assert back.code == 1
    assert "gone.mov: no such file" in back.err
    assert back.records()[0]["score"] == pytest.approx(scores[SCENES[0]], abs=1e-5)


def test_without_the_extra_clips_are_refused_with_the_command_that_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("perception_encoder.video.decoder.can_decode", lambda: False)
    for arguments in (("embed", "clip.mp4"), ("compare", "a rose", "clip.mp4")):
        done = pe_inside(*arguments, "--model", "pe-nano")
        assert done.code == 1
        assert "pip install 'perception-encoder[video]'" in done.err


def test_clips_are_not_classified_as_images() -> None:
    done = pe_inside("classify", "clip.mp4", "--labels", "rose,bus", "--model", "pe-nano")
    assert done.code == 1
    assert "is a video" in done.err
