"""Who may ask: keys, sessions, rates, and what is never written down."""

import json
import logging

import pytest
from server.serving import data_uri, image, running

from perception_encoder.server import ServerSettings
from perception_encoder.server.http.access import generate_key, hash_key, read_key_hash
from perception_encoder.server.http.telemetry import JsonFormatter, TextFormatter
from perception_encoder.server.options import AccessSettings

KEYS = [generate_key(), generate_key()]


@pytest.fixture(scope="module")
def server():
    access = AccessSettings(key_hashes=tuple(hash_key(key) for key in KEYS))
    with running(ServerSettings(access=access)) as running_server:
        yield running_server


@pytest.mark.parametrize("key", KEYS, ids=["first", "second"])
def test_each_key_is_accepted_in_either_header(server, key):
    for headers in ({"Authorization": f"Bearer {key}"}, {"X-API-Key": key}):
        assert server.client.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer None"},
        {"Authorization": f"Basic {KEYS[0]}"},
        {"Authorization": f"Bearer {KEYS[0][:-1]}"},
        {"X-API-Key": hash_key(KEYS[0])},
        {"Cookie": "pe_session=" + KEYS[0]},
    ],
)
def test_nothing_else_is(server, headers):
    for path in ("/v1/models", "/v1/items", "/metrics"):
        reply = server.client.get(path, headers=headers)
        assert reply.status_code == 401
        assert reply.json()["error"]["code"] == "unauthorized"
        assert reply.headers["www-authenticate"] == "Bearer"
    assert server.client.get(f"/v1/models?api_key={KEYS[0]}").status_code == 401


def test_whoever_watches_needs_no_key(server):
    assert server.client.get("/healthz").status_code == 200
    assert server.client.get("/readiness").status_code == 200


def test_a_body_is_not_read_without_a_key(server):
    reply = server.client.post("/v1/embed", content=b"{" * 100)
    assert reply.status_code == 401


def test_a_session_stands_for_a_key(server):
    key = {"Authorization": f"Bearer {KEYS[0]}"}
    assert server.client.post("/v1/session").status_code == 401
    reply = server.client.post("/v1/session", headers=key)
    cookie = reply.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    token = cookie.partition("=")[2].partition(";")[0]
    server.client.cookies.clear()
    assert (
        server.client.get("/v1/models", headers={"Cookie": f"pe_session={token}"}).status_code
        == 200
    )


def test_a_rate_is_held_for_each_key():
    access = AccessSettings(key_hashes=tuple(hash_key(key) for key in KEYS), requests_per_minute=3)
    with running(ServerSettings(access=access)) as server:
        first, second = ({"X-API-Key": key} for key in KEYS)
        codes = [server.client.get("/v1/models", headers=first).status_code for _ in range(5)]
        assert codes == [200, 200, 200, 429, 429]
        reply = server.client.get("/v1/models", headers=first)
        assert 1 <= int(reply.headers["retry-after"]) <= 21
        assert server.client.get("/v1/models", headers=second).status_code == 200


def test_pages_of_other_sites_may_not_ask_unless_told():
    ask = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    with running() as server:
        assert (
            "access-control-allow-origin"
            not in server.client.options("/v1/embed", headers=ask).headers
        )
    access = AccessSettings(cors_origins=("https://a.example",))
    with running(ServerSettings(access=access)) as server:
        allowed = server.client.options("/v1/embed", headers=ask)
        assert allowed.headers["access-control-allow-origin"] == "https://a.example"
        other = server.client.options("/v1/embed", headers={**ask, "Origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers


def test_logs_hold_neither_keys_nor_images(server, caplog):
    uri = data_uri(image(3))
    with caplog.at_level(logging.DEBUG):
        headers = {"Authorization": f"Bearer {KEYS[0]}"}
        server.client.post("/v1/embed", json={"images": [uri, "***"]}, headers=headers)
        server.client.get(f"/v1/models?api_key={KEYS[1]}")
    written = [record for record in caplog.records if record.name.startswith("perception_encoder")]
    assert len(written) >= 2
    for formatter in (JsonFormatter(), TextFormatter("%(message)s")):
        text = "\n".join(map(formatter.format, written))
        for secret in (*KEYS, uri[40:80]):
            assert secret not in text
    event = json.loads(JsonFormatter().format(written[0]))
    assert event["status"] == 400
    assert event["api"] == "native"
    assert event["error"] == "invalid_image_reference"
    assert event["request_id"]


def test_key_files_hold_keys_or_hashes():
    assert (
        read_key_hash(f"sha256:{hash_key(KEYS[0])}") == read_key_hash(KEYS[0]) == hash_key(KEYS[0])
    )
    for line in ("sha256:12", "short"):
        with pytest.raises(ValueError, match="key"):
            read_key_hash(line)
