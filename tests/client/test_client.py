"""The client against a real server: the same vectors as the library, and what goes wrong."""

import asyncio
import socket

import numpy as np
import pytest
from fastapi import Response
from PIL import Image
from server.serving import data_uri, image, make_index, running
from small_models import open_tiny, save_drawings

from perception_encoder.client import AsyncClient, Client, ClientOptions, SearchRequest
from perception_encoder.errors import ImageNotFoundError, RemoteError
from perception_encoder.server import ServerSettings
from perception_encoder.server.http.access import hash_key
from perception_encoder.server.http.replies import json_reply
from perception_encoder.server.options import AccessSettings
from perception_encoder.vectors import normalize_rows

KEY = "a-key-of-some-length"
OPTIONS = ClientOptions(api_key=KEY, batch_size=3, num_connections=2)
CLOSE = 2e-5  # the same in any batch, within fp32's rounding


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def files(folder):
    return save_drawings(folder, 10)


@pytest.fixture(scope="module")
def server(folder, files):
    index = make_index(folder / "drawings.lance", open_tiny(), files)
    settings = ServerSettings(
        indexes=(str(index.path),), access=AccessSettings(key_hashes=(hash_key(KEY),))
    )
    with running(settings, open_model=lambda _: open_tiny()) as running_server:
        yield running_server


class Waiting:
    """An `AsyncClient` whose methods are waited for."""

    def __init__(self, url, options):
        self._loop = asyncio.new_event_loop()
        self._client = AsyncClient(url, options)

    def __getattr__(self, name):
        method = getattr(self._client, name)
        return lambda *args, **wanted: self._loop.run_until_complete(method(*args, **wanted))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
        self._loop.close()


@pytest.fixture(params=[Client, Waiting], ids=["sync", "async"])
def kind(request):
    return request.param


@pytest.fixture
def client(kind, server):
    with kind(server.url, OPTIONS) as one:
        yield one


def test_images_of_any_kind_come_back_in_order(client, files):
    with Image.open(files[4]) as opened:
        images = [*files[:4], opened.copy(), str(files[5]), files[6].read_bytes()]
    expected = open_tiny().embed_images(files[:7])
    got = client.embed_images(images)
    assert got.dtype == np.float32
    assert np.allclose(got, expected, atol=CLOSE)


def test_texts_one_or_many_or_none(client):
    texts = [f"text {n}" for n in range(8)]
    assert np.allclose(client.embed_text(texts), open_tiny().embed_text(texts), atol=CLOSE)
    assert client.embed_text("a cat").shape == (1, 24)
    assert len(client.embed_text([])) == 0


def test_fewer_dimensions(client, files):
    whole = open_tiny().embed_images(files[:2])
    got = client.embed_images(files[:2], dimensions=7)
    assert np.allclose(got, normalize_rows(whole[:, :7]), atol=10 * CLOSE)


def test_search_by_words_or_image(client, files):
    assert client.search(files[3], k=1)[0]["name"] == str(files[3])
    assert len(client.search("a cat", k=4)) == 4
    blue = [{"column": "color", "value": "blue"}]
    hits = client.search_for(SearchRequest(query="a cat", k=10, filters=blue))
    assert hits
    assert all(hit["metadata"]["color"] == "blue" for hit in hits)


def test_search_by_part_marks_and_text(client, files):
    def names(**request):
        return [hit["name"] for hit in client.search_for(SearchRequest(k=4, **request))]

    assert names(query=files[3], crop="percent:0,0,100,100")[0] == str(files[3])
    assert names(query=files[3], crop="0,0,8,8")
    with pytest.raises(RemoteError, match="percent:200"):
        names(query=files[3], crop="percent:200,0,10,10")
    liked = names(like=[files[0], files[1].read_bytes()], unlike=[files[2]])
    assert liked
    assert names(text=files[2].stem)[0] == str(files[2])
    assert names(query="a cat", text=files[2].stem, text_weight=1.0)[0] == str(files[2])
    with pytest.raises(RemoteError, match="taken_at"):
        names(query="a cat", since="2020")


