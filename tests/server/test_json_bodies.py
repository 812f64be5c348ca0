"""The same bytes mean the same on every route; null, zero and nothing mean the same, too."""

import json

import pytest
from server.serving import data_uri, image, make_index, running
from small_models import reopen_tiny, save_drawings

from perception_encoder.server import ServerSettings

URI = data_uri(image(1))
TERMS = [{"text": "a cat"}]
GOOD = {
    "/v1/embed": {"texts": ["a cat"]},
    "/v1/similarity": {"a": [{"text": "a cat"}], "b": [{"image": URI}]},
    "/v1/classify": {"images": [URI], "labels": ["a cat", "a dog"]},
    "/v1/explain": {"image": URI, "texts": ["a cat"]},
    "/v1/search": {"terms": TERMS},
    "/v1/embeddings": {"input": "a cat"},
    "/embed": {"inputs": "a cat"},
    "/": {"inputs": "a cat"},
    "/similarity": {"inputs": {"source_sentence": "a cat", "sentences": ["a dog"]}},
    "/embeddings": {"input": "a cat"},
    "/v2/embed": {"texts": ["a cat"]},
    "/api/embed": {"input": "a cat"},
    "/api/embeddings": {"prompt": "a cat"},
    "/knn-service": {"text": "a cat"},
    "/metadata": {"ids": []},
    "/perception_encoder/embed_text": {"text": "a cat"},
    "/perception_encoder/embed_image": {"image": URI},
    "/perception_encoder/compare": {"subject": URI, "prompt": "a cat"},
    "/model/add": {"model_id": "pe-nano"},
}
ROUTES = pytest.mark.parametrize("path", GOOD)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bodies")
    model = reopen_tiny(folder / "tiny")
    make_index(folder / "a.lance", model, save_drawings(folder, 3))
    settings = ServerSettings(indexes=(str(folder / "a.lance"),))
    with running(settings, model=model) as running_server:
        yield running_server


def post(server, path, content):
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    return server.client.post(path, content=content, headers={"Content-Type": "application/json"})


def meaning(reply):
    """A reply's content without times and ids."""
    value = reply.json()
    for name in ("time", "inference_id", "id", "total_duration", "load_duration"):
        if isinstance(value, dict):
            value.pop(name, None)
    return value


def test_every_route_that_takes_json_is_here(server):
    paths = server.client.get("/openapi.json").json()["paths"]
    taking = {path for path, methods in paths.items() if "requestBody" in methods.get("post", {})}
    same = {path.replace("/clip/", "/perception_encoder/") for path in taking}
    others = {
        "/v1/items/download",  # is answered with a file
        "/v1/teach",  # likewise
        "/v1/indexes/{name}/searches",  # wants a search that was saved
        "/v1/indexes/{name}/searches/save",
        "/v1/indexes/{name}/searches/remove",
        "/model/remove",
        "/predict",  # takes a form
    }
    assert same - others == set(GOOD) - {"/", "/embeddings"}


