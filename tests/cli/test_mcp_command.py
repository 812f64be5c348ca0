"""`pe mcp` as programs start it: a process of its own on stdin and stdout, and what it refuses."""

import json
import os
import shlex
import signal
import time
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal
from child_processes import build_environment
from cli.command import PE, output, pe, pe_ending
from documentation.blocks import blocks_of
from mcp import Client, StdioServerParameters, stdio_client
from typer.main import get_command

from perception_encoder.cli.main import app
from perception_encoder.server import run
from perception_encoder.server.http.access import hash_key

GALLERY = Path(__file__).resolve().parents[2] / "src" / "perception_encoder" / "data" / "gallery"
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "a program", "version": "1"},
    },
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    names = ("cat", "airplane", "banana", "bicycle", "anchor")
    pe_ending("index", *(str(GALLERY / f"{name}.webp") for name in names), folder=folder)
    return folder


def test_the_reference_client_starts_it_searches_and_reads_nothing_but_the_protocol(home, tmp_path):
    command = shlex.join([*PE, "mcp"])
    script = f"{{ sh -c 'echo $$ > pid; exec {command}'; echo $? > code; }} 2> errors | tee said"
    started = StdioServerParameters(
        command="sh", args=["-c", script], cwd=tmp_path, env=build_environment(home)
    )

    async def ask():
        async with Client(stdio_client(started), mode="legacy") as client:
            listed = await client.list_tools()
            found = await client.call_tool("search", {"query": "a drawing of a cat", "k": 1})
            item = found.structured_content["hits"][0]["id"]
            shown = await client.call_tool("get_thumbnail", {"item": item})
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
            until = time.monotonic() + 60
            while not (tmp_path / "code").exists() and time.monotonic() < until:
                time.sleep(0.05)
        return listed, found, shown

    with start_blocking_portal() as portal:
        listed, found, shown = portal.call(ask)
    assert len(listed.tools) == 5
    assert found.structured_content["hits"][0]["name"].endswith("cat.webp")
    assert [content.type for content in shown.content] == ["text", "image"]
    said = [json.loads(line) for line in (tmp_path / "said").read_text().splitlines()]
    assert len(said) >= 4
    assert all(one["jsonrpc"] == "2.0" for one in said)
    assert int((tmp_path / "code").read_text()) == 128 + signal.SIGTERM


def test_it_ends_when_the_program_closes_its_stdin(home):
    done = pe("mcp", folder=home, given=json.dumps(INITIALIZE) + "\n")
    assert done.returncode == 0, output(done)
    for line in done.stdout.splitlines():
        assert json.loads(line)["jsonrpc"] == "2.0"


def test_without_an_index_it_says_how_to_make_one(tmp_path):
    done = pe("mcp", folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "make one with `pe index FOLDER`" in done.stderr
    done = pe("mcp", "--index", "none.lance", folder=tmp_path)
    assert done.returncode == 1
    assert "none.lance" in done.stderr


def test_over_http_it_is_the_server_without_its_page(home, monkeypatch):
    started = []
    monkeypatch.setattr(run, "run_server", lambda chosen, **more: started.append((chosen, more)))
    key = "a-key-of-some-length"
    done = pe("mcp", "--http", "--port", "0", folder=home, PE_KEYS=key)
    assert done.returncode == 0, output(done)
    ((chosen, more),) = started
    assert (more["host"], more["port"]) == ("127.0.0.1", 0)
    assert (chosen.serve_mcp, chosen.serve_page) == (True, False)
    assert chosen.access.key_hashes == (hash_key(key),)
    assert chosen.access.host == "127.0.0.1"
    done = pe("mcp", "--http", "--host", "0.0.0.0", folder=home)
    assert done.returncode == 2
    assert "there is no key" in done.stderr


def test_the_configurations_of_the_documentation_start_it():
    found = [json.loads(b.text) for b in blocks_of("docs/guides/mcp.md") if b.language == "json"]
    assert len(found) == 3
    for configuration in found:
        ((kind, servers),) = configuration.items()
        assert kind in ("mcpServers", "servers")
        if "command" in servers["images"]:
            assert [servers["images"]["command"], servers["images"]["args"][0]] == ["pe", "mcp"]
            get_command(app).make_context("pe", servers["images"]["args"], resilient_parsing=True)


def test_without_the_package_it_says_what_to_install(home, monkeypatch):
    monkeypatch.setattr("perception_encoder.cli.serve.find_spec", lambda _: None)
    for command in (("mcp",), ("serve", "--mcp")):
        done = pe(*command, folder=home)
        assert done.returncode == 2
        assert "pip install 'perception-encoder[mcp]'" in done.stderr
