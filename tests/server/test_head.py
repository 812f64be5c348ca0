"""HEAD: the head of GET's reply, and nothing behind it (`wget --spider`, load balancers)."""

import http.client

import pytest
from server.serving import image, make_index, running
from small_models import open_tiny

from perception_encoder.server import ServerSettings
from perception_encoder.server.http.access import hash_key
from perception_encoder.server.options import AccessSettings

CHANGING = frozenset(("date", "x-request-id"))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("head")
    files = [folder / f"{number}.png" for number in range(3)]
    for number, file in enumerate(files):
        file.write_bytes(image(number))
    model = open_tiny()
    make_index(folder / "t.lance", model, files)
    settings = ServerSettings(indexes=(str(folder / "t.lance"),), cache_folder=folder / "cache")
    with running(settings, model=model) as running_server:
        yield running_server


def asked(server, method: str, path: str):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=100)
    try:
        connection.request(method, path)
        reply = connection.getresponse()
        headers = {name.lower(): value for name, value in reply.getheaders()}
        content = reply.read()
        connection.request("GET", "/readiness")  # nothing was left on the connection
        assert connection.getresponse().status == 200
    finally:
        connection.close()
    return reply.status, headers, content


@pytest.mark.parametrize(
    "path",
    [
        "/", "/healthz", "/readiness", "/health", "/info", "/openapi.json", "/web/main.js",
        "/v1/models", "/v1/models/pe-nano", "/v1/indexes", "/v1/indexes/t", "/v1/indexes/t/facets",
        "/v1/items", "/v1/items/ID", "/v1/items/ID/thumbnail", "/v1/items/ID/image",
        "/model/registry", "/indices-list", "/nowhere", "/v1/items/none", "/v1/embed",
    ],
)  # fmt: skip
def test_it_is_the_head_of_get(server, path):
    item = server.client.get("/v1/items").json()["items"][0]["id"]
    path = path.replace("ID", item)
    status, headers, content = asked(server, "GET", path)
    of_head = asked(server, "HEAD", path)
    assert of_head[0] == status
    assert of_head[2] == b""
    assert int(of_head[1]["content-length"]) == len(content)
    changing = CHANGING | ({"content-length"} if path == "/v1/models" else set())
    kept = {name: value for name, value in headers.items() if name not in changing}
    assert {name: value for name, value in of_head[1].items() if name not in changing} == kept


def test_it_wants_a_key_where_get_does():
    settings = ServerSettings(access=AccessSettings(key_hashes=(hash_key("a-key-of-some-length"),)))
    with running(settings) as server:
        assert asked(server, "HEAD", "/v1/models")[0] == 401
        assert asked(server, "HEAD", "/healthz")[0] == 200


def test_it_is_counted_and_logged_as_what_it_is(server, caplog):
    with caplog.at_level("INFO", "perception_encoder"):
        asked(server, "HEAD", "/healthz")
    assert "HEAD /healthz 200" in [record.getMessage() for record in caplog.records]
