"""Generators and linters of OpenAPI read /openapi.json, and a generated client works."""

import json
import os
import subprocess

import numpy as np
import pytest
from server.other_clients import SCRIPTS, browser_client, clients_folder, run_client
from server.serving import make_index, running
from small_models import open_tiny, save_drawings

from perception_encoder.server import ServerSettings
from perception_encoder.server.http.access import hash_key
from perception_encoder.server.options import AccessSettings

KEY = "a-key-of-some-length"
ADVICE = """
A route is described by its decorator (server/api/base.py), its body by json_body or form_body
(server/http/requests.py), bytes by BINARY (server/http/replies.py), and a choice of names that
several fields share by a TypeAliasType (server/api/common.py)."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated")
    make_index(folder / "a.lance", open_tiny(), save_drawings(folder, 6))
    settings = ServerSettings(
        indexes=(str(folder / "a.lance"),), access=AccessSettings(key_hashes=(hash_key(KEY),))
    )
    with running(settings, open_model=lambda _: open_tiny()) as running_server:
        yield running_server


@pytest.fixture(scope="module")
def document(server, tmp_path_factory):
    file = tmp_path_factory.mktemp("document") / "openapi.json"
    file.write_bytes(server.client.get("/openapi.json").content)
    return file


def run(*command):
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "REDOCLY_TELEMETRY": "off",
        "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true",
    }
    done = subprocess.run(
        [str(part) for part in command],
        env=environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-3000:]}{done.stderr[-3000:]}{ADVICE}"
    return done.stdout


def test_redocly_finds_nothing(document):
    script = browser_client("@redocly/cli") / "bin" / "cli.js"
    found = json.loads(
        run("node", script, "lint", "--extends", "recommended-strict", "--format=json", document)
    )
    assert found["totals"] == {"errors": 0, "warnings": 0, "ignored": 0}, f"{found}{ADVICE}"


def test_openapi_typescript_makes_types_for_programs(document, tmp_path):
    script = browser_client("openapi-typescript") / "bin" / "cli.js"
    # Without the option fields that have a default could not be left out of a request.
    option = "--default-non-nullable=false"
    run("node", script, document, option, "--output", tmp_path / "generated.d.ts")
    program = tmp_path / "program.ts"
    program.write_bytes((SCRIPTS / "generated_types.ts").read_bytes())
    compiler = browser_client("typescript") / "bin" / "tsc"
    run("node", compiler, "--noEmit", "--strict", "--lib", "es2022", program)


def test_the_generated_python_client_embeds_and_searches(server, document, tmp_path):
    config = tmp_path / "config.yml"
    config.write_text("post_hooks: []\n")  # they only format
    said = run(
        clients_folder() / "bin" / "openapi-python-client", "generate", "--meta=none",
        "--path", document, "--output-path", tmp_path / "generated_client", "--config", config,
    )  # fmt: skip
    assert "arning" not in said, said + ADVICE
    found = run_client("generated_python.py", server.url, KEY, first=[tmp_path])
    assert found["indexes"] == ["a"]
    wanted = server.model.embed_text("a red heart")[0]
    np.testing.assert_allclose(found["embedding"], wanted, atol=1e-5)
    assert [score for _, score in found["hits"]] == sorted(
        (score for _, score in found["hits"]), reverse=True
    )
    reply = server.client.post(
        "/v1/search",
        json={"terms": [{"text": "a red heart"}], "k": 2},
        headers={"X-API-Key": KEY},
    )
    assert [name for name, _ in found["hits"]] == [hit["name"] for hit in reply.json()["hits"]]
    assert found["is_jpeg"]
    assert [one["type"] for one in found["uploaded"]["data"]] == ["image"]
    assert found["refused"]["error"]["items"][0]["code"] == "invalid_image"
    assert found["without_key"]["error"]["code"] == "unauthorized"
