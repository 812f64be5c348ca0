"""Bodies that routes accept, values that nobody should send, and what each error looks like."""

import json

from server.serving import data_uri, image

URI, OTHER = data_uri(image(1)), data_uri(image(2))

BODIES = {
    "/v1/embed": {
        "texts": ["a cat"], "images": [URI], "model": "pe-nano", "dimensions": 3, "dtype": "int8",
        "encoding": "float", "on_error": "report",
    },
    "/v1/similarity": {
        "a": [{"text": "a cat"}], "b": [{"image": URI}, {"text": "a dog"}], "model": "pe-nano",
    },
    "/v1/classify": {
        "images": [URI], "labels": ["a cat", "a dog"], "templates": ["a {}"], "model": "pe-nano",
    },
    "/v1/explain": {
        "image": URI, "texts": ["a cat", "a dog"], "model": "pe-nano", "format": "json",
    },
    "/v1/explain#404": {"item": "x", "index": "a", "texts": ["a"]},
    "/v1/search": {
        "terms": [
            {"text": "a cat", "weight": 2.0}, {"image": URI},
        ],
        "index": "a", "k": 3, "offset": 1, "threshold": 0.1, "unique": 0.9, "exact": True,
        "include_own": True,
        "filters": [
            {"column": "width", "op": ">=", "value": 1}, {"column": "color", "value": "red"},
            {"column": "number", "op": "in", "value": [1, 2]},
            {"column": "mtime", "op": "<", "value": "2030-01-01T00:00:00"},
            {"column": "color", "op": "contains", "value": "e"}, {"column": "color", "op": "has"},
        ],
    },
    "/v1/search#texts": {
        "terms": [{"text": "a"}], "text": "a", "text_weight": 0.3, "pairs": False, "sort": "score",
    },
    "/v1/search#part": {"terms": [{"image": URI, "crop": "percent:0,0,50,50"}], "k": 2},
    "/v1/search#marks": {"like": [{"image": URI}], "unlike": [{"image": OTHER}], "k": 2},
    "/v1/search#404 rerank": {"terms": [{"text": "a"}], "rerank": "none", "candidates": 9, "k": 2},
    "/v1/search#400 marks": {"like": [{"item": "x"}], "terms": [{"text": "a"}]},
    "/v1/classify#400": {"images": [URI], "classifier": "x"},
    "/v1/teach#400": {"examples": {"a": ["x"], "b": ["y"]}, "none": ["z"], "index": "a"},
    "/v1/search#400 photos": {
        "terms": [{"text": "a"}], "since": "2020", "until": "2021-02", "near": "48.1,11.5,5km",
        "camera": "x", "bursts": 2.0,
    },
    "/v1/indexes/a/searches#400": {"name": "birds", "k": 3, "offset": 1},
    "/v1/indexes/a/searches/save": {
        "name": "kept", "terms": [{"text": "a cat", "weight": 2.0}, {"query": "a dog"}],
        "text": "a", "text_weight": 0.3, "k": 3, "offset": 1, "threshold": -0.5, "unique": 0.9,
        "exact": True, "pairs": False, "sort": "score", "page": "?q=a+cat",
        "filters": [{"column": "width", "op": ">=", "value": 1}],
    },
    "/v1/indexes/a/searches/remove#400": {"name": "none"},
    "/v1/search#400": {"terms": [{"text": "a"}, {"item": "x"}]},
    "/v1/search#400 vector": {"terms": [{"vector": "AACAPw==", "weight": -1}]},
    "/v1/embeddings": {
        "model": "pe-nano", "input": ["a cat", {"text": "a"}, {"image": URI}], "modality": "text",
        "encoding_format": "base64", "dimensions": 3, "user": "me",
    },
    "/v1/embeddings#messages": {
        "messages": [
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": URI}}]}],
            [{"role": "user", "content": "a cat"}],
        ],
    },
    "/embed": {
        "inputs": ["a cat", URI], "truncate": False, "truncation_direction": "Right",
        "prompt_name": None, "normalize": False, "dimensions": 3,
    },
    "/similarity": {
        "inputs": {"source_sentence": "a cat", "sentences": ["a dog", URI]},
        "parameters": {"truncate": False, "truncation_direction": "Right", "prompt_name": None},
    },
    "/v2/embed": {
        "model": "pe-nano", "input_type": "search_query", "texts": ["a cat"],
        "embedding_types": ["float", "binary"], "output_dimension": 3, "truncate": "NONE",
        "images": [], "inputs": [],
    },
    "/v2/embed#inputs": {
        "inputs": [
            {"content": [{"type": "image_url", "image_url": {"url": URI}}]},
            {"content": [{"type": "text", "text": "a"}]},
        ],
    },
    "/api/embed": {
        "model": "pe-nano:latest", "input": ["a cat", URI], "truncate": False, "dimensions": 3,
        "keep_alive": "5m", "options": {},
    },
    "/api/embeddings": {"model": "pe-nano", "prompt": "a cat"},
    "/knn-service": {
        "text": "a cat", "image": URI, "image_url": "https://example.com/a.png",
        "embedding_input": [1.0], "modality": "image", "num_images": 2, "num_result_ids": 3,
        "indice_name": "a", "deduplicate": True, "use_mclip": False,
    },
    "/knn-service#image": {"image": URI, "num_images": 1},
    "/knn-service#vector": {"embedding_input": [1.0] * 24},
    "/metadata#404": {"ids": ["x"], "indice_name": "a"},
    "/v1/items/download#404": {"ids": ["x"], "index": "a", "format": "csv"},
    "/perception_encoder/embed_text": {
        "text": ["a cat"], "id": "1", "model_id": "pe-nano", "api_key": "k",
        "perception_encoder_version_id": "pe-nano",
    },
    "/perception_encoder/embed_image": {"image": [{"type": "base64", "value": URI}, URI]},
    "/perception_encoder/compare": {
        "subject": {"type": "base64", "value": URI}, "subject_type": "image",
        "prompt": {"x": "a cat"}, "prompt_type": "text",
    },
    "/clip/compare#400": {
        "subject": "a cat", "subject_type": "text", "prompt": [{"type": "url", "value": "https://["}],
        "prompt_type": "image", "clip_version_id": "tiny",
    },
    "/clip/embed_text": {"text": "a cat", "clip_version_id": "tiny"},
    "/clip/embed_image": {"image": URI, "clip_version_id": "tiny"},
    "/model/add": {"model_id": "pe-nano", "api_key": "k"},
    "/model/remove#404": {"model_id": "nothing"},
}  # fmt: skip
"""By path; after # comes what tells bodies of one path apart: a status other than 200, a word."""

