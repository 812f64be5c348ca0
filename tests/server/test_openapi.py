"""Whatever the app's own OpenAPI document allows, or does not, no request ends in a 5xx."""

import json
import os
import re
from pathlib import Path

import hypothesis
import jsonschema
import openapi_spec_validator
import pytest
import schemathesis
from hypothesis import strategies as st
from server.serving import make_index, running
from small_models import open_tiny, save_drawings

from perception_encoder.server import ServerSettings
from perception_encoder.server.app import create_app
from perception_encoder.server.http.access import hash_key
from perception_encoder.server.options import AccessSettings, ImageSettings

EXAMPLES = int(os.environ.get("PE_API_EXAMPLES", "8"))
ROUTES = [
    ("POST", "/v1/embed"),
    ("POST", "/v1/similarity"),
    ("POST", "/v1/classify"),
    ("POST", "/v1/search"),
    ("POST", "/v1/teach"),
    ("GET", "/v1/classifiers"),
    ("GET", "/v1/items"),
    ("GET", "/v1/items/{item}"),
    ("GET", "/v1/items/{item}/thumbnail"),
    ("GET", "/v1/items/{item}/image"),
    ("GET", "/v1/indexes"),
    ("GET", "/v1/indexes/{name}"),
    ("GET", "/v1/indexes/{name}/status"),
    ("GET", "/v1/indexes/{name}/facets"),
    ("GET", "/v1/indexes/{name}/folders"),
    ("POST", "/v1/items/download"),
    ("GET", "/v1/duplicates"),
    ("GET", "/v1/clusters"),
    ("GET", "/v1/clusters/{number}"),
    ("GET", "/v1/map"),
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
    ("POST", "/similarity"),
    ("POST", "/v2/embed"),
    ("POST", "/api/embed"),
    ("POST", "/api/embeddings"),
    ("GET", "/api/tags"),
    ("GET", "/api/version"),
    ("POST", "/predict"),
    ("GET", "/ping"),
    ("GET", "/info"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("fuzzed")
    make_index(folder / "a.lance", open_tiny(), save_drawings(folder, 25))
    settings = ServerSettings(
        indexes=(str(folder / "a.lance"),),
        images=ImageSettings(allow_urls=True, url_timeout_seconds=1),
    )
    with running(settings, open_model=lambda _: open_tiny()) as running_server:
        yield running_server


@pytest.fixture(scope="module")
def schema(server):
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


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


def parts_of(value):
    """All objects of a document, the outermost first."""
    if isinstance(value, dict):
        yield value
        for one in value.values():
            yield from parts_of(one)
    elif isinstance(value, list):
        for one in value:
            yield from parts_of(one)


def operations_of(document):
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method} {path}", operation


@pytest.fixture(scope="module")
def document(server):
    return server.client.get("/openapi.json").json()


def test_the_document_is_valid_and_its_references_lead_to_components(document):
    openapi_spec_validator.validate(document)
    for part in parts_of(document):
        assert "$defs" not in part
        if isinstance(part.get("$ref"), str):
            name = part["$ref"].removeprefix("#/components/schemas/")
            assert name in document["components"]["schemas"], part
    assert all(re.fullmatch(r"[A-Za-z]+", name) for name in document["components"]["schemas"])


def test_schemas_hold_keywords_of_json_schema_only(document):
    # FastAPI copies what it does not know into the schema, such as "gt" outside of Field.
    for part in parts_of(document):
        assert not part.keys() & {"gt", "ge", "lt", "le"}


def test_no_form_is_written_out_twice(document):
    """What generators make of a form outside of the components has a name that nobody knows."""
    found: dict[str, str] = {}
    for name, schema in document["components"]["schemas"].items():
        for part in parts_of(schema):
            if len(part.get("enum", ())) > 1:
                written = json.dumps(sorted(part["enum"]))
                other = found.setdefault(written, name)
                assert other == name, f"{written} of {name} and {other}: name it, as Modality"
    for name, operation in operations_of(document):
        for part in parts_of(operation):
            assert "properties" not in part, f"{name}: declare its body by json_body or form_body"


def test_names_of_operations_are_short_and_stay(document):
    """Generated clients call their functions so; a change breaks the programs that call them."""
    ids = {name: operation["operationId"] for name, operation in operations_of(document)}
    for name, operation in ids.items():
        assert re.fullmatch("[a-z]+(_[a-z]+)*", operation), f"{name}: {operation}; set operation_id"
    assert ids["post /v1/search"] == "search"
    assert ids["post /v1/embed"] == "embed"
    assert ids["get /v1/items/{item}"] == "get_item"
    assert ids["post /embed"] == "tei_embed"
    assert ids["post /clip/compare"] == "clip_compare"


def test_what_the_document_says_of_itself_is_whole(document):
    assert document["info"].keys() >= {"title", "summary", "description", "version", "license"}
    used = {tag for _, operation in operations_of(document) for tag in operation["tags"]}
    described = {tag["name"] for tag in document["tags"] if tag["description"]}
    assert used == described, "give the Api a description"
    for scheme in document["components"]["securitySchemes"].values():
        assert scheme["description"]


def test_examples_are_valid_and_the_bodies_among_them_are_answered(server, document):
    schemas = document["components"]["schemas"]
    for name, schema in schemas.items():
        if "example" in schema:
            wanted = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
            jsonschema.Draft202012Validator(wanted).validate(schema["example"])
    for name, operation in operations_of(document):
        body = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if body is None:
            continue
        example = schemas[body["schema"]["$ref"].rpartition("/")[2]].get("example")
        if example is not None:
            method, path = name.split(" ")
            reply = server.client.request(method, path.replace("{name}", "a"), json=example)
            assert reply.status_code in (200, 400, 404), (name, reply.text)  # not each item is here


def test_every_operation_describes_its_reply_its_errors_and_its_key(document):
    ids = [operation["operationId"] for _, operation in operations_of(document)]
    assert len(set(ids)) == len(ids)
    schemas = document["components"]["schemas"]
    for name, operation in operations_of(document):
        done = [reply for status, reply in operation["responses"].items() if status < "300"]
        assert done, name
        for reply in done:
            assert reply.get("description"), name
            for content in reply.get("content", {}).values():
                assert content["schema"], name
        errors = {status: r for status, r in operation["responses"].items() if status >= "400"}
        assert any(status < "500" for status in errors), name
        for reply in errors.values():
            reference = reply["content"]["application/json"]["schema"]["$ref"]
            assert schemas[reference.rpartition("/")[2]]["required"], name
        assert {next(iter(way), None) for way in operation["security"]} <= {
            None, *document["components"]["securitySchemes"]
        }  # fmt: skip
        if operation["security"]:
            assert "401" in errors, name


def test_keys_are_required_where_the_server_has_any():
    access = AccessSettings(key_hashes=(hash_key("a-key-of-some-length"),))
    app = create_app(ServerSettings(access=access), open_model=lambda _: open_tiny())
    operations = dict(operations_of(app.openapi()))
    assert operations["get /healthz"]["security"] == []
    assert {"bearer": []} in operations["post /v1/search"]["security"]
    assert {"query": []} in operations["post /knn-service"]["security"]
    assert {} not in operations["post /embed"]["security"]


@pytest.mark.parametrize(
    ("path", "body", "status", "schema"),
    [
        ("/v1/search", {"terms": [{"text": "a"}]}, 200, "SearchReply"),
        ("/v1/search", {"terms": []}, 422, "ErrorReply"),
        ("/v1/embed", {"texts": ["a"]}, 200, "EmbedReply"),
        ("/v1/embed", {"images": ["AAAA"], "on_error": "report"}, 200, "EmbedReply"),
        ("/v1/embed", {"images": ["AAAA"]}, 400, "ErrorReply"),
        ("/v1/similarity", {"a": [{"text": "a"}], "b": [{"text": "b"}]}, 200, "SimilarityReply"),
        ("/v1/classify", {"images": ["AAAA"], "labels": ["a"]}, 200, "ClassifyReply"),
        ("/v1/embeddings", {"input": "a"}, 200, "EmbeddingsReply"),
        ("/v1/embeddings", {"input": []}, 400, "OpenAIError"),
        ("/embed", {"inputs": []}, 400, "TeiError"),
        ("/v2/embed", {"texts": ["a"], "embedding_types": ["base64", "int8"]}, 200, "CohereReply"),
        ("/v2/embed", {"texts": []}, 400, "CohereError"),
        ("/api/embed", {"input": "a"}, 200, "OllamaEmbedReply"),
        ("/api/embeddings", {"prompt": "a"}, 200, "OllamaEmbeddingsReply"),
        ("/api/embed", {"input": 1}, 422, "OllamaError"),
        ("/api/tags", None, 200, "OllamaTagsReply"),
        ("/api/version", None, 200, "OllamaVersionReply"),
        ("/knn-service", {"text": ""}, 400, "ClipRetrievalError"),
        ("/perception_encoder/embed_text", {"text": "a"}, 200, "InferenceEmbeddings"),
        (
            "/perception_encoder/compare",
            {"subject": "a", "subject_type": "text", "prompt": {"x": "b"}}, 200,
            "InferenceSimilarity",
        ),
        ("/perception_encoder/embed_text", {"text": 1}, 422, "RoboflowError"),
        ("/perception_encoder/embed_text", {"text": []}, 400, "RoboflowError"),
        ("/model/add", {"model_id": "pe-nano"}, 200, "ModelRegistry"),
        ("/v1/items", None, 200, "ItemsReply"),
        ("/v1/indexes", None, 200, "IndexesReply"),
        ("/v1/indexes/a", None, 200, "IndexReply"),
        ("/v1/indexes/a/status", None, 200, "IndexStatusReply"),
        ("/v1/indexes/a/facets", None, 200, "FacetsReply"),
        ("/v1/indexes/a/folders", None, 200, "FoldersReply"),
        ("/v1/indexes/b", None, 404, "ErrorReply"),
        ("/v1/classifiers", None, 200, "ClassifiersReply"),
        ("/v1/teach", {"examples": {"a": ["x"]}}, 400, "ErrorReply"),
        ("/v1/models", None, 200, "ModelsReply"),
        ("/v1/models/pe-nano", None, 200, "ModelReply"),
        ("/v1/duplicates", None, None, "DuplicatesReply"),
        ("/v1/clusters", None, None, "ClustersReply"),
        ("/v1/clusters/0", None, None, "ClusterItemsReply"),
        ("/v1/map", None, None, "MapReply"),
        ("/info", None, 200, "InfoReply"),
        ("/healthz", None, 200, "ServerState"),
    ],
)  # fmt: skip
def test_replies_are_as_described(server, document, path, body, status, schema):
    reply = server.client.request("POST" if body else "GET", path, json=body)
    assert status in (None, reply.status_code), reply.text
    wanted = {"$ref": f"#/components/schemas/{schema}", "components": document["components"]}
    validator = jsonschema.Draft202012Validator(wanted)
    assert list(validator.iter_errors(reply.json())) == []
    known = document["components"]["schemas"][schema]["properties"]
    assert reply.json().keys() <= known.keys()


# Hypothesis takes random numbers that threads of the server draw meanwhile for its own.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_no_request_ends_in_a_5xx(server, schema, method, path, mode):
    operation = schema[path][method]

    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    @settings_of(EXAMPLES)
    def check(case: schemathesis.Case) -> None:
        reply = case.call(base_url=server.url, timeout=100)
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


@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@pytest.mark.parametrize("path", [path for method, path in ROUTES if method == "POST"])
def test_no_body_at_all_ends_in_a_5xx(server, path):
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
