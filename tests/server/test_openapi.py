"""Whatever the app's own OpenAPI document allows, or does not, no request ends in a 5xx."""

import os
from pathlib import Path

import hypothesis
import pytest
import schemathesis
from hypothesis import strategies as st
from server.serving import make_table, running
from small_models import open_tiny, save_drawings

from perception_encoder.server import ServerSettings
from perception_encoder.server.options import ImageSettings

EXAMPLES = int(os.environ.get("PE_API_EXAMPLES", "15"))
ROUTES = [
    ("POST", "/v1/embed"),
    ("POST", "/v1/similarity"),
    ("POST", "/v1/classify"),
    ("POST", "/v1/search"),
    ("GET", "/v1/items"),
    ("GET", "/v1/items/{item}"),
    ("GET", "/v1/items/{item}/thumbnail"),
    ("GET", "/v1/items/{item}/image"),
    ("GET", "/v1/indexes"),
    ("GET", "/v1/indexes/{name}"),
    ("GET", "/v1/indexes/{name}/status"),
    ("GET", "/v1/indexes/{name}/facets"),
    ("GET", "/v1/duplicates"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{name}"),
    ("POST", "/v1/session"),
    ("GET", "/healthz"),
    ("GET", "/readiness"),
    ("GET", "/metrics"),
    ("POST", "/v1/embeddings"),
    ("POST", "/perception_encoder/embed_image"),
    ("POST", "/perception_encoder/embed_text"),
    ("POST", "/perception_encoder/compare"),
    ("POST", "/clip/compare"),
    ("GET", "/model/registry"),
    ("POST", "/model/add"),
    ("POST", "/embed"),
    ("POST", "/knn-service"),
    ("POST", "/metadata"),
    ("GET", "/indices-list"),
    ("GET", "/info"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("fuzzed")
    make_table(folder / "a.lance", open_tiny(), save_drawings(folder, 25))
    settings = ServerSettings(
        indexes=(str(folder / "a.lance"),),
        images=ImageSettings(allow_urls=True, url_timeout_seconds=1),
    )
    with running(settings, open_model=lambda _: open_tiny()) as running_server:
        yield running_server


def settings_of(examples: int) -> hypothesis.settings:
    return hypothesis.settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        database=None,
    )


def test_the_document_names_every_route(server):
    document = server.client.get("/openapi.json").json()
    found = {(m.upper(), path) for path, methods in document["paths"].items() for m in methods}
    assert set(ROUTES) <= found
    assert all(
        operation.get("summary")
        for methods in document["paths"].values()
        for operation in methods.values()
    )


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_no_request_ends_in_a_5xx(server, method, path, mode):
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operation = schema[path][method]

    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    @settings_of(EXAMPLES)
    def check(case: schemathesis.Case) -> None:
        reply = case.call(base_url=server.url, timeout=30)
        assert reply.status_code < 500, reply.text

    try:
        check()
    except hypothesis.errors.Unsatisfiable:
        assert mode is schemathesis.GenerationMode.NEGATIVE  # nothing about it can be wrong


BODIES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(
        ["data:,", "data:;base64,AAAA", "iVBORw0KGgo=", "http://[", "\ud800", "{}", "\0"]
    ),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            ["texts", "images", "model", "dimensions", "a", "b", "text", "image", "labels",
             "templates", "terms", "item", "vector", "filters", "column", "op", "value", "k",
             "offset", "threshold", "unique", "weight", "dtype", "encoding", "input", "messages",
             "content", "modality", "type", "image_url", "url", "inputs", "truncate", "subject",
             "subject_type", "prompt", "prompt_type", "model_id", "clip_version_id", "ids",
             "num_images", "embedding_input"]
        ),
        inner,
        max_size=6,
    ),
    max_leaves=12,
)  # fmt: skip


@pytest.mark.parametrize("path", [path for method, path in ROUTES if method == "POST"])
def test_no_body_at_all_ends_in_a_5xx(server, path):
    import json

    @hypothesis.given(body=BODIES | st.binary(max_size=300))
    @settings_of(4 * EXAMPLES)
    def check(body: object) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        reply = server.client.post(
            path, content=content, headers={"Content-Type": "application/json"}
        )
        assert reply.status_code < 500, (content, reply.text)

    check()


@pytest.mark.parametrize("path", [path for method, path in ROUTES if method == "POST"])
@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("application/json", b"[" * 100_000),
        ("application/json", b'{"texts": ["\\ud800"]}'),
        ("application/json", b'{"terms": [{"text": "\\udfff"}]}'),
        ("application/json", b'{"a": [{"text": "\\ud800"}], "b": [{"text": "a"}]}'),
        ("application/json", b"\xff\xfe"),
        ("application/json", b'{"model": "\\ud800"}'),
        ("multipart/form-data; boundary=x", b"--x\r\n"),
        ("multipart/form-data", b"nothing"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: a\r\n\r\n\r\n--x--"),
        ("image/png", b""),
        ("text/plain; charset=nonsense", b"\x80"),
        ("application/json; charset=utf-16", b"{}"),
        ("", b""),
    ],
)  # fmt: skip
def test_odd_bodies(server, path, kind, content):
    reply = server.client.post(path, content=content, headers={"Content-Type": kind})
    assert reply.status_code < 500, reply.text
