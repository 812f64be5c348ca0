"""The routes of Roboflow's inference server: the stock SDK, and what it does not send."""

import io
import json

import cv2
import numpy as np
import pytest
from PIL import Image
from server.other_clients import REPOSITORY, run_client
from server.serving import data_uri, encoded, image, in_base64, running
from small_models import CLIP, CORE, drawing, open_tiny

from perception_encoder import AutoModel
from perception_encoder.server import ServerSettings
from perception_encoder.server.http.access import hash_key
from perception_encoder.server.http.replies import json_reply
from perception_encoder.server.options import AccessSettings, ModelSettings
from perception_encoder.vectors import cosine_similarity

KEY = "a-key-of-some-length"
SDKS = {"1.8.3": (), "1.5.0": ("sdk-1.5.0",)}
PE = "perception_encoder"
ALIASES = (("PE-Core-L14-336", "pe-nano"), ("clip/ViT-B-16", "pe-nano"))
CLOSE = 2e-5  # the same in any batch, within fp32's rounding


def image_object(data: bytes, kind: str = "base64") -> dict[str, str]:
    return {"type": kind, "value": in_base64(data)}


@pytest.fixture(scope="module")
def model():
    with AutoModel.from_pretrained("pe-nano") as nano:
        yield nano


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sent")
    (folder / "one.png").write_bytes(image(1))
    (folder / "two.jpg").write_bytes(encoded(drawing(2, 25, 50), "JPEG"))
    (folder / "three.png").write_bytes(image(3, 64, 48))
    return folder


@pytest.fixture(scope="module", params=list(SDKS))
def sdk(request, folder):
    """What a version of the SDK got from a server that serves pe-nano and wants a key."""
    settings = ServerSettings(
        models=ModelSettings(aliases=ALIASES), access=AccessSettings(key_hashes=(hash_key(KEY),))
    )
    refused: list[str] = []
    with running(
        settings, open_model=AutoModel.from_pretrained, change=busy_at_first(refused)
    ) as server:
        results = run_client(
            "roboflow_sdk.py", server.url, KEY, str(folder), first=SDKS[request.param]
        )
    assert results["version"] == request.param
    return {**results, "refused": refused}


@pytest.fixture(scope="module", params=list(SDKS))
def more(request, folder):
    """What our subclass of the SDK's client got."""
    settings = ServerSettings(access=AccessSettings(key_hashes=(hash_key(KEY),)))
    with running(settings, open_model=AutoModel.from_pretrained) as server:
        first = (REPOSITORY / "src", *SDKS[request.param])
        return run_client("roboflow_sdk_more.py", server.url, KEY, str(folder), first=first)


def busy_at_first(refused: list[str]):
    """Answer the first request for an image as a server does that is too busy."""

    def change(app):
        @app.middleware("http")
        async def refuse(request, call_next):
            if request.url.path.endswith("/embed_image") and not refused:
                refused.append(request.url.path)
                return json_reply({"message": "busy"}, status=503, headers={"Retry-After": "1"})
            return await call_next(request)

    return change


def vectors(reply):
    return np.array(reply["embeddings"])


def test_the_sdk_embeds_an_image_or_many(sdk, model, folder):
    files = [folder / name for name in ("one.png", "two.jpg", "three.png")]
    expected = model.embed_images(files)
    assert np.allclose(vectors(sdk["image"]), expected[:1], atol=CLOSE)
    for call in ("images", "concurrent"):
        got = np.concatenate([vectors(reply) for reply in sdk[call]])
        assert np.allclose(got, expected, atol=CLOSE), call
    assert [len(reply["embeddings"]) for reply in sdk["batches"]] == [2, 1]
    assert np.allclose(
        np.concatenate([vectors(one) for one in sdk["batches"]]), expected, atol=CLOSE
    )


def test_the_sdk_tries_again_where_the_server_was_busy(sdk):
    assert sdk["refused"] == [f"/{PE}/embed_image"]
    assert "embeddings" in sdk["image"]


def test_what_the_sdk_makes_jpegs_of_stays_the_same_image(sdk, model, folder):
    sent = cv2.imencode(".jpg", cv2.imread(str(folder / "one.png")))[1].tobytes()
    assert (vectors(sdk["array"]) * model.embed_images([sent])).sum() > 0.999
    with Image.open(folder / "two.jpg") as image:
        image.save(buffer := io.BytesIO(), "JPEG")
    assert (vectors(sdk["pil"]) * model.embed_images([buffer.getvalue()])).sum() > 0.999


