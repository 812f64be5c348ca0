"""Bodies that are cut off, or that do not come at all, are no smaller requests."""

import socket

import numpy as np
import pytest
from server.serving import image, running

KIND = "multipart/form-data; boundary=b"


@pytest.fixture(scope="module")
def server():
    with running() as running_server:
        yield running_server


def part(name: str, content: bytes, *, is_file: bool = False) -> bytes:
    file = '; filename="a.png"' if is_file else ""
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
    return head.encode() + content + b"\r\n"


TEXT, IMAGE = part("texts", b"a cat"), part("images", image(1), is_file=True)
WHOLE = TEXT + IMAGE + b"--b--\r\n"


def post(server, content: bytes, kind: str = KIND):
    return server.client.post("/v1/embed", content=content, headers={"Content-Type": kind})


@pytest.mark.parametrize("more", [b"", b"what follows the final boundary"], ids=["", "more"])
def test_a_whole_form_is_answered(server, more):
    for content in (WHOLE[:-2] + more, WHOLE + more):
        reply = post(server, content)
        got = [one["embedding"] for one in reply.json()["data"]]
        expected = [server.model.embed_images([image(1)])[0], server.model.embed_text("a cat")[0]]
        assert np.allclose(got, expected, atol=2e-5)


def test_a_form_that_is_cut_off_anywhere_is_refused(server):
    """Also between parts, where what came so far is a smaller form."""
    places = [*range(0, len(WHOLE) - 2, 7), len(TEXT), len(TEXT + IMAGE), len(WHOLE) - 3]
    for length in places:
        reply = post(server, WHOLE[:length])
        assert reply.status_code == 400, length
        assert "multipart" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (WHOLE, "multipart/form-data"),
        (WHOLE, "multipart/form-data; boundary=other"),
        (b"--b--\r\n", KIND),
        (part("model", b"pe-nano") + b"--b--\r\n", KIND),
        (b"--b\r\nContent-Disposition: form-data\r\n\r\na\r\n--b--\r\n", KIND),
        (b"--b\r\nno header\r\n\r\na\r\n--b--\r\n", KIND),
        (part("other", b"a", is_file=True) + b"--b--\r\n", KIND),
        (b"texts=a", KIND),
    ],
)
def test_a_form_of_nothing_that_can_be_embedded_is_refused(server, content, kind):
    assert post(server, content, kind).status_code == 400


BODIES = (
    "/v1/embed", "/v1/similarity", "/v1/classify", "/v1/search", "/v1/embeddings", "/embed", "/",
    "/clip/embed_image", "/clip/embed_text", "/clip/compare", "/perception_encoder/embed_image",
    "/model/add", "/model/remove", "/knn-service", "/metadata",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["application/json", "image/png", KIND, ""])
@pytest.mark.parametrize("path", BODIES)
def test_no_body_is_refused(server, path, kind):
    reply = server.client.post(path, headers={"Content-Type": kind} if kind else {})
    assert reply.status_code == 400


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("headers", "content"),
    [
        (b"Content-Length: 100", b'{"texts": ["a"], "inputs": "a", "input": "a"}'),
        (b"Transfer-Encoding: chunked", b'4\r\n{"te\r\n'),
        (b"Transfer-Encoding: chunked", b'40\r\n{"te'),
        (b"Transfer-Encoding: chunked", b'2\r\n{"texts": ["a"]}\r\n0\r\n\r\n'),
    ],
    ids=["shorter than announced", "no last chunk", "a chunk cut off", "a chunk too long"],
)
def test_a_body_that_ends_early_is_not_answered(server, path, headers, content):
    """It is refused, or the connection closed."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=100) as client:
        client.sendall(head + headers + b"\r\n\r\n" + content)
        client.shutdown(socket.SHUT_WR)
        try:
            reply = client.recv(12)
        except ConnectionError:
            reply = b""
    assert reply in (b"", b"HTTP/1.1 400")
