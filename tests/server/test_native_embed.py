"""POST /v1/embed, /v1/similarity, /v1/classify and GET /v1/models."""

import base64
import io

import numpy as np
import pytest
from server.serving import data_uri, encoded, image, in_base64, running
from small_models import CORE, WITHOUT_TEXT, drawing, open_tiny

from perception_encoder import AutoModel
from perception_encoder.preprocess import ImageProcessor
from perception_encoder.server import ServerSettings
from perception_encoder.server.options import AccessSettings, ImageSettings, ModelSettings
from perception_encoder.vectors import normalize_rows

FILES = [image(1), image(2, 25, 50), encoded(drawing(3, 64, 48), "JPEG")]
B16 = "perception-encoder/PE-Core-B16-224"
CLOSE = 2e-5  # the same in any batch, within fp32's rounding


@pytest.fixture(scope="module")
def server():
    settings = ServerSettings(
        access=AccessSettings(max_items=50, max_body_bytes=2_000_000),
        images=ImageSettings(max_bytes=1_000_000, max_pixels=100_000),
    )
    processor = ImageProcessor(CORE.image, CORE.vision.image_size, max_pixels=100_000)
    with running(settings, model=open_tiny(processor=processor)) as running_server:
        yield running_server


def embedded(server, **body):
    reply = server.client.post("/v1/embed", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def vectors(reply, kind="image"):
    return np.array([one["embedding"] for one in reply["data"] if one["type"] == kind])


def test_images_may_come_as_base64_data_uris_files_or_a_body(server):
    expected = server.model.embed_images(FILES)
    as_json = embedded(
        server, images=[in_base64(FILES[0]), data_uri(FILES[1]), data_uri(FILES[2], "text/html")]
    )
    assert np.allclose(vectors(as_json), expected, atol=CLOSE)
    assert [one["index"] for one in as_json["data"]] == [0, 1, 2]
    url_safe = base64.urlsafe_b64encode(FILES[0]).decode().rstrip("=")
    assert np.allclose(vectors(embedded(server, images=[url_safe])), expected[:1], atol=CLOSE)
    broken_lines = base64.encodebytes(FILES[0]).decode()
    assert np.allclose(vectors(embedded(server, images=[broken_lines])), expected[:1], atol=CLOSE)
    files = [("images", (f"{n}.png", file)) for n, file in enumerate(FILES)]
    reply = server.client.post("/v1/embed", files=files, data={"texts": ["a", "b"]})
    assert np.allclose(vectors(reply.json()), expected, atol=CLOSE)
    assert vectors(reply.json(), "text").shape == (2, 24)
    one = server.client.post(
        "/v1/embed", content=FILES[1], headers={"Content-Type": "image/png"}
    ).json()
    assert np.allclose(vectors(one), expected[1:2], atol=CLOSE)


def test_texts(server):
    texts = ["a cat", "", "a very long text " * 20, "猫 🐈"]
    got = vectors(embedded(server, texts=texts), "text")
    assert np.allclose(got, server.model.embed_text(texts), atol=CLOSE)


@pytest.mark.parametrize("dimensions", [1, 7, 24])
def test_shorter_vectors_have_unit_length(server, dimensions):
    got = vectors(embedded(server, images=[in_base64(FILES[0])], dimensions=dimensions))
    whole = server.model.embed_images(FILES[:1])
    assert np.allclose(got, normalize_rows(whole[:, :dimensions]), atol=10 * CLOSE)
    assert np.allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-5), ("float16", 1e-3), ("int8", 0.01)])
