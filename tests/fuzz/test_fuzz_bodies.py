"""Any body of any route gives a reply that strict parsers read, and never one of the server's."""

import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from server.hostile import BODIES, VALUES, check_reply, error_forms, paths_of, replaced
from server.serving import data_uri, image, make_index, running
from small_models import open_tiny, save_drawings

from perception_encoder.server import ServerSettings

NAMES = sorted({name for body in BODIES.values() for name in body} | {"text", "type", "content"})  # type: ignore[attr-defined]
TEXTS = st.text(max_size=20) | st.sampled_from(
    [
        "data:,",
        "data:;base64,AAAA",
        "iVBORw0KGgo=",
        "http://[",
        "\ud800",
        "\0",
        data_uri(image(2)),
    ]
)
NUMBERS = (
    st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False).filter(math.isfinite)
    | st.sampled_from([2**63, -(2**63) - 1, 2**64, 10**400, 1e308, 5e-324])
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=10,
)
WRITTEN = JSON.map(json.dumps) | st.sampled_from(VALUES)


@st.composite
def bodies(draw, path):
    """A good body with another value at a place or several, more fields, or anything at all."""
    body = BODIES[path]
    kind = draw(st.sampled_from(["field", "fields", "more", "any"]))
    if kind == "any":
        return draw(WRITTEN)
    if kind == "more":
        return json.dumps({**body, **draw(st.dictionaries(st.sampled_from(NAMES), JSON))})
    places = list(paths_of(body))
    content = replaced(body, draw(st.sampled_from(places)), draw(WRITTEN))
    if kind == "field":
        return content
    try:
        changed = json.loads(content)
    except (ValueError, RecursionError):
        return content
    place = draw(st.sampled_from(list(paths_of(changed))))
    return replaced(changed, place, draw(WRITTEN))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzzed-bodies")
    make_index(folder / "a.lance", open_tiny(), save_drawings(folder, 12))
    settings_ = ServerSettings(indexes=(str(folder / "a.lance"),))
    with running(settings_, open_model=lambda _: open_tiny()) as running_server:
        yield running_server


@pytest.fixture(scope="module")
def forms(server):
    return error_forms(server.client.get("/openapi.json").json())


@pytest.mark.parametrize("path", BODIES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_any_json_has_a_reply(server, forms, path, data):
    content = data.draw(bodies(path))
    reply = server.client.post(path.partition("#")[0], content=content.encode())
    check_reply(reply, content[:300], forms("POST", path))


@pytest.mark.parametrize("path", ["/v1/embed", "/v1/embeddings", "/embed", "/knn-service"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200), kind=st.sampled_from(
    ["application/json", "image/png", "text/plain", "multipart/form-data; boundary=x", ""]
))  # fmt: skip
def test_any_bytes_have_a_reply(server, forms, path, content, kind):
    reply = server.client.post(path, content=content, headers={"Content-Type": kind})
    check_reply(reply, content, forms("POST", path))


PARTS = st.lists(
    st.tuples(
        st.sampled_from(["texts", "images", "image", "model", "dimensions", "dtype", "x", "é"]),
        st.sampled_from(["", '; filename="a"', '; filename="\u00e9\n"', "; filename*=utf-8''%ff"]),
        st.sampled_from(
            ["", "\r\nContent-Type: text/plain; charset=utf-7", "\r\nA: " + "b" * 9000]
        ),
        st.binary(max_size=20) | st.sampled_from([b"9" * 5000, b"\xed\xa0\x80", image(3)]),
    ),
    max_size=4,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=PARTS, end=st.sampled_from([b"--x--", b"--x--\r\nmore", b"--x", b""]))
def test_any_form_has_a_reply(server, forms, parts, end):
    content = b""
    for name, file, more, value in parts:
        head = f'--x\r\nContent-Disposition: form-data; name="{name}"{file}{more}\r\n\r\n'
        content += head.encode() + value + b"\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    reply = server.client.post("/v1/embed", content=content + end, headers=headers)
    check_reply(reply, content[:300], forms("POST", "/v1/embed"))
