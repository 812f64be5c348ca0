"""POST /predict and GET /ping as Immich's server uses them.

The forms are those that Node's `fetch` (undici of Node 20.20) made of a `FormData` that was filled
as in `machine-learning.repository.ts` of Immich 3: `entries`, then `image` as a Blob or `text`.
"""

import contextlib
import dataclasses
import email
import http.server
import io
import json
import socket
import threading
from typing import Any, ClassVar

import numpy as np
import pytest
from server.hostile import VALUES, check_reply, error_forms, paths_of, replaced
from server.serving import encoded, image, running
from small_models import CORE, drawing, open_tiny

from perception_encoder.server import ServerSettings
from perception_encoder.server.app import create_app
from perception_encoder.server.http.access import hash_key
from perception_encoder.server.options import AccessSettings, ImageSettings, ModelSettings

CLOSE = 2e-5
NAME = "ViT-B-32__openai"
BOUNDARY = "----formdata-undici-004388222895"
HEADERS = {
    "content-type": f"multipart/form-data; boundary={BOUNDARY}",
    "accept": "*/*", "accept-language": "*", "sec-fetch-mode": "cors", "user-agent": "node",
}  # fmt: skip
VISUAL = {"clip": {"visual": {"modelName": NAME}}}
TEXTUAL = {"clip": {"textual": {"modelName": NAME, "options": {"language": "de"}}}}
FACES = {
    "facial-recognition": {
        "detection": {"modelName": "buffalo_l", "options": {"minScore": 0.7}},
        "recognition": {"modelName": "buffalo_l"},
    }
}
OCR = {
    "ocr": {
        "detection": {
            "modelName": "PP-OCRv5_mobile", "options": {"minScore": 0.5, "maxResolution": 736}
        },
        "recognition": {"modelName": "PP-OCRv5_mobile", "options": {"minScore": 0.8}},
    }
}  # fmt: skip


class Machine(http.server.BaseHTTPRequestHandler):
    """Immich's own machine-learning server, which replies what a test wants."""

    replies: ClassVar[list[tuple[int, bytes]]] = []
    asked: ClassVar[list[tuple[str, str, bytes]]] = []

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append((self.path, self.headers["Content-Type"], body))
        status, content = self.replies[-1]
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(OSError):  # too much is not read to its end
            self.wfile.write(content)

    def log_message(self, *_):
        """Print nothing."""


@pytest.fixture(scope="module")
def machine():
    """The address of such a server."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Machine) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_address[1]}/any/path"
        listening.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def passing_server(machine):
    """A server that passes other tasks on to that one."""
    models = ModelSettings(aliases=((NAME, "pe-nano"),))
    with running(ServerSettings(models=models, immich_ml=machine)) as running_server:
        yield running_server


@pytest.fixture(scope="module")
def server():
    settings = ServerSettings(models=ModelSettings(aliases=((NAME, "pe-nano"),)))
    with running(settings) as running_server:
        yield running_server


def part(name: str, content: bytes, *, is_file: bool = False) -> bytes:
    more = '; filename="blob"\r\nContent-Type: application/octet-stream' if is_file else ""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def form(entries, *parts: bytes) -> bytes:
    written = entries if isinstance(entries, str) else json.dumps(entries, separators=(",", ":"))
    end = f"--{BOUNDARY}--\r\n".encode()
    return b"".join([part("entries", written.encode()), *parts, end])


def blob(data: bytes) -> bytes:
    return part("image", data, is_file=True)


def predict(server, entries, *parts: bytes):
    return server.client.post("/predict", content=form(entries, *parts), headers=HEADERS)


def embedding_of(reply, dimension=512):
    """The numbers that Immich's database would read."""
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "application/json"
    written = reply.json()["clip"]
    assert isinstance(written, str)
    vector = np.array(json.loads(written), np.float32)
    assert vector.shape == (dimension,)
    return vector


def test_the_health_check_is_answered_as_by_immichs_own_server(server):
    reply = server.client.get("/ping", headers={"sec-fetch-mode": "cors", "user-agent": "node"})
    assert (reply.status_code, reply.text) == (200, "pong")
    assert reply.headers["content-type"].startswith("text/plain")


def test_a_server_whose_models_are_not_loaded_is_unhealthy(server, monkeypatch):
    monkeypatch.setattr(server.services.served_models, "is_ready", False)
    assert server.client.get("/ping").status_code == 503