def test_the_sdk_embeds_texts(sdk, model):
    expected = model.embed_text(["a cat", "a red heart"])
    assert np.allclose(vectors(sdk["text"]), expected[:1], atol=CLOSE)
    assert np.allclose(vectors(sdk["texts"]), expected, atol=CLOSE)
    assert sdk["text"]["frame_id"] is None
    assert sdk["text"]["time"] > 0


def test_the_sdk_asks_as_for_the_hosted_service(sdk):
    """v0: the key stands in the query, not in the body."""
    assert np.allclose(vectors(sdk["hosted_image"]), vectors(sdk["image"]), atol=CLOSE)
    assert np.allclose(vectors(sdk["hosted_text"]), vectors(sdk["text"]), atol=CLOSE)


def test_an_alias_answers_and_says_who_it_is(sdk):
    assert np.allclose(vectors(sdk["aliased"]), vectors(sdk["text"]), atol=CLOSE)
    assert sdk["aliased"]["resolved_model"]["model_id"] == "perception_encoder/pe-nano"
    assert sdk["clip_text"]["resolved_model"]["model_id"] == "perception_encoder/pe-nano"


def test_the_sdk_is_told_what_is_wrong(sdk):
    assert sdk["unknown_version"]["status"] == 404
    assert "Requested Roboflow resource not found" in sdk["unknown_version"]["message"]
    assert "perception_encoder/pe-nano" in sdk["unknown_version"]["message"]
    assert sdk["not_an_image"]["status"] == 400
    assert "Could not load input image. Cause: Data is not image." in sdk["not_an_image"]["message"]
    assert sdk["no_texts"] == {"status": 400, "message": "At least one text is required"}
    assert sdk["without_key"]["status"] == 401
    assert "Unauthorized api_key" in sdk["without_key"]["message"]


def test_the_sdk_compares_through_the_routes_of_clip(sdk, model, folder):
    subject = model.embed_images([folder / "one.png"])
    texts = model.embed_text(["a cat", "a red heart"])
    expected = cosine_similarity(subject, texts)[0]
    assert np.allclose(sdk["clip_compare"]["similarity"], expected, atol=CLOSE)
    assert sdk["clip_named"]["similarity"] == pytest.approx(
        {"cat": expected[0], "heart": expected[1]}, abs=CLOSE
    )
    assert len(sdk["clip_of_images"]["similarity"]) == 3
    assert np.allclose(sdk["clip_async"]["similarity"], expected[:1], atol=CLOSE)
    assert [len(one["embeddings"]) for one in sdk["clip_images"]] == [1, 1, 1]


def test_the_sdk_learns_about_server_and_models(sdk):
    assert set(sdk["info"]) >= {"name", "version", "uuid"}
    names = [one["model_id"] for one in sdk["loaded"]["models"]]
    assert names[:2] == ["perception_encoder/pe-nano", "perception_encoder/PE-Core-L14-336"]
    assert sdk["description"]["task_type"] == "embedding"
    assert sdk["description"]["input_height"] == 48


def test_the_sdk_reads_the_headers_of_a_cold_start(sdk):
    noted = sdk["metadata"]
    assert noted["models"] == ["perception_encoder/pe-nano"]
    assert noted["times"][0][1] > 0
    assert noted["cold_starts"][0][0] == "perception_encoder/pe-nano"


def test_our_subclass_compares_and_awaits(more, model, folder):
    images = model.embed_images([folder / "one.png", folder / "two.jpg"])
    texts = model.embed_text(["a cat", "a red heart"])
    expected = cosine_similarity(images[:1], texts)[0]
    assert np.allclose(more["texts"]["similarity"], expected, atol=CLOSE)
    assert more["named"]["similarity"].keys() == {"cat"}
    assert np.allclose(
        more["images"]["similarity"], cosine_similarity(texts[:1], images), atol=CLOSE
    )
    assert more["named_images"]["similarity"]["one"] == pytest.approx(1, abs=1e-5)
    for way in ("hosted", "in_header"):
        assert np.allclose(more[way]["similarity"], expected[:1], atol=CLOSE)
    image, text, compared = more["awaited"]
    assert np.allclose(vectors(image), images[:1], atol=CLOSE)
    assert np.allclose(vectors(text), texts, atol=CLOSE)
    assert np.allclose(compared["similarity"], expected[:1], atol=CLOSE)
    assert more["refused"][0] == 400
    assert "Could not load input image" in more["refused"][1]


@pytest.fixture(scope="module")
def server():
    settings = ServerSettings(access=AccessSettings(max_items=5))
    with running(settings) as running_server:
        yield running_server


