"""The reference client of the Model Context Protocol asks the tools: in memory and over HTTP."""

import base64
import io
from pathlib import Path

import httpx2
import jsonschema
import numpy as np
import pytest
from anyio.from_thread import start_blocking_portal
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from PIL import Image
from server.hostile import VALUES, paths_of, replaced
from server.serving import data_uri, encoded, image, make_index, running
from small_models import drawing, open_tiny, save_drawings

from perception_encoder.errors import ImageError
from perception_encoder.server import ServerSettings, create_app
from perception_encoder.server.core.images import Thumbnails
from perception_encoder.server.http.access import hash_key
from perception_encoder.server.mcp import tools
from perception_encoder.server.mcp.transports import build_server
from perception_encoder.server.options import AccessSettings, ImageSettings

KEY = "a-key-of-some-length"
NAMES = {"search", "similar", "classify", "describe_index", "get_thumbnail"}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mcp")
    make_index(folder / "a.lance", open_tiny(), save_drawings(folder, 9))
    more = tmp_path_factory.mktemp("more")
    make_index(folder / "b.lance", open_tiny(), save_drawings(more, 2))
    return str(folder / "a.lance"), str(folder / "b.lance")


@pytest.fixture(scope="module")
def third(paths):
    return data_uri((Path(paths[0]).parent / "drawing3.png").read_bytes())


class Host:
    """A program with a language model, as far as its tools go."""

    def __init__(self, portal, client):
        self._portal = portal
        self._client = client

    def tools(self):
        return self._portal.call(self._client.list_tools).tools

    def call(self, name, **arguments):
        return self._portal.call(self._client.call_tool, name, arguments)

    def structured(self, name, **arguments):
        result = self.call(name, **arguments)
        assert not result.is_error, result.content[0].text
        return result.structured_content

    def refusal(self, name, **arguments):
        result = self.call(name, **arguments)
        assert result.is_error, result.structured_content
        (content,) = result.content
        assert "Traceback" not in content.text
        return content.text


@pytest.fixture(scope="module", params=["auto", "legacy"])
def host(paths, request):
    """Over both forms of the protocol: with the handshake of before 2026, and without."""
    settings = ServerSettings(indexes=paths, images=ImageSettings(max_bytes=50_000))
    app = create_app(settings, open_model=lambda _: open_tiny())
    client = Client(build_server(app.state.services), mode=request.param)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(app.router.lifespan_context(app)),
        portal.wrap_async_context_manager(client),
    ):
        yield Host(portal, client)


def test_every_tool_says_what_it_does_what_it_takes_and_that_it_changes_nothing(host):
    listed = host.tools()
    assert {tool.name for tool in listed} == NAMES
    for tool in listed:
        assert len(tool.description) > 40
        assert tool.annotations.read_only_hint
        jsonschema.Draft202012Validator.check_schema(tool.input_schema)
        jsonschema.Draft202012Validator.check_schema(tool.output_schema)
        assert tool.input_schema["type"] == "object"
        for name, field in tool.input_schema["properties"].items():
            assert field["description"], name
            assert {"type": "null"} not in field.get("anyOf", ())


def test_an_image_of_the_index_is_found_by_its_own_pixels(host, third):
    found = host.structured("search", images=[third], k=2)
    assert found["hits"][0]["name"].endswith("drawing3.png")
    assert found["hits"][0]["score"] > 0.999
    assert found["next_offset"] == 2
    rest = host.structured("search", images=[third], k=20, offset=2)
    assert len(rest["hits"]) == 7
    assert "next_offset" not in rest


def test_queries_are_those_of_the_command_line(host):
    name = host.structured("search", query="a cat", k=1)["hits"][0]["name"]
    host.structured("search", query=f"2:a cat + @{name} - fruit")
    found = host.structured("search", query="a cat", filters=[{"column": "number", "value": 4}])
    assert [hit["metadata"]["number"] for hit in found["hits"]] == [4]
    names = host.structured("search", text="drawing5.png", k=1)["hits"]
    assert names[0]["name"].endswith("drawing5.png")


def test_the_text_of_a_result_names_the_hits_for_models_that_read_nothing_else(host):
    result = host.call("search", query="a cat", k=3)
    for hit in result.structured_content["hits"]:
        assert hit["id"] in result.content[0].text
        assert hit["name"] in result.content[0].text


def test_similar_images_are_others_than_the_one_that_was_given(host, third):
    first = host.structured("search", images=[third], k=1)["hits"][0]
    by_id = host.structured("similar", item=first["id"], k=8)["hits"]
    assert len(by_id) == 8
    assert first["id"] not in {hit["id"] for hit in by_id}
    assert host.structured("similar", item="drawing3.png", k=8)["hits"] == by_id
    by_image = host.structured("similar", image=third, k=9)["hits"]
    assert by_image[0]["id"] == first["id"]
    part = host.structured("similar", item=first["id"], region="percent:0,0,50,50", k=8)["hits"]
    assert [hit["score"] for hit in part] != [hit["score"] for hit in by_id]


