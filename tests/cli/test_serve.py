"""`pe serve` as people run it: it answers, refuses what is not safe, and ends in order."""

import concurrent.futures
import re
import signal
import socket
import time
from pathlib import Path

import httpx2
import pytest
from cli.command import output, pe, pe_ending, serving

from perception_encoder.server.http.access import generate_key, hash_key

GALLERY = Path(__file__).resolve().parents[2] / "src" / "perception_encoder" / "data" / "gallery"


def test_it_starts_with_the_bundled_model_and_searches_an_index(tmp_path):
    pe_ending("index", str(GALLERY), "--index", "t.lance", folder=tmp_path)
    assets = str(tmp_path / "assets")
    with serving("--index", "t.lance", folder=tmp_path, HF_ASSETS_CACHE=assets) as (client, _):
        assert client.get("/healthz").json() == {"status": "healthy"}
        cat = (GALLERY / "cat.webp").read_bytes()
        reply = client.post("/v1/embed", content=cat, headers={"Content-Type": "image/webp"})
        assert len(reply.json()["data"][0]["embedding"]) == 192
        hits = client.post("/v1/search", json={"terms": [{"text": "a cat"}], "k": 3}).json()["hits"]
        assert len(hits) == 3
        assert client.get(f"/v1/items/{hits[0]['id']}/thumbnail").status_code == 200
    assert list((tmp_path / ".cache" / "perception-encoder" / "thumbnails").rglob("*.jpg"))
    # Where OpenVINO would note what it tells its makers; its graphs were exported anew.
    assert list(tmp_path.rglob("graph.xml"))
    assert not (tmp_path / "intel").exists()


def test_it_serves_the_default_index_and_opens_the_page(tmp_path):
    pe_ending("index", str(GALLERY / "cat.webp"), folder=tmp_path)
    opener = tmp_path / "browser"
    opener.write_text(f"#!/bin/sh\ncd {tmp_path}\necho $1 > opening\nmv opening opened\n")
    opener.chmod(0o755)
    with serving("--open", folder=tmp_path, BROWSER=f"{opener} %s") as (client, _):
        (served,) = client.get("/v1/indexes").json()["data"]
        assert served["rows"] == 1
        end = time.monotonic() + 100
        while not (tmp_path / "opened").exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        assert str(client.base_url).rstrip("/") in (tmp_path / "opened").read_text()


def test_told_to_end_it_answers_what_it_has_accepted(tmp_path):
    with serving(folder=tmp_path, PE_LOG_FORMAT="json") as (client, process):
        url = str(client.base_url)
        body = {"texts": [f"text {number}" for number in range(512)]}

        def ask() -> int:
            return httpx2.post(f"{url}/v1/embed", json=body, timeout=100).status_code

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask)
            idle = 'pe_queue_items{modality="text",model="pe-nano"} 0.0'
            while not asked.done() and idle in client.get("/metrics").text:
                time.sleep(0.001)
            process.send_signal(signal.SIGTERM)
            assert asked.result() == 200
        assert process.wait(200) in (0, -signal.SIGTERM)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.com"])
def test_it_does_not_listen_to_everybody_without_a_key(tmp_path, host):
    done = pe("serve", "--host", host, folder=tmp_path)
    assert done.returncode == 2
    assert "there is no key" in done.stderr


def test_a_port_in_use_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = pe("serve", "--no-preload", "--port", port, folder=tmp_path)
    assert done.returncode == 1
    assert port in done.stderr
    assert "choose another address or port" in done.stderr


def test_keys_are_made_and_asked_for(tmp_path):
    done = pe("serve", "--new-key", folder=tmp_path)
    key = output(done).strip()
    assert f"sha256:{hash_key(key)}" in done.stderr
    other = generate_key()
    (tmp_path / "keys").write_text(f"# ours\n{other}\nsha256:{hash_key(key)}\n")
    with serving("--key-file", "keys", folder=tmp_path) as (client, _):
        assert client.get("/v1/models").status_code == 401
        for one in (key, other):
            headers = {"Authorization": f"Bearer {one}"}
            assert client.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--index", "nowhere.lance"], "there is no index at nowhere.lance"),
        (["--key-file", "empty"], "holds no key"),
        (["--key-file", "missing"], "missing"),
        (["--port", "70000"], "Invalid value for '--port'"),
        (["--immich-ml", "immich:3003"], "no address of Immich's machine-learning server"),
    ],
)
def test_what_it_cannot_start_with(tmp_path, arguments, message):
    (tmp_path / "empty").write_text("\n")
    done = pe("serve", *arguments, folder=tmp_path)
    assert done.returncode in (1, 2)
    assert message in done.stderr


def test_every_option_is_an_environment_variable(tmp_path):
    text = " ".join(output(pe("serve", "--help", folder=tmp_path)).partition("Options:")[2].split())
    parts = [part for part in re.split(r" (?=--[a-z])", text) if not part.endswith(" /")]
    without = [part for part in parts if "[env var: PE_" not in part]
    assert len(parts) > 25
    assert {part.split()[0] for part in without} <= {"--help", "--new-key", "--open", "-m,"}