def test_an_image_is_embedded_and_measured(server):
    reply = predict(server, VISUAL, blob(image(1, 50, 30)))
    expected = server.model.embed_images([image(1, 50, 30)])[0]
    vector = embedding_of(reply)
    assert np.allclose(vector[:24], expected, atol=CLOSE)
    assert not vector[24:].any()
    assert {**reply.json(), "clip": ""} == {"clip": "", "imageHeight": 30, "imageWidth": 50}


def test_a_text_is_embedded(server):
    reply = predict(server, TEXTUAL, part("text", 'a "cat"\r\né'.encode()))
    expected = server.model.embed_text('a "cat"\r\né')[0]
    assert np.allclose(embedding_of(reply)[:24], expected, atol=CLOSE)
    assert set(reply.json()) == {"clip"}


def test_a_size_is_that_of_the_upright_image(server):
    turned = drawing(1, 50, 30)
    exif = turned.getexif()
    exif[0x0112] = 6
    out = io.BytesIO()
    turned.save(out, "JPEG", exif=exif)
    reply = predict(server, VISUAL, blob(out.getvalue())).json()
    assert (reply["imageHeight"], reply["imageWidth"]) == (50, 30)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_previews_of_either_format_are_read(server, kind):
    assert predict(server, VISUAL, blob(encoded(drawing(2), kind))).status_code == 200


@pytest.mark.parametrize("entries", [FACES, OCR, {**VISUAL, **FACES}, {**FACES, **OCR}])
def test_faces_and_text_in_images_are_refused_by_name(server, entries):
    """Immich logs the status with its reason, and asks the next of its URLs."""
    reply = predict(server, entries, blob(image(1)))
    assert (reply.status_code, reply.reason_phrase) == (501, "Not Implemented")
    for task in entries.keys() - {"clip"}:
        assert task in reply.json()["detail"]


FOUND = {"facial-recognition": [{"score": 0.9}], "imageHeight": 30, "imageWidth": 40}


def asked_of_the_machine():
    """The path, entries and file of the request that the machine got last."""
    path, kind, body = Machine.asked[-1]
    message: Any = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
    entries, file = message.get_payload()
    return path, json.loads(entries.get_payload()), file.get_filename(), file.get_payload()


def test_other_tasks_are_passed_on_to_immichs_own_server(passing_server):
    Machine.replies.append((200, json.dumps(FOUND).encode()))
    reply = predict(passing_server, FACES, blob(b"any bytes"))
    assert (reply.status_code, reply.json()) == (200, FOUND)
    assert asked_of_the_machine() == ("/predict", FACES, "blob", "any bytes")


def test_a_request_of_several_tasks_is_answered_by_both(passing_server):
    Machine.replies.append((200, json.dumps({**FOUND, "clip": "[1]"}).encode()))
    reply = predict(passing_server, {**VISUAL, **FACES}, blob(image(1)))
    expected = passing_server.model.embed_images([image(1)])[0]
    assert np.allclose(embedding_of(reply)[:24], expected, atol=CLOSE)
    assert {**reply.json(), "clip": ""} == {**FOUND, "clip": ""}
    assert asked_of_the_machine()[1] == FACES
    assert b"\r\n\r\n" + image(1) + b"\r\n--" in Machine.asked[-1][2]


def test_embeddings_are_never_passed_on(passing_server):
    count = len(Machine.asked)
    embedding_of(predict(passing_server, VISUAL, blob(image(1))))
    unknown = {"clip": {"visual": {"modelName": "RN50__openai"}}}
    assert predict(passing_server, unknown, blob(image(1))).status_code == 404
    assert predict(passing_server, {**unknown, **FACES}, blob(image(1))).status_code == 404
    assert len(Machine.asked) == count


@pytest.mark.parametrize("value", ["NaN", "9" * 5000, '"\\ud800"', "[" * 500])
def test_options_that_are_no_json_are_not_passed_on(passing_server, value):
    count = len(Machine.asked)
    entries = json.dumps(OCR).replace("736", value)
    reply = predict(passing_server, entries, blob(image(1)))
    assert (reply.status_code, len(Machine.asked)) == (422, count)
    assert reply.json()["detail"].startswith("entries: no valid JSON")