@ROUTES
@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda body: body, 200),
        (lambda body: b"\xef\xbb\xbf" + body, 200),
        (lambda body: b" \r\n\t" + body + b"\n", 200),
        (lambda body: b'{"model": "nothing", "api_key": 1, ' + body[1:], None),
        (lambda body: b'{"extra": 1e5, "extra": "\\ud83d\\ude00", ' + body[1:], None),
        (lambda body: body + b" x", 422),
        (lambda body: body + body, 422),
        (lambda body: body[:-1], 422),
        (lambda body: body.decode().encode("utf-16"), 422),
        (lambda body: body.decode().encode("utf-16-le"), 422),
        (lambda body: body[:-1] + b', "extra": "\xff"}', 422),
        (lambda body: body[:-1] + b', "extra": "\xed\xa0\x80"}', 422),
        (lambda body: body[:-1] + b', "extra": "\\ud800"}', 422),
        (lambda body: body[:-1] + b', "extra\\udfff": 1}', 422),
        (lambda body: body[:-1] + b', "extra": NaN}', 422),
        (lambda body: body[:-1] + b', "extra": -Infinity}', 422),
        (lambda body: body[:-1] + b', "extra": 01}', 422),
        (lambda body: body[:-1] + b', "extra": "\x00"}', 422),
        (lambda body: body[:-1] + b', "extra": ' + b"[" * 100_000 + b"}", 422),
        (lambda body: body[:-1] + b', "extra": ' + b"[" * 5000 + b"]" * 5000 + b"}", 422),
        (lambda body: body[:-1] + b', "extra": ' + b"9" * 5000 + b"}", 422),
        (lambda body: body[:-1] + b",}", 422),
        (lambda body: body.replace(b'"', b"'"), 422),
        (lambda _: b"", 400),
        (lambda _: b"  \n", 400),
        (lambda _: b"null", 422),
        (lambda _: b"[]", 422),
        (lambda _: b'"text"', 422),
        (lambda _: b"1", 422),
    ],
)
def test_the_same_bytes_mean_the_same_everywhere(server, path, change, status):
    reply = post(server, path, change(json.dumps(GOOD[path]).encode()))
    if status is not None:
        assert reply.status_code == status, reply.text
    assert reply.status_code < 500
    json.loads(reply.content, parse_constant=pytest.fail)


@ROUTES
def test_the_last_of_two_values_of_a_name_counts(server, path):
    for name, value in GOOD[path].items():  # type: ignore[attr-defined]
        first = json.dumps({name: 7})[:-1]
        rest = json.dumps({**GOOD[path], name: value})[1:]
        assert post(server, path, f"{first}, {rest}".encode()).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("/v1/embed", b'{"texts": ["a", "b\\ud800c"]}', "texts[1]"),
        ("/v1/embeddings", b'{"input": ["a", "\\udfff"]}', "input[1]"),
        ("/v1/search", b'{"terms": [{"text": "\\ud800"}]}', "terms[0].text"),
        ("/embed", b'{"inputs": ["a", "\\ud800"]}', "inputs[1]"),
        ("/knn-service", b'{"text": "\\ud800"}', "text"),
        ("/perception_encoder/embed_text", b'{"text": ["a", "\\ud800"]}', "text[1]"),
    ],
)
def test_half_of_a_surrogate_pair_is_refused_and_its_field_named(server, path, body, place):
    reply = post(server, path, body)
    assert reply.status_code == 422
    assert f"{place}: half of a surrogate pair is not valid text" in reply.text
    if path == "/v1/embeddings":
        assert reply.json()["error"]["param"] == place


OPTIONS = {
    "/v1/embed": ["model", "images", "dimensions", "dtype", "encoding", "on_error"],
    "/v1/similarity": ["model"],
    "/v1/explain": ["model", "item", "index", "format"],
    "/v1/classify": ["model", "templates", "classifier"],
    "/v1/search": [
        "index", "k", "offset", "filters", "threshold", "unique", "exact", "include_own", "text",
        "text_weight", "since", "until", "near", "camera", "sort", "pairs", "bursts",
        "like", "unlike", "rerank", "candidates",
    ],
    "/v1/embeddings": [
        "model", "messages", "modality", "encoding_format", "dimensions", "user", "truncate",
        "truncate_prompt_tokens", "input_type",
    ],
    "/embed": ["truncate", "truncation_direction", "prompt_name", "normalize", "dimensions"],
    "/similarity": ["parameters"],
    "/v2/embed": [
        "model", "input_type", "images", "inputs", "embedding_types", "output_dimension",
        "truncate", "max_tokens", "priority",
    ],
    "/api/embed": ["model", "truncate", "dimensions", "keep_alive", "options"],
    "/api/embeddings": ["model", "keep_alive", "options"],
    "/knn-service": [
        "image", "image_url", "embedding_input", "modality", "num_images", "num_result_ids",
        "indice_name", "deduplicate", "use_mclip", "use_safety_model", "aesthetic_score",
    ],
    "/metadata": ["indice_name"],
    "/perception_encoder/embed_text": [
        "id", "api_key", "model_id", "perception_encoder_version_id", "clip_version_id",
    ],
    "/perception_encoder/embed_image": [
        "id", "api_key", "model_id", "perception_encoder_version_id", "clip_version_id",
    ],
    "/perception_encoder/compare": [
        "id", "api_key", "model_id", "perception_encoder_version_id", "clip_version_id",
        "subject_type", "prompt_type",
    ],
    "/model/add": ["api_key"],
}  # fmt: skip