@pytest.mark.parametrize("encoding", ["float", "base64", "npy"])
@pytest.mark.parametrize("dimensions", [None, 10])
def test_every_form_of_a_vector_points_the_same_way(server, dtype, limit, encoding, dimensions):
    body = {
        "images": [in_base64(file) for file in FILES],
        "texts": ["a cat"],
        "dtype": dtype,
        "encoding": encoding,
        "dimensions": dimensions,
    }
    reply = server.client.post("/v1/embed", json=body)
    if encoding == "npy":
        assert reply.headers["content-type"] == "application/octet-stream"
        got = np.load(io.BytesIO(reply.content), allow_pickle=False)
        assert got.dtype == dtype
    elif encoding == "base64":
        got = np.array(
            [
                np.frombuffer(base64.b64decode(one["embedding"]), dtype)
                for one in reply.json()["data"]
            ]
        )
    else:
        got = np.array([one["embedding"] for one in reply.json()["data"]])
    if dtype == "int8":
        assert (np.abs(got.astype(int)).max(axis=1) == 127).all()
    whole = np.concatenate([server.model.embed_images(FILES), server.model.embed_text("a cat")])
    expected = normalize_rows(whole[:, :dimensions])
    cosines = (normalize_rows(got.astype(np.float32)) * expected).sum(axis=1)
    assert (cosines > 1 - limit).all()


def test_bad_images_are_named_by_their_place(server):
    bad = {
        1: "not base64!",
        2: data_uri(b"no image at all"),
        4: "",
        5: "data:image/png;base64",
        6: data_uri(FILES[0][:60]),
        7: in_base64(encoded(drawing(1, 500, 400))),
        8: "/etc/passwd",
        9: "file:///etc/passwd",
        10: in_base64(b"\x80\x04\x95"),
        11: "https://example.com/a.png",
    }
    images = [bad.get(n, in_base64(FILES[0])) for n in range(12)]
    reply = server.client.post("/v1/embed", json={"images": images})
    assert reply.status_code == 400
    items = reply.json()["error"]["items"]
    assert [item["index"] for item in items] == sorted(bad)
    assert all(f"image {item['index']}" in item["message"] for item in items)
    reported = embedded(server, images=images, on_error="report")["data"]
    assert [one["index"] for one in reported if "error" in one] == sorted(bad)
    good = [one["embedding"] for one in reported if "error" not in one]
    assert np.allclose(good, server.model.embed_images(FILES[:1]), atol=CLOSE)
    codes = {one["index"]: one["error"]["code"] for one in reported if "error" in one}
    assert codes[7] == "image_too_large"


def test_a_bomb_is_refused_from_its_header(server):
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (60_000).to_bytes(4, "big") * 2
    reply = server.client.post("/v1/embed", json={"images": [in_base64(header + bytes(30))]})
    assert reply.status_code == 400


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"texts": ["a"] * 51}, 400, "too_many_items"),
        ({"texts": ["a"], "model": "another"}, 404, "unknown_model"),
        ({"texts": ["a"], "dimensions": 25}, 400, "too_many_dimensions"),
        ({"texts": ["a"], "dimensions": -1}, 422, "invalid_request"),
        ({"texts": "a"}, 422, "invalid_request"),
        ({"texts": ["a"], "color": 1}, 422, "invalid_request"),
        ([], 422, "invalid_request"),
        ({"images": ["A" * 2_100_000]}, 413, "too_large"),
        ({"images": ["A" * 1_400_000]}, 400, "invalid_image_reference"),
    ],
)
def test_what_cannot_be_done_is_said(server, body, status, code):
    reply = server.client.post("/v1/embed", json=body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)


def test_a_body_without_announced_size_is_limited_while_it_is_read(server):
    def parts():
        for _ in range(100):
            yield b"x" * 100_000

    reply = server.client.post("/v1/embed", content=parts())
    assert reply.status_code == 413


def test_nothing_gives_nothing(server):
    assert embedded(server)["data"] == []


