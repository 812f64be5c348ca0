"""Decoders and disks that take long, or for ever: their requests end in time, and others go on."""

import concurrent.futures
import os
import threading

import pytest
from server.serving import image, in_base64, make_index, running
from small_models import CORE, open_tiny

from perception_encoder.index import Index, Row
from perception_encoder.preprocess import ImageProcessor
from perception_encoder.server import ServerSettings
from perception_encoder.server.core import images as thumbnails
from perception_encoder.server.options import QueueSettings


class GatedProcessor(ImageProcessor):
    """Decodes images of 50 pixels' width only when let go."""

    def __init__(self) -> None:
        super().__init__(CORE.image, CORE.vision.image_size)
        self.is_open = threading.Event()
        self.slow = in_base64(image(1, width=50))
        self.begun = threading.Semaphore(0)
        self._slow_bytes = image(1, width=50)

    def resize_measured(self, image, **options):
        if image == self._slow_bytes:
            self.begun.release()
            assert self.is_open.wait(100)
        return super().resize_measured(image, **options)


def test_images_that_decode_slowly_keep_no_others_waiting():
    processor = GatedProcessor()
    settings = ServerSettings(queue=QueueSettings(decode_threads=1, timeout_seconds=3))
    with (
        running(settings, model=open_tiny(processor=processor)) as server,
        concurrent.futures.ThreadPoolExecutor(4) as pool,
    ):

        def post(image: str):
            return server.client.post("/v1/embed", json={"images": [image]})

        try:
            slow = [pool.submit(post, processor.slow) for _ in range(3)]
            for _ in slow:
                assert processor.begun.acquire(timeout=100)
            for seed in range(5):
                assert post(in_base64(image(seed))).status_code == 200
            # Their time is up, while their threads go on.
            assert [one.result(100).status_code for one in slow] == [503] * 3
            assert "not done within 3 s" in slow[0].result().json()["error"]["message"]
            assert server.client.get("/healthz").status_code == 200
        finally:
            processor.is_open.set()
        assert post(processor.slow).status_code == 200


@pytest.fixture
def indexed(tmp_path):
    """A server of an index of 12 images, and their files."""
    files = []
    for seed in range(12):
        files.append(tmp_path / f"{seed}.png")
        files[-1].write_bytes(image(seed))
    model = open_tiny()
    make_index(tmp_path / "index.lance", model, files)
    settings = ServerSettings(indexes=(str(tmp_path / "index.lance"),))
    with running(settings, model=model) as server:
        ids = {
            os.path.basename(item["uri"]): item["id"]
            for item in server.client.get("/v1/items").json()["items"]
        }
        yield server, [ids[file.name] for file in files], files


def search(server) -> int:
    body = {"terms": [{"text": "cat"}], "k": 3}
    return server.client.post("/v1/search", json=body).status_code


@pytest.mark.parametrize("replace", [os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
def test_an_image_replaced_by_a_pipe_or_device_is_a_404_at_once(indexed, replace):
    server, ids, files = indexed
    for file in files[:10]:
        file.unlink()
        replace(file)
    assert_no_images(server, ids[:10])
    assert search(server) == 200


@pytest.mark.parametrize("replace", [os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
def test_a_tar_replaced_by_a_pipe_or_device_is_a_404_at_once(tmp_path, replace):
    archive = tmp_path / "images.tar"
    model = open_tiny()
    index = Index.create(tmp_path / "index.lance", model.identity)
    rows = [
        Row(uri=str(archive), member=f"{n}.png", offset=offset, bytes=100)
        for n, offset in enumerate((512, None))
    ]
    index.add(rows, model.embed_text(["cat", "a"]))
    replace(archive)
    settings = ServerSettings(indexes=(str(tmp_path / "index.lance"),))
    with running(settings, model=model) as server:
        ids = [item["id"] for item in server.client.get("/v1/items").json()["items"]]
        assert_no_images(server, ids * 5)
        assert search(server) == 200


def assert_no_images(server, ids: list[str]) -> None:
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        paths = [f"/v1/items/{key}/{what}" for key in ids for what in ("image", "thumbnail")]
        replies = list(pool.map(server.client.get, paths))
    assert {reply.status_code for reply in replies} == {404}
    assert "not a regular file" in replies[0].json()["error"]["message"]


def test_a_disk_that_does_not_answer_stops_no_search(indexed, monkeypatch):
    server, ids, _ = indexed
    is_back = threading.Event()

    def hanging(read):
        def hang(*args, **options):
            assert is_back.wait(100)
            return read(*args, **options)

        return hang

    monkeypatch.setattr(server.services.pools.files, "_timeout_seconds", 2.0)
    for name in ("read_image", "open_image"):
        monkeypatch.setattr(thumbnails, name, hanging(getattr(thumbnails, name)))
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        try:
            waiting = [pool.submit(server.client.get, f"/v1/items/{key}/image") for key in ids]
            for _ in range(10):
                assert search(server) == 200
                assert server.client.get(f"/v1/items/{ids[0]}").status_code == 200
            replies = [one.result(100) for one in waiting]
            assert {reply.status_code for reply in replies} == {503}
            assert "reads of files: not done within 2 s" in replies[0].text
            # A reply of hits with images comes without those that cannot be had in time.
            monkeypatch.setattr("perception_encoder.server.api.clip_retrieval.FILE_SECONDS", 0.0)
            body = {"text": "cat", "num_images": 12}
            hits = server.client.post("/knn-service", json=body).json()
            assert len(hits) == 12
            assert not any("image" in hit for hit in hits)
        finally:
            is_back.set()
    assert server.client.get(f"/v1/items/{ids[0]}/image").status_code == 200