@pytest.mark.parametrize(("path", "names"), OPTIONS.items())
def test_null_means_not_given(server, path, names):
    plain = meaning(post(server, path, GOOD[path]))
    everything = {**GOOD[path], **dict.fromkeys(names)}
    assert meaning(post(server, path, everything)) == plain
    for name in names:
        reply = post(server, path, {**GOOD[path], name: None})
        assert reply.status_code == 200, (name, reply.text)


def test_every_optional_field_of_the_document_is_nullable_and_tried(server):
    document = server.client.get("/openapi.json").json()
    for path, names in OPTIONS.items():
        content = document["paths"][path]["post"]["requestBody"]["content"]
        name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
        schema = document["components"]["schemas"][name]
        optional = schema["properties"].keys() - set(schema.get("required", ()))
        assert optional - set(GOOD[path]) <= set(names), path  # type: ignore[call-overload]
        for field in optional:
            assert {"type": "null"} in schema["properties"][field]["anyOf"], (path, field)


def test_null_inside_a_list_means_not_given_too(server):
    term = {"text": "a cat", "weight": None, "image": None, "item": None, "vector": None}
    found = post(server, "/v1/search", {"terms": [term]})
    assert found.status_code == 200, found.text
    pair = {"a": [{"text": "a", "image": None}], "b": [{"image": URI, "text": None}]}
    assert post(server, "/v1/similarity", pair).status_code == 200
    part = {"type": "text", "text": "a", "image_url": None}
    conversation = [{"role": "user", "content": [part]}, {"role": "assistant", "content": None}]
    assert post(server, "/v1/embeddings", {"messages": conversation}).status_code == 200


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("/v1/embeddings", {"dimensions": 0}),
        ("/v1/embeddings", {"dimensions": "", "encoding_format": "", "modality": "", "user": ""}),
        ("/v1/embeddings", {"model": ""}),
        ("/v1/embed", {"dimensions": 0}),
        ("/embed", {"dimensions": 0, "prompt_name": "", "truncation_direction": ""}),
        ("/v2/embed", {"output_dimension": 0, "model": "", "truncate": "", "input_type": ""}),
        ("/api/embed", {"dimensions": 0, "model": ""}),
        ("/knn-service", {"num_result_ids": 0, "image": "", "image_url": "", "indice_name": ""}),
        ("/knn-service", {"embedding_input": []}),
        ("/perception_encoder/embed_text", {"perception_encoder_version_id": "", "model_id": ""}),
    ],
)
def test_zero_and_nothing_mean_not_given(server, path, options):
    plain = meaning(post(server, path, GOOD[path]))
    assert meaning(post(server, path, {**GOOD[path], **options})) == plain


@pytest.mark.parametrize("dimensions", ["0", ""])
def test_empty_fields_of_a_form_mean_not_given(server, dimensions):
    plain = meaning(post(server, "/v1/embed", {"texts": ["a"]}))
    form = {"texts": "a", "dimensions": dimensions, "model": "", "dtype": "", "on_error": ""}
    fields = {name: (None, value) for name, value in form.items()}
    assert meaning(server.client.post("/v1/embed", files=fields)) == plain


def test_a_field_of_a_form_that_is_no_number_is_named(server):
    fields = {"texts": (None, "a"), "dimensions": (None, "9" * 5000)}
    reply = server.client.post("/v1/embed", files=fields)
    assert reply.status_code == 422
    assert reply.json()["error"]["message"].startswith("dimensions: ")