def posted(server, path, status=200, **body):
    reply = server.client.post(path, json=body)
    assert reply.status_code == status, reply.text
    return reply.json()


def test_replies_have_the_fields_in_the_order_that_is_known(server):
    reply = posted(server, f"/{PE}/embed_text", text="a", id="mine", unknown=1, source_info="x")
    assert list(reply) == ["inference_id", "frame_id", "time", "resolved_model", "embeddings"]
    assert reply["inference_id"] == "mine"
    assert set(reply["resolved_model"]) == {
        "model_id", "model_package_id", "backend", "quantization"
    }  # fmt: skip
    compared = posted(server, f"/{PE}/compare", subject="a", subject_type="text", prompt="b")
    assert {"similarity", "parent_id", "frame_id", "time", "inference_id"} <= set(compared)


@pytest.mark.parametrize("spelling", ["base64", "BASE64"])
def test_images_are_base64_with_or_without_a_data_uri(server, spelling):
    file = image(4, 33, 21)
    expected = server.model.embed_images([file])
    for value in (in_base64(file), data_uri(file)):
        reply = posted(server, f"/{PE}/embed_image", image={"type": spelling, "value": value})
        assert np.allclose(vectors(reply), expected, atol=CLOSE)


@pytest.mark.parametrize(
    ("prompt", "prompt_type", "shape"),
    [
        ("a cat", "text", list),
        (["a cat", "b"], "text", list),
        ({"x": "a cat", "y": "b"}, "text", dict),
        ({"type": "a dog"}, "text", dict),
        (image_object(image(1)), "image", list),
        ([image_object(image(1)), image_object(image(2))], "image", list),
        ({"x": image_object(image(1)), "y": in_base64(image(2))}, "image", dict),
        (in_base64(image(1)), "image", list),
    ],
)
@pytest.mark.parametrize("subject", ["image", "text"])
def test_every_form_of_comparison(server, prompt, prompt_type, shape, subject):
    body = {"subject": image_object(image(1)) if subject == "image" else "a cat"}
    body |= {"subject_type": subject, "prompt": prompt, "prompt_type": prompt_type}
    similarity = posted(server, f"/{PE}/compare", **body)["similarity"]
    assert isinstance(similarity, shape)
    values = list(similarity.values()) if shape is dict else similarity
    if shape is dict:
        assert list(similarity) == list(prompt)
    assert all(-1 <= value <= 1 for value in values)
    same = (subject, prompt_type) == ("image", "image") or prompt in ("a cat", ["a cat", "b"])
    if same and subject == prompt_type:
        assert values[0] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("embed_image", {"image": []}, "At least one image is required"),
        ("embed_image", {"image": [in_base64(image(1))] * 6}, "at once is 5"),
        ("embed_text", {"text": ["a"] * 6}, "maximum number of texts"),
        ("embed_image", {"image": {"type": "base64", "value": "***"}}, "Malformed base64"),
        ("embed_image", {"image": {"type": "base64", "value": ""}}, "Empty image payload."),
        ("embed_image", {"image": {"type": "base64", "value": 3}}, "must be a string"),
        ("embed_image", {"image": {"type": "numpy", "value": "gASV"}}, "NumPy image type is not"),
        ("embed_image", {"image": {"type": "file", "value": "/etc/passwd"}}, "local filesystem"),
        ("embed_image", {"image": "/etc/passwd"}, "Could not load input image"),
        ("embed_image", {"image": {"type": "odd", "value": "x"}}, "not recognized image type"),
        ("embed_image", {"image": {"type": "url", "value": "a.png"}}, "without FQDN"),
        ("embed_image", {"image": {"type": "url", "value": "https://a.b/c"}}, "fetches no URLs"),
        ("embed_image", {"image": [image_object(image(1)), "***"]}, "image 1 of 2"),
        ("compare", {"subject": "a", "prompt": "b", "subject_type": "video"}, "subject_type must"),
        ("compare", {"subject": "a", "subject_type": "text", "prompt": {}}, "At least one text"),
        (
            "compare",
            {"subject": "a", "subject_type": "text", "prompt": image_object(image(1))},
            "prompt_type is 'text', but the prompt is an image",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_answered_400_and_named(server, path, body, message):
    reply = posted(server, f"/{PE}/{path}", 400, **body)
    assert message in reply["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("embed_image", {}),
        ("embed_image", {"image": {"value": "x"}}),
        ("embed_text", {"text": "a", "id": 3}),
        ("compare", {"subject": ["a"], "prompt": "b"}),
    ],
)
def test_bodies_of_a_wrong_form_are_answered_422_without_what_was_sent(server, path, body):
    reply = posted(server, f"/{PE}/{path}", 422, **body)
    assert {"type", "loc", "msg"} == set(reply["detail"][0])


