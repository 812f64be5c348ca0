"""Whatever stands in any field of any request, the reply is the client's error or a result."""

import dataclasses
import re

import pytest
from server.hostile import BODIES, VALUES, check_reply, error_forms, paths_of, replaced
from server.serving import make_index, running
from small_models import reopen_tiny, save_drawings

from perception_encoder.server import ServerSettings
from perception_encoder.server.options import ImageSettings, ModelSettings


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    model = reopen_tiny(folder / "tiny")
    make_index(folder / "a.lance", model, save_drawings(folder, 12))
    settings = ServerSettings(
        indexes=(str(folder / "a.lance"),),
        images=ImageSettings(allow_urls=True, allow_http=True, url_timeout_seconds=1),
    )
    models = ModelSettings(aliases=(("clip/tiny", "pe-nano"),))
    settings = dataclasses.replace(settings, models=models)
    with running(settings, open_model=lambda _: model) as running_server:
        yield running_server


@pytest.fixture(scope="module")
def document(server):
    return server.client.get("/openapi.json").json()


def test_every_post_of_the_document_has_bodies(document):
    taking = {
        path
        for path, methods in document["paths"].items()
        if "application/json" in methods.get("post", {}).get("requestBody", {}).get("content", {})
    }
    tried = {path.partition("#")[0].replace("/indexes/a/", "/indexes/{name}/") for path in BODIES}
    assert taking == tried


@pytest.mark.parametrize("path", BODIES)
def test_no_value_of_any_field_of_a_body_is_the_servers_fault(server, document, path):
    body = BODIES[path]
    errors = error_forms(document)("POST", path)
    places = list(paths_of(body))
    status = int((re.findall(r"#(\d+)", path) or ["200"])[0])
    assert server.client.post(path.partition("#")[0], json=body).status_code == status
    # Each field tries half of the values, and another half in the next body of the same route; of
    # nested fields, which are many, each tries a third.
    for number, place in enumerate(places, list(BODIES).index(path)):
        part = 3 if len(place) > 1 else 2
        for value in VALUES[number % part :: part]:
            check_value(server, path, place, value, errors)


def check_value(server, path, place, value, errors):
    content = replaced(BODIES[path], place, value)
    reply = server.client.post(
        path.partition("#")[0],
        content=content.encode(),
        headers={"Content-Type": "application/json"},
    )
    check_reply(reply, (place, value[:100]), errors)


QUERY_VALUES = (
    "", "a", "-1", "0", "1", "1.5", "1e400", "nan", "inf", "-inf", "true", "null", "9" * 19,
    "9" * 5000, "%00", "%ff%fe", "%ed%a0%80", "a%0d%0aX:y", "..%2f..", "é", "[]", "{}",
    "%5B%7B%22column%22%3A%22width%22%2C%22value%22%3A99999999999999999999%7D%5D", "%5B" * 300,
    "%5B%7B%7D%5D", "%22%5Cud800%22",
)  # fmt: skip


def parameters_of(document):
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] in ("query", "path"):
                    yield method, path, parameter["name"], parameter["in"]


def test_no_value_of_any_parameter_is_the_servers_fault(server, document):
    found = list(parameters_of(document))
    assert {name for _, _, name, _ in found} >= {"offset", "limit", "filters", "size", "item"}
    forms = error_forms(document)
    for method, path, name, kind in found:
        for value in QUERY_VALUES:
            filled = path.replace(f"{{{name}}}", value)
            url = filled if kind == "path" else f"{path}?{name}={value}"
            url = url.replace("{item}", "x").replace("{name}", "a")
            reply = server.client.request(method, url)
            is_found = "{" not in url and value and not value.startswith("..")
            errors = forms(method, path) if is_found else forms("GET", "/v1/items")
            check_reply(reply, url[:200], errors)