def test_items_and_other_images_get_the_label_that_the_model_gives_them(host):
    labels = ["a cat", "a dog", "a house"]
    found = host.structured(
        "classify", items=["drawing2.png"], images=[data_uri(image(2))], labels=labels, k=2
    )
    model = open_tiny()
    wanted = model.similarity(model.embed_image(drawing(2)), model.embed_text(labels))
    best = labels[int(np.argmax(wanted))]
    for one in found["images"]:
        assert len(one["labels"]) == 2
        assert one["labels"][0]["label"] == best
    assert found["images"][1]["image"].endswith("drawing2.png")


def test_a_bad_image_does_not_keep_the_others_from_being_classified(host):
    found = host.structured("classify", images=["AAAA", data_uri(image(1))], labels=["a", "b"])
    assert "not an image" in found["images"][0]["error"]
    assert len(found["images"][1]["labels"]) == 2


def test_an_index_says_what_it_holds_and_which_others_there_are(host):
    found = host.structured("describe_index")
    assert (found["name"], found["rows"], found["indexes"]) == ("a", 9, ["a", "b"])
    columns = {column["name"]: column for column in found["columns"]}
    assert set(columns["color"]["values"]) == {"red", "blue"}
    assert (columns["number"]["min"], columns["number"]["max"]) == (0, 8)
    assert columns["uri"] == {"name": "uri", "kind": "text", "values": []}
    host.structured(
        "search", query="a", filters=[{"column": name, "op": "has"} for name in columns]
    )
    assert host.structured("describe_index", index="b")["rows"] == 2
    assert host.structured("search", query="a cat", index="b")["index"] == "b"


def test_a_thumbnail_is_an_image_within_its_bounds(host, monkeypatch):
    result = host.call("get_thumbnail", item="drawing3.png", size=128)
    text, picture = result.content
    assert "drawing3.png" in text.text
    assert picture.mime_type == "image/jpeg"
    with Image.open(io.BytesIO(base64.b64decode(picture.data))) as opened:
        assert opened.format == "JPEG"
        assert opened.size == tuple(result.structured_content[key] for key in ("width", "height"))
    noise = np.random.default_rng(0).integers(0, 256, (2000, 1500, 3), np.uint8)
    asked = []

    def get(_thumbnails, _row, side):
        asked.append(side)
        small = Image.fromarray(noise)
        small.thumbnail((side, side))
        return encoded(small, "JPEG")

    monkeypatch.setattr(Thumbnails, "get", get)
    monkeypatch.setattr(tools, "MAX_THUMBNAIL_BYTES", 25_000)
    result = host.call("get_thumbnail", item="drawing3.png", size=1024)
    assert asked == [1024, 512, 256]
    assert len(base64.b64decode(result.content[1].data)) <= 25_000


@pytest.mark.parametrize(
    ("tool", "arguments", "says"),
    [
        ("search", {}, "give a query, images, or a text"),
        ("search", {"query": "a", "k": 1001}, "k: Input should be less than or equal to 1000"),
        ("search", {"query": "a", "kk": 1}, "kk: Extra inputs are not permitted"),
        ("search", {"query": "a" * 2_000_000}, "query: at least 2,000,000 bytes"),
        ("search", {"query": "@nothing.png"}, "has no item whose name ends in 'nothing.png'"),
        ("search", {"query": "a", "index": "c"}, "this server has no index 'c'"),
        ("search", {"query": "a", "since": "whenever"}, "whenever"),
        ("search", {"query": "a", "filters": [{"column": "x", "value": 1}]}, "no column 'x'"),
        ("search", {"images": ["AAAA"] * 17}, "images"),
        ("search", {"query": "a", "images": ["A" * 100_000]}, "images[0]: "),
        ("search", {"query": "https://example.com/a.png"}, "this server fetches no URLs"),
        ("similar", {}, "give either item or image"),
        ("similar", {"image": "/etc/passwd"}, "image: "),
        ("similar", {"item": "drawing3.png", "region": "x"}, "region: 'x' is not a box"),
        ("classify", {"labels": ["a"]}, "give items or images"),
        ("classify", {"items": ["drawing1.png"]}, "give labels, or a classifier"),
        ("classify", {"items": ["drawing1.png"], "classifier": "x"}, "classifier"),
        ("get_thumbnail", {"item": "drawing1.png", "size": 5000}, "size"),
        ("get_thumbnail", {}, "item: Field required"),
    ],
)
def test_what_cannot_be_done_is_a_result_that_says_why(host, tool, arguments, says):
    assert says in host.refusal(tool, **arguments)