def test_models(client):
    assert next(one["id"] for one in client.models()) == "pe-nano"


def test_bad_images_are_named_by_their_place_among_all(client, files):
    images = [files[0], files[1], files[2], files[3], b"no image", files[5]]
    with pytest.raises(RemoteError) as raised:
        client.embed_images(images)
    assert raised.value.status == 400
    assert list(raised.value.items) == [4]
    assert "not an image" in raised.value.items[4]
    with pytest.raises(ImageNotFoundError, match="nowhere"):
        client.embed_images(["nowhere.png"])


def test_a_wrong_key_is_not_tried_again(kind, server):
    with (
        kind(server.url, ClientOptions(api_key="wrong")) as client,
        pytest.raises(RemoteError, match="needs a key") as raised,
    ):
        client.embed_text("a cat")
    assert raised.value.code == "unauthorized"


def test_a_server_that_is_not_there(kind):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with (
            kind(url, ClientOptions(num_retries=1)) as client,
            pytest.raises(RemoteError, match="pe serve") as raised,
        ):
            client.embed_text("a cat")
    assert raised.value.status is None


@pytest.mark.parametrize(("failures", "retries", "succeeds"), [(2, 2, True), (3, 2, False)])
def test_a_busy_server_is_asked_again(kind, failures, retries, succeeds):
    asked = []

    def change(app):
        @app.middleware("http")
        async def refuse(request, call_next):
            if request.url.path == "/v1/embed":
                asked.append(await request.body())
                if len(asked) <= failures:
                    return json_reply(
                        {"error": {"code": "queue_full", "message": "full"}}, status=429
                    )
            return await call_next(request)

    with (
        running(change=change) as server,
        kind(server.url, ClientOptions(num_retries=retries)) as client,
    ):
        if succeeds:
            assert client.embed_images([image(1)]).shape == (1, 24)
        else:
            with pytest.raises(RemoteError, match="full") as raised:
                client.embed_images([image(1)])
            assert raised.value.status == 429
    assert len(asked) == retries + 1


def test_options_that_ask_nothing_are_refused():
    for wrong in ({"batch_size": 0}, {"num_connections": 0}, {"num_retries": -1}):
        with pytest.raises(ValueError, match="at least"):
            ClientOptions(**wrong)


def test_a_data_uri_is_the_image_that_it_holds(server):
    uri = data_uri(image(1))
    with Client(server.url, OPTIONS) as client:
        got = client.embed_images([f" {uri}", uri.replace("image/png", "")])
    expected = server.model.embed_images([image(1)] * 2)
    assert np.allclose(got, expected, atol=CLOSE)


@pytest.mark.parametrize("ask", [lambda c, u: c.embed_text(["a", u]), lambda c, u: c.search(u)])
def test_a_data_uri_is_no_text(server, ask):
    with Client(server.url, OPTIONS) as client, pytest.raises(RemoteError) as raised:
        ask(client, data_uri(image(1)))
    assert raised.value.status == 400
    assert "send it as an image" in str(raised.value)
    assert list(raised.value.items) in ([0], [1])


FOREIGN = [
    b"<html>login</html>",
    b"",
    b"{}",
    b'{"hits": 1, "data": {}}',
    b"[" * 100_000,
    b"\x93NUMPY",
]


@pytest.mark.parametrize("kind", [Client, Waiting])
@pytest.mark.parametrize("status", [200, 502])
def test_a_reply_of_another_server_is_an_error_of_ours(kind, status):
    contents = iter(FOREIGN * 3)

    def change(app):
        @app.middleware("http")
        async def answer(request, call_next):
            if request.url.path == "/readiness":
                return await call_next(request)
            return Response(next(contents), status)

    with (
        running(change=change) as server,
        kind(server.url, ClientOptions(num_retries=0)) as client,
    ):
        for _ in FOREIGN:
            for ask in (client.models, lambda: client.search("a"), lambda: client.embed_text("a")):
                with pytest.raises(RemoteError):
                    ask()