# As JSON texts, since not every one is a value of Python.
VALUES = (
    "null", "true", "false", "-1", "0", "1", "2147483648", "9223372036854775808",
    "-9223372036854775809", "18446744073709551616", "1" * 300, "1" * 400, "9" * 5000,
    "1e308", "-1e308", "1e400", "5e-324", "0.1", "-0", "NaN", "Infinity", "-Infinity",
    "[" * 300 + "]" * 300,
    "[]", "[[]]", "[null]", "[1, \"a\", null]", "{}", '{"": ""}', '{"a": {"b": [{}]}}',
    *(
        json.dumps(text)
        for text in (
            "", " ", "\0", "a\0b", "1", "1e400", "NaN", "9" * 5000, "0001-01-01T00:00:00+23:59",
            "9999-12-31T23:59:59.999999-23:59", "2020-02-30", "T", "\ud800", "\udfff\ud800",
            "é" * 50, "\U0001f600",
            "'; --", "%s%n", "$1", "?", "`", '"', "\\", "A" * 3000, "AAAA", "====",
            "data:", "data:,", "data:;base64,", "data:image/png;base64,%%%", "http://[",
            "http://a:99999999/", "http://\u2100.com", "https://user@h/", "//", "file:///etc/passwd",
            "../..", "\r\nX: y", "\x1b[31m", "\u202e", "None", "🏳️‍🌈" * 20,
        )
    ),
)  # fmt: skip


MOST_ITEMS = 6  # of a list of a body whose places are tried


def paths_of(value, path=()):
    """Every place of a JSON value, the whole of it first."""
    yield path
    if isinstance(value, dict):
        for name, one in value.items():
            yield from paths_of(one, (*path, name))
    elif isinstance(value, list):
        for position, one in enumerate(value[:MOST_ITEMS]):
            yield from paths_of(one, (*path, position))


def replaced(value, path, written):
    """A JSON value as text, with another one at a place."""
    if not path:
        return written
    if isinstance(value, dict):
        parts = (
            f"{json.dumps(name)}: {replaced(one, path[1:], written)}"
            if name == path[0]
            else f"{json.dumps(name)}: {json.dumps(one)}"
            for name, one in value.items()
        )
        return "{" + ", ".join(parts) + "}"
    parts = (
        replaced(one, path[1:], written) if position == path[0] else json.dumps(one)
        for position, one in enumerate(value)
    )
    return "[" + ", ".join(parts) + "]"


def check_reply(reply, asked, errors):
    """A reply is JSON that strict parsers read; an error is the client's, in its API's form.

    Args:
        reply: of the server.
        asked: what was sent, to be shown.
        errors: for a path the validator of its errors, as of `error_forms`.
    """
    assert reply.status_code < 500, (asked, reply.text)
    if not reply.headers.get("content-type", "").startswith("application/json"):
        assert reply.status_code in (200, 204, 304, 307), (asked, reply.text)
        return
    content = json.loads(reply.content.decode("utf-8", "strict"), parse_constant=_refused)
    if reply.status_code >= 400:
        found = [problem.message for problem in errors.iter_errors(content)]
        assert found == [], (asked, content)
        assert len(reply.content) < 5000, (asked, len(reply.content))


def _refused(constant):
    raise AssertionError(f"{constant} is not JSON")


def error_forms(document):
    """For a method and path of the OpenAPI document the validator of their errors."""
    import jsonschema

    def form(method, path):
        operation = document["paths"][
            path.partition("#")[0].replace("/indexes/a/", "/indexes/{name}/")
        ][method.lower()]
        for status, reply in operation["responses"].items():
            if "400" <= status < "500":
                schema = reply["content"]["application/json"]["schema"]
                return jsonschema.Draft202012Validator(
                    {**schema, "components": document["components"]}
                )
        raise AssertionError(f"{path} describes no errors")

    return form