def test_a_fault_of_the_server_is_told_without_details(host, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("a secret")

    monkeypatch.setattr(Thumbnails, "get", fail)
    said = host.refusal("get_thumbnail", item="drawing3.png")
    assert said == "the server failed; its log says more"
    assert "a secret" in caplog.text


def test_an_unknown_tool_is_an_error_of_the_protocol(host):
    with pytest.raises(MCPError, match="there is no tool 'remove'"):
        host.call("remove")


@pytest.fixture(scope="module")
def server(paths):
    settings = ServerSettings(
        indexes=paths, serve_mcp=True, access=AccessSettings(key_hashes=(hash_key(KEY),))
    )
    with running(settings, open_model=lambda _: open_tiny()) as running_server:
        yield running_server


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_the_reference_client_searches_over_http_with_a_key(server, third, mode):
    async def ask():
        headers = {"Authorization": f"Bearer {KEY}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=60) as http,
            Client(streamable_http_client(f"{server.url}/mcp", http_client=http), mode=mode) as one,
        ):
            listed = await one.list_tools()
            found = await one.call_tool("search", {"images": [third], "k": 1})
            refused = await one.call_tool("search", {"query": "a", "k": 0})
        return {tool.name for tool in listed.tools}, found, refused

    with start_blocking_portal() as portal:
        names, found, refused = portal.call(ask)
    assert names == NAMES
    assert found.structured_content["hits"][0]["name"].endswith("drawing3.png")
    assert refused.is_error


def message(**more):
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/list", **more}


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "unauthorized"),
        ({"Authorization": "Bearer another-key-of-some-length"}, 401, "unauthorized"),
        ({"X-API-Key": KEY, "Origin": "https://evil.example"}, 403, "forbidden_origin"),
    ],
)
def test_requests_over_http_are_refused_as_other_routes_refuse_them(server, headers, status, code):
    reply = server.client.post("/mcp", json=message(), headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)


CALLS = {
    "search": {
        "query": "a cat", "images": [data_uri(image(1))], "text": "drawing", "k": 2, "offset": 1,
        "filters": [{"column": "number", "op": ">=", "value": 1}], "since": "2020",
        "near": "48.1,11.5,5km", "index": "a",
    },
    "similar": {"item": "drawing3.png", "region": "percent:0,0,50,50", "camera": "x"},
    "classify": {
        "items": ["drawing1.png"], "images": [data_uri(image(1))], "labels": ["a"],
        "templates": ["{}"], "k": 1,
    },
    "describe_index": {"index": "a"},
    "get_thumbnail": {"item": "drawing1.png", "size": 200, "index": "b"},
}  # fmt: skip


@pytest.mark.parametrize("tool", CALLS)
def test_no_value_of_any_argument_is_the_servers_fault(server, tool):
    headers = {
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
        "X-API-Key": KEY,
    }
    request = message(method="tools/call", params={"name": tool, "arguments": CALLS[tool]})
    places = [path for path in paths_of(request) if path[:2] == ("params", "arguments")]
    for number, place in enumerate(places):
        for value in VALUES[number % 24 :: 24]:
            content = replaced(request, place, value)
            reply = server.client.post("/mcp", content=content.encode(), headers=headers)
            assert reply.status_code in (200, 400), (content[:300], reply.text)
            assert "the server failed" not in reply.text, content[:300]


def test_numbers_that_are_none_are_sent_as_json(tmp_path):
    path = tmp_path / "a.lance"
    make_index(path, open_tiny(), save_drawings(tmp_path, 2), lambda _: {"share": float("nan")})
    settings = ServerSettings(indexes=(str(path),), serve_mcp=True)
    with running(settings, open_model=lambda _: open_tiny()) as server:

        async def ask():
            async with Client(f"{server.url}/mcp", mode="legacy") as client:
                return await client.call_tool("search", {"query": "a cat"})

        with start_blocking_portal() as portal:
            found = portal.call(ask)
    assert [hit["metadata"]["share"] for hit in found.structured_content["hits"]] == [None, None]


def test_a_file_name_that_is_no_unicode_does_not_end_the_connection(host, monkeypatch):
    def fail(*_):
        raise ImageError("caf\udce9.jpg: it is gone")

    monkeypatch.setattr(Thumbnails, "get", fail)
    said = host.refusal("get_thumbnail", item="drawing3.png")
    assert said.encode() == b"caf\\udce9.jpg: it is gone"
    host.structured("describe_index")


def test_a_page_of_a_name_that_was_rebound_reaches_no_tool(paths):
    settings = ServerSettings(
        indexes=paths, serve_mcp=True, access=AccessSettings(host="127.0.0.1")
    )
    accepted = {"Accept": "application/json, text/event-stream"}
    with running(settings, open_model=lambda _: open_tiny()) as server:
        reply = server.client.post(
            "/mcp", json=message(), headers={**accepted, "Host": "evil.example"}
        )
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "forbidden_host")
        assert server.client.post("/mcp", json=message(), headers=accepted).status_code == 200
        assert server.client.get("/mcp", headers=accepted).status_code == 405
        for body in (b"", b"[" * 100_000, b"\xff", b'{"jsonrpc": "2.0"}', b"[]"):
            reply = server.client.post(
                "/mcp", content=body, headers={**accepted, "Content-Type": "application/json"}
            )
            assert 400 <= reply.status_code < 500, (body[:20], reply.text)


def test_a_server_without_the_protocol_has_no_such_route(paths):
    app = create_app(ServerSettings(indexes=paths), open_model=lambda _: open_tiny())
    assert not any(getattr(route, "path", "") == "/mcp" for route in app.router.routes)