@pytest.mark.parametrize(
    ("status", "content", "said"),
    [
        (500, b'{"detail": "no model"}', 'answered 500: {"detail": "no model"}'),
        (404, b"\xff" * 5000, "answered 404"),
        (200, b"not json", "not JSON"),
        (200, b'{"a": NaN}', "not JSON"),
        (200, b"[]", "no JSON object"),
        (200, b"[" + b" " * 2**24 + b"]", "more than 16,777,216 bytes"),
    ],
    ids=["500", "404", "text", "NaN", "list", "huge"],
)
def test_a_failure_of_immichs_own_server_is_told(passing_server, status, content, said):
    Machine.replies.append((status, content))
    reply = predict(passing_server, OCR, blob(image(1)))
    assert reply.status_code == 502
    assert said in reply.json()["detail"]
    assert len(reply.content) < 2000


def test_a_server_that_cannot_be_reached_is_named():
    with socket.socket() as taken:  # has a port, and does not listen
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with running(ServerSettings(immich_ml=url)) as server:
            reply = predict(server, FACES, blob(image(1)))
    assert reply.status_code == 502
    assert f"{url}/predict cannot be reached" in reply.json()["detail"]


@pytest.mark.parametrize(
    "url", ["", "immich:3003", "ftp://a", "http://", "http://a:99999", "x://["]
)
def test_an_address_that_is_none_is_refused_at_the_start(url):
    with pytest.raises(ValueError, match="immich-machine-learning:3003"):
        create_app(ServerSettings(immich_ml=url), open_model=open_wide)