def test_similarity(server):
    body = {
        "a": [{"image": in_base64(FILES[0])}, {"text": "a cat"}],
        "b": [{"text": "a cat"}, {"image": in_base64(FILES[1])}, {"image": in_base64(FILES[0])}],
    }
    got = server.client.post("/v1/similarity", json=body).json()["similarity"]
    image, other = server.model.embed_images(FILES[:2])
    text = server.model.embed_text("a cat")[0]
    expected = server.model.similarity([image, text], [text, other, image])
    assert np.allclose(got, expected, atol=CLOSE)
    body["b"][1] = {"image": "***"}
    reply = server.client.post("/v1/similarity", json=body)
    assert reply.json()["error"]["items"][0]["index"] == 3
    both = {"a": [{"text": "a", "image": "b"}], "b": [{}]}
    assert server.client.post("/v1/similarity", json=both).status_code == 422


def test_classify(server):
    body = {"images": [in_base64(FILES[0]), "***"], "labels": ["cat", "a c", "t"]}
    results = server.client.post("/v1/classify", json=body).json()["results"]
    scores = server.model.similarity(
        server.model.embed_images(FILES[:1]), server.model.embed_text(body["labels"])
    )[0]
    powers = np.exp(server.model.logit_scale * (scores - scores.max()))
    expected = dict(zip(body["labels"], powers / powers.sum(), strict=True))
    found = {one["label"]: one["probability"] for one in results[0]["labels"]}
    assert found == pytest.approx(expected, abs=1e-3)
    assert [one["score"] for one in results[0]["labels"]] == sorted(
        (one["score"] for one in results[0]["labels"]), reverse=True
    )
    assert {one["fit"] for one in results[0]["labels"]} <= {"strong", "weak", "none"}
    assert "image 1" in results[1]["error"]["message"]
    body |= {"images": body["images"][:1], "templates": ["a {}", "{} c"]}
    assert server.client.post("/v1/classify", json=body).status_code == 200
    body["templates"] = ["nothing"]
    assert server.client.post("/v1/classify", json=body).status_code == 400


def test_one_label_fits_or_does_not(gallery):
    model = AutoModel.from_pretrained("pe-nano")
    with running(open_model=lambda _: model) as server:
        images = [in_base64((gallery / f"{name}.webp").read_bytes()) for name in ("cat", "padlock")]
        body = {"images": images, "labels": ["cat"]}
        results = server.client.post("/v1/classify", json=body).json()["results"]
    assert [one["labels"][0]["probability"] for one in results] == [1, 1]
    assert [one["labels"][0]["fit"] for one in results] == ["strong", "none"]


def test_models_are_opened_when_asked_for_and_named_as_the_registry_does():
    opened: list[str] = []

    def open_model(spec: str):
        opened.append(spec)
        if spec == "clip/ViT-B-32":
            raise OSError("no such weights")
        return open_tiny(WITHOUT_TEXT) if spec == "pe-nano" else open_tiny()

    models = ModelSettings(names=("PE-Core-B16-224", "pe-nano", "clip/ViT-B-32"), preload=False)
    with running(ServerSettings(models=models), open_model=open_model) as server:
        assert opened == []
        listed = server.client.get("/v1/models").json()["data"]
        assert [one["id"] for one in listed] == [B16, "pe-nano", "clip/ViT-B-32"]
        assert not any(one["loaded"] for one in listed)
        reply = embedded(server, texts=["a"], model="perception_encoder/PE-Core-B16-224")
        assert (reply["model"], opened) == (B16, ["PE-Core-B16-224"])
        embedded(server, texts=["a"])
        assert opened == ["PE-Core-B16-224"]
        reply = server.client.post("/v1/embed", json={"texts": ["a"], "model": "pe-nano"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "unsupported_by_model")
        reply = server.client.post("/v1/embed", json={"texts": ["a"], "model": "clip/ViT-B-32"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "model_unavailable")
        for name in ("clip/ViT-L-14", "/etc/passwd", "../x", ""):
            reply = server.client.post("/v1/embed", json={"texts": ["a"], "model": name})
            assert reply.status_code == 404, name
        assert server.client.get("/v1/models/pe-nano").json()["loaded"]
        assert server.client.get("/healthz").status_code == 503  # one of them cannot answer
