"""Videos over HTTP: the file in parts, the segments of a file, frames as thumbnails."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from server.serving import running
from small_models import drawing, open_tiny
from video_clips import SCENES, write_clip

from perception_encoder.index import Index
from perception_encoder.indexing import Run
from perception_encoder.server import ServerSettings
from perception_encoder.server.http.ranges import UnsatisfiableRangeError, parse_range
from perception_encoder.sources import SourceOptions, open_sources


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    drawing(1).save(folder / "image.png")
    return write_clip(folder / "clip.mp4", SCENES[:3])


@pytest.fixture(scope="module")
def server(clip: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("served")
    model = open_tiny()
    index = Index.create(folder / "videos.lance", model.identity)
    sources = open_sources([str(clip.parent)], SourceOptions(videos=True))
    assert {one.status for one in Run(model, index, sources).outcomes()} == {"embedded"}
    settings = ServerSettings(
        indexes=(str(folder / "videos.lance"),), cache_folder=folder / "thumbnails"
    )
    with running(settings, model=model) as running_server:
        yield running_server


@pytest.fixture(scope="module")
def items(server) -> list[dict[str, object]]:
    return server.client.get("/v1/items").json()["items"]


@pytest.fixture(scope="module")
def moment(items) -> dict[str, object]:
    return next(item for item in items if item["moment"] is not None)


@pytest.fixture(scope="module")
def url(moment) -> str:
    return f"/v1/items/{moment['id']}/video"


def test_moments_have_their_times_and_images_none(items) -> None:
    (image,) = (item for item in items if item["moment"] is None)
    assert image["name"].endswith("image.png")
    moments = sorted(
        (item["moment"] for item in items if item["moment"]), key=lambda one: one["start"]
    )
    assert moments[0]["start"] == 0
    assert moments[-1]["end"] == pytest.approx(6, abs=0.01)
    assert all(one["start"] <= one["frame_time"] <= one["end"] for one in moments)


def test_a_video_is_listed_once_with_the_number_of_its_moments(server, items, clip: Path) -> None:
    assert not any("num_moments" in item for item in items)
    reply = server.client.get("/v1/items", params={"videos": "whole", "sort": "name"}).json()
    assert reply["total"] == 2
    video, image = reply["items"]
    assert (video["uri"], video["moment"]["start"]) == (str(clip), 0)
    assert (video["num_moments"], image["num_moments"]) == (len(items) - 1, None)
    only = {"videos": "whole", "filters": '[{"column": "frame_time", "op": "has"}]'}
    assert server.client.get("/v1/items", params=only).json()["total"] == 1
    refused = server.client.get("/v1/items", params={"videos": "some"})
    assert refused.status_code == 422


def test_segments_of_a_file_come_in_their_order(server, items, moment, clip: Path) -> None:
    reply = server.client.get(f"/v1/items/{moment['id']}/segments").json()
    assert reply["uri"] == str(clip)
    assert reply["duration"] == pytest.approx(6, abs=0.01)
    starts = [one["moment"]["start"] for one in reply["segments"]]
    assert starts == sorted(starts)
    assert len(starts) == len(items) - 1


def test_frames_are_images_and_thumbnails(server, items) -> None:
    moments = [item for item in items if item["moment"]]
    thumbnails = set()
    for item in moments:
        reply = server.client.get(f"/v1/items/{item['id']}/thumbnail", params={"size": 128})
        assert reply.status_code == 200
        assert Image.open(io.BytesIO(reply.content)).size == (128, 96)
        thumbnails.add(reply.content)
    assert len(thumbnails) == len(moments)
    frame = server.client.get(f"/v1/items/{moments[0]['id']}/image")
    assert frame.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(frame.content)).size == (160, 120)


def test_the_whole_file_is_sent_without_a_range(server, url: str, clip: Path) -> None:
    reply = server.client.get(url)
    assert (reply.status_code, reply.content) == (200, clip.read_bytes())
    assert reply.headers["content-type"] == "video/mp4"
    assert reply.headers["accept-ranges"] == "bytes"
    head = server.client.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(clip.stat().st_size)


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [("bytes=0-9", 0, 10), ("bytes=100-", 100, None), ("bytes=-7", -7, None),
     ("bytes=5-99999999", 5, None), ("bytes=0-0", 0, 1)],
)  # fmt: skip
def test_a_part_is_sent_for_a_range(
    server, url: str, clip: Path, wanted: str, start: int, stop: int | None
) -> None:
    data = clip.read_bytes()
    reply = server.client.get(url, headers={"Range": wanted})
    assert (reply.status_code, reply.content) == (206, data[start:stop])
    first, last = (range(len(data))[start:stop][end] for end in (0, -1))
    assert reply.headers["content-range"] == f"bytes {first}-{last}/{len(data)}"
    head = server.client.head(url, headers={"Range": wanted})
    assert (head.status_code, head.content) == (206, b"")
    assert head.headers["content-length"] == str(len(reply.content))


@pytest.mark.parametrize("wanted", ["bytes=9-2", "bytes=a-b", "items=0-1", "bytes=0-1,4-5", ""])
def test_what_is_not_one_range_of_bytes_gives_the_whole_file(
    server, url: str, clip: Path, wanted: str
) -> None:
    reply = server.client.get(url, headers={"Range": wanted})
    assert (reply.status_code, reply.content) == (200, clip.read_bytes())


def test_a_range_after_the_end_is_refused(server, url: str, clip: Path) -> None:
    reply = server.client.get(url, headers={"Range": f"bytes={clip.stat().st_size}-"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (416, "invalid_range")
    assert reply.headers["content-range"] == f"bytes */{clip.stat().st_size}"


def test_a_part_of_another_version_is_not_sent(server, url: str, clip: Path) -> None:
    tag = server.client.get(url, headers={"Range": "bytes=0-0"}).headers["etag"]
    same = server.client.get(url, headers={"Range": "bytes=0-4", "If-Range": tag})
    assert same.status_code == 206
    other = server.client.get(url, headers={"Range": "bytes=0-4", "If-Range": '"old"'})
    assert (other.status_code, other.content) == (200, clip.read_bytes())
    assert server.client.get(url, headers={"If-None-Match": tag}).status_code == 304


def test_only_files_of_moments_are_sent(server, items) -> None:
    (image,) = (item for item in items if item["moment"] is None)
    for key, code in ((image["id"], "no_video"), ("0" * 32, "unknown_item")):
        for what in ("video", "segments"):
            reply = server.client.get(f"/v1/items/{key}/{what}")
            assert (reply.status_code, reply.json()["error"]["code"]) == (404, code)


def test_frames_of_chosen_items_come_as_a_zip_file(server, items) -> None:
    ids = [item["id"] for item in items]
    reply = server.client.post("/v1/items/download", json={"ids": ids})
    import zipfile

    names = zipfile.ZipFile(io.BytesIO(reply.content)).namelist()
    assert sum(name.startswith("clip.mp4 00.00.0") for name in names) == len(items) - 1


@given(st.text(max_size=20), st.integers(0, 50))
def test_ranges_are_within_the_file(text: str, num_bytes: int) -> None:
    for header in (text, f"bytes={text}"):
        try:
            part = parse_range(header, num_bytes)
        except UnsatisfiableRangeError:
            continue
        assert part is None or 0 <= part.start < part.stop <= num_bytes