@pytest.mark.parametrize(
    ("parts", "status", "said"),
    [
        (form(VISUAL), 400, "an image or a text"),
        (form(VISUAL, part("text", b"a")), 400, "visual with an image"),
        (form(TEXTUAL, blob(image(1))), 400, "textual with a text"),
        (form({"clip": {**VISUAL["clip"], **TEXTUAL["clip"]}}, blob(image(1))), 400, "one model"),
        (form({"clip": {}}, blob(image(1))), 400, "one model"),
        (form({"clip": {"visual": {"modelName": "RN50__openai"}}}, blob(b"")), 404, "--alias RN50"),
        (form(VISUAL, blob(image(1)), blob(image(2))), 400, "several parts 'image'"),
        (form(VISUAL, part("image", image(1)[:8])), 400, "an image is a file"),
        (form(VISUAL, blob(b"")), 400, "zero bytes"),
        (form(VISUAL, blob(b"no image at all")), 400, "image:"),
        (form(VISUAL, blob(image(1)[:90])), 400, "image:"),
        (form(TEXTUAL, part("text", b"a" * (2**20 + 1))), 400, "1,048,576"),
        (form(TEXTUAL, part("text", b"data:image/png;base64,AAAA")), 400, "not a text"),
        (form("{", blob(image(1))), 422, "entries"),
        (form("[]", blob(image(1))), 422, "entries"),
        (form("{}", blob(image(1))), 422, "entries"),
        (form('{"clip": {"visual": {}}}', blob(image(1))), 422, "modelName"),
        (form("", blob(image(1))), 400, "entries"),
        (form(" " * 20_000, blob(image(1))), 400, "16,384"),
        (b"--" + BOUNDARY.encode() + b"--\r\n", 400, "entries"),
        (form(VISUAL, blob(image(1)))[:-40], 400, "cut off"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_said(server, parts, status, said):
    reply = server.client.post("/predict", content=parts, headers=HEADERS)
    assert reply.status_code == status, reply.text
    assert said in reply.json()["detail"]


def test_a_name_may_have_the_organization_before_it(server):
    entries = {"clip": {"textual": {"modelName": f"immich-app/{NAME}"}}}
    embedding_of(predict(server, entries, part("text", b"a")))


def open_wide(_):
    return open_tiny(dataclasses.replace(CORE, embed_dim=512))


def test_a_model_of_the_dimension_that_immich_expects_is_used_as_it_is():
    settings = ServerSettings(models=ModelSettings(aliases=((NAME, "pe-nano"),)))
    with running(settings, open_model=open_wide) as server:
        vector = embedding_of(predict(server, TEXTUAL, part("text", b"a cat")))
    assert vector[-1] != 0
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_a_model_of_another_dimension_is_refused_where_immich_has_a_name_for_that():
    settings = ServerSettings(models=ModelSettings(aliases=(("ViT-L-14__openai", "pe-nano"),)))
    with running(settings, open_model=open_wide) as server:
        entries = {"clip": {"textual": {"modelName": "ViT-L-14__openai"}}}
        reply = predict(server, entries, part("text", b"a cat"))
    assert reply.status_code == 400
    assert "have 512 dimensions, and Immich expects 768" in reply.json()["detail"]
    assert NAME in reply.json()["detail"]


@pytest.mark.parametrize(
    ("alias", "model", "said"),
    [
        (NAME, "PE-Core-B16-224", "1024 dimensions, and Immich expects 512; .*ViT-H-14__laion2b"),
        ("ViT-H-14__laion2b-s32b-b79k", "PE-Core-S16-384", "choose .*ViT-B-32__openai"),
        ("ViT-SO400M-14-SigLIP2__webli", "PE-Core-G14-448", "choose .*ViT-gopt-16-SigLIP2-384"),
    ],
)
def test_an_alias_that_does_not_fit_is_refused_at_the_start(alias, model, said):
    models = ModelSettings(names=(model,), aliases=((alias, model),))
    with pytest.raises(ValueError, match=said):
        create_app(ServerSettings(models=models), open_model=open_wide)


@pytest.mark.parametrize(
    ("alias", "model"),
    [
        (NAME, "PE-Core-T16-384"), (NAME, "PE-Core-S16-384"), (NAME, "clip/ViT-B-32"),
        ("ViT-H-14__laion2b-s32b-b79k", "PE-Core-B16-224"),
        ("ViT-H-14__laion2b-s32b-b79k", "PE-Core-L14-336"),
        ("ViT-gopt-16-SigLIP2-384__webli", "PE-Core-G14-448"),
        ("text-embedding-3-small", "PE-Core-B16-224"),
    ],
)  # fmt: skip
def test_the_names_of_the_guide_fit(alias, model):
    models = ModelSettings(names=(model,), aliases=((alias, model),))
    create_app(ServerSettings(models=models), open_model=open_wide)


def test_a_key_is_asked_for_by_predict_and_not_by_ping():
    access = AccessSettings(key_hashes=(hash_key("a-key-of-some-length"),))
    with running(ServerSettings(access=access)) as server:
        assert server.client.get("/ping").status_code == 200
        reply = predict(server, TEXTUAL, part("text", b"a"))
        assert reply.status_code == 401
        assert "Bearer" in reply.json()["detail"]


def test_limits_are_those_of_other_routes():
    access = AccessSettings(max_body_bytes=20_000)
    images = ImageSettings(max_bytes=1000, max_pixels=2000)
    models = ModelSettings(aliases=((NAME, "pe-nano"),))
    model = open_tiny()
    model.processor.max_pixels = 2000
    settings = ServerSettings(models=models, access=access, images=images)
    with running(settings, model=model) as server:
        assert predict(server, VISUAL, blob(bytes(30_000))).status_code == 413
        assert "limit of 1,000" in predict(server, VISUAL, blob(bytes(2000))).json()["detail"]
        large = predict(server, VISUAL, blob(encoded(drawing(1).resize((1, 2001)).convert("1"))))
        assert large.status_code == 400
        assert "the limit is 2000" in large.json()["detail"]


def test_no_value_in_entries_is_the_servers_fault(server):
    document = server.client.get("/openapi.json").json()
    errors = error_forms(document)("POST", "/predict")
    for place in paths_of(TEXTUAL):
        for value in VALUES[len(place) % 2 :: 2]:
            entries = replaced(TEXTUAL, place, value)
            reply = predict(server, entries, part("text", b"a cat"))
            if reply.status_code != 501:
                check_reply(reply, (place, value[:100]), errors)


def test_the_reply_is_as_described(server):
    import jsonschema

    document = server.client.get("/openapi.json").json()
    schema = {"$ref": "#/components/schemas/ImmichReply", "components": document["components"]}
    validator = jsonschema.Draft202012Validator(schema)
    for reply in (
        predict(server, VISUAL, blob(image(1))),
        predict(server, TEXTUAL, part("text", b"a")),
    ):
        assert list(validator.iter_errors(reply.json())) == []