@pytest.mark.parametrize("value", [None, "", "None"])
def test_without_keys_no_key_is_needed(server, value):
    posted(server, f"/{PE}/embed_text", text="a", api_key=value)
    assert server.client.post(f"/{PE}/embed_text?api_key=None", json={"text": "a"}).is_success


def test_a_key_may_come_in_header_query_or_body():
    with running(ServerSettings(access=AccessSettings(key_hashes=(hash_key(KEY),)))) as server:
        path = f"/{PE}/embed_text"
        for key, status in ((KEY, 200), ("another-long-enough-key", 401)):
            ways = [
                server.client.post(
                    path, json={"text": "a"}, headers={"Authorization": f"Bearer {key}"}
                ),
                server.client.post(f"{path}?api_key={key}", json={"text": "a"}),
                server.client.post(path, json={"text": "a", "api_key": key}),
            ]
            assert [reply.status_code for reply in ways] == [status] * 3
        assert ways[0].json()["status"] == 401
        for method, route in (("GET", "registry"), ("POST", "clear")):
            assert server.client.request(method, f"/model/{route}").status_code == 401
        assert server.client.get("/info").status_code == 200


def test_models_are_chosen_by_version_or_id_and_clip_is_not_mixed_up():
    names = ("pe-nano", "perception-encoder/PE-Core-B16-224", "clip/ViT-B-32")
    tiny = dict(zip(names, (CORE, CORE, CLIP), strict=True))
    with running(
        ServerSettings(models=ModelSettings(names=names, preload=False)),
        open_model=lambda name: open_tiny(tiny[name]),
    ) as server:

        def answers(path, **body):
            reply = server.client.post(path, json={"text": "a", **body})
            return reply.headers.get("x-model-id", reply.status_code)

        text, clip_text = f"/{PE}/embed_text", "/clip/embed_text"
        assert answers(text) == f"{PE}/pe-nano"
        for version in ("PE-Core-B16-224", "perception-encoder/PE-Core-B16-224"):
            assert answers(text, perception_encoder_version_id=version) == f"{PE}/PE-Core-B16-224"
            assert answers(text, model_id=version) == f"{PE}/PE-Core-B16-224"
        assert (
            answers(text, model_id=f"{PE}/PE-Core-B16-224", perception_encoder_version_id="pe-nano")
            == f"{PE}/pe-nano"
        )
        assert answers(clip_text) == 404  # ViT-B-16 is meant, and no other CLIP stands for it
        assert answers(clip_text, clip_version_id="ViT-B-32") == "clip/ViT-B-32"
        assert answers(text, perception_encoder_version_id="PE-Core-G14-448") == 404


def test_models_are_loaded_and_unloaded():
    with running(
        ServerSettings(models=ModelSettings(preload=False)), open_model=lambda _: open_tiny()
    ) as server:

        def loaded(method, path, **body):
            reply = server.client.request(method, f"/model/{path}", json=body or None)
            assert reply.status_code == 200, reply.text
            return [one["model_id"] for one in reply.json()["models"]]

        assert loaded("GET", "registry") == []
        reply = server.client.post(f"/{PE}/embed_text", json={"text": "a"})
        assert reply.headers["x-model-cold-start"] == "true"
        assert json.loads(reply.headers["x-model-load-details"])[0]["m"] == f"{PE}/pe-nano"
        reply = server.client.post(f"/{PE}/embed_text", json={"text": "a"})
        assert reply.headers["x-model-cold-start"] == "false"
        assert loaded("POST", "clear") == []
        assert loaded("POST", "add", model_id=f"{PE}/pe-nano") == [f"{PE}/pe-nano"]
        assert loaded("POST", "remove", model_id="pe-nano") == []
        assert server.client.post("/model/add", json={"model_id": "coco/3"}).status_code == 404


def test_an_alias_must_name_a_model_and_be_no_models_name():
    for alias in (("x", "nothing"), ("pe-nano", "pe-nano")):
        with (
            pytest.raises(ValueError, match=r"alias|cannot stand"),
            running(ServerSettings(models=ModelSettings(aliases=(alias,)))),
        ):
            pass


def test_an_alpha_channel_that_hides_nothing_changes_nothing(server):
    with_alpha = encoded(drawing(5).convert("RGBA"))
    plain = encoded(drawing(5))
    reply = posted(
        server, f"/{PE}/embed_image", image=[image_object(with_alpha), image_object(plain)]
    )
    assert np.allclose(*vectors(reply), atol=CLOSE)
