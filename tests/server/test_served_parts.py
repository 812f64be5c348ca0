"""Parts of images in requests: the same box gives the same embedding on every route."""

import asyncio
import base64
from pathlib import Path

import numpy as np
import pytest
from server.serving import data_uri, in_base64, make_index, running
from small_models import open_tiny, save_drawings

from perception_encoder.index import row_id
from perception_encoder.preprocess.crops import CropBox, CroppedImage
from perception_encoder.server import ServerSettings
from perception_encoder.server.core.images import ImageLoader

BOX = "5,0,20,15"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    return save_drawings(tmp_path_factory.mktemp("drawings"), 6)


@pytest.fixture(scope="module")
def server(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("parts")
    make_index(folder / "t.lance", open_tiny(), files)
    settings = ServerSettings(indexes=(str(folder / "t.lance"),))
    with running(settings, open_model=lambda _: open_tiny()) as running_server:
        yield running_server


def read(written: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(written), "<f4")


def terms_of(path: Path) -> dict[str, dict[str, str]]:
    data, item = path.read_bytes(), row_id(str(path))
    return {
        "image": {"image": f"{in_base64(data)}#xywh={BOX}"},
        "data URI": {"image": f"{data_uri(data)}#xywh={BOX}"},
        "image and crop": {"image": in_base64(data), "crop": BOX},
        "item": {"item": item, "crop": BOX},
        "query": {"query": f"@{item}#xywh={BOX}"},
        "name": {"query": f"@{path.name}#xywh={BOX}"},
    }


@pytest.mark.parametrize("kind", terms_of(Path(__file__)))
def test_search_takes_a_part(server, files, kind):
    path = files[2]
    reply = server.client.post("/v1/search", json={"terms": [terms_of(path)[kind]], "k": 3})
    assert reply.status_code == 200, reply.text
    expected = open_tiny().embed_image(path, crop=BOX)[0]
    np.testing.assert_allclose(read(reply.json()["query"]["vector"]), expected, atol=1e-4)
    is_left_out = row_id(str(path)) not in [hit["id"] for hit in reply.json()["hits"]]
    assert is_left_out == (kind in ("item", "query", "name"))


def test_every_route_with_images_takes_a_part(server, files):
    uri = f"{data_uri(files[1].read_bytes())}#xywh={BOX}"
    expected = open_tiny().embed_image(files[1], crop=BOX)[0]

    def post(path, **body):
        reply = server.client.post(path, json=body)
        assert reply.status_code == 200, reply.text
        return reply.json()

    found = [
        post("/v1/embed", images=[uri])["data"][0]["embedding"],
        post("/v1/embeddings", input=uri)["data"][0]["embedding"],
        post("/v1/embeddings", input=[{"image": uri}])["data"][0]["embedding"],
    ]
    for vector in found:
        np.testing.assert_allclose(vector, expected, atol=1e-4)
    same = post("/v1/similarity", a=[{"image": uri}], b=[{"image": uri}])["similarity"]
    assert same[0][0] == pytest.approx(1, abs=1e-4)
    assert post("/v1/classify", images=[uri], labels=["a cat", "a dog"])["results"][0]["labels"]


def test_an_address_may_end_in_a_box():
    class Web:
        async def fetch(self, url: str, *, item: str) -> bytes:
            assert (url, item) == ("https://example.org/a.png?b=1", "it")
            return b"data"

    loader = ImageLoader(Web(), max_bytes=100)  # type: ignore[arg-type]
    loaded = asyncio.run(loader.load(f"https://example.org/a.png?b=1#xywh={BOX}", item="it"))
    assert loaded == CroppedImage(b"data", CropBox(5, 0, 20, 15))


@pytest.mark.parametrize(
    ("term", "status", "message"),
    [
        ({"crop": "1,2"}, 400, "terms[0].crop: '1,2' is not a box"),
        ({"crop": "0,0,0,5"}, 400, "above 0"),
        ({"crop": "nan,0,5,5"}, 400, "finite"),
        ({"crop": "500,0,5,5"}, 400, "outside the image of 30 × 25 pixels"),
        ({"crop": "1" * 300}, 422, "crop"),
        ({"crop": 7}, 422, "crop"),
    ],
)
def test_a_wrong_box_is_refused(server, files, term, status, message):
    item = {"item": row_id(str(files[0])), **term}
    reply = server.client.post("/v1/search", json={"terms": [item]})
    assert reply.status_code == status
    assert message in reply.json()["error"]["message"]


def test_a_box_goes_with_one_image(server, files):
    uri = f"{data_uri(files[0].read_bytes())}#xywh={BOX}"
    for term, status in (({"text": "a cat", "crop": BOX}, 422), ({"image": uri, "crop": BOX}, 400)):
        assert server.client.post("/v1/search", json={"terms": [term]}).status_code == status
    reply = server.client.post("/v1/embed", json={"images": [f"{uri[:-4]},bad"]})
    assert reply.status_code == 400
    assert len(reply.text) < 1000  # the image itself is not repeated


def test_a_saved_search_keeps_the_part(server, files):
    item = row_id(str(files[4]))
    body = {"name": "part", "terms": [{"item": item, "crop": BOX}]}
    saved = server.client.post("/v1/indexes/t/searches/save", json=body)
    assert saved.status_code == 200, saved.text
    found = server.client.get("/v1/indexes/t/searches").json()["data"]
    assert [term["value"] for term in found[0]["terms"]] == [f"{item}#xywh={BOX}"]
    reply = server.client.post("/v1/indexes/t/searches", json={"name": "part"})
    expected = open_tiny().embed_image(files[4], crop=BOX)[0]
    np.testing.assert_allclose(read(reply.json()["query"]["vector"]), expected, atol=1e-3)
