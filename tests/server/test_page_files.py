"""The page's files as the server gives them; no browser needed."""

import re
from pathlib import Path

import httpx2
import pytest
from server.serving import running

import perception_encoder.server
from perception_encoder.server import ServerSettings
from perception_encoder.server.api.page import join_modules
from perception_encoder.server.http.access import hash_key
from perception_encoder.server.options import AccessSettings

WEB = Path(perception_encoder.server.__file__).parent / "web"
SCRIPTS = sorted(WEB.glob("*.js"))
KEY = "a key of twenty signs"


@pytest.fixture(scope="module")
def server():
    with running() as running_server:
        yield running_server


def test_the_page_loads_nothing_from_elsewhere_and_has_nothing_inline(server):
    reply = server.client.get("/")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<style|style=|<script(?![^>]*src=)|\son\w+=", reply.text)
    addresses = re.findall(r'(?:src|href)="([^"]+)"', reply.text)
    assert addresses
    assert [one for one in addresses if not one.startswith(("web/", "v1/", "?", "#"))] == []


def test_the_page_is_one_script_and_one_style_sheet_that_browsers_keep(server):
    text = server.client.get("/").text
    named = re.findall(r'"(web/[^"]+)"', text)
    assert sorted({path.rpartition(".")[2] for path in named}) == ["css", "js", "svg"]
    assert len([path for path in named if path.endswith(".css")]) == 1
    kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    contents = {}
    for path in named:
        reply = server.client.get(f"/{path}")
        assert reply.status_code == 200, path
        assert reply.headers["content-type"].startswith(kinds[Path(path).suffix])
        assert "immutable" in reply.headers["cache-control"]
        contents[path.split(".")[0] + Path(path).suffix] = reply.text
    for script in SCRIPTS:
        first_line = script.read_text().splitlines()[0]
        assert any(first_line in content for content in contents.values()), script.name
    for style in WEB.glob("styles/*.css"):
        assert style.read_text() in contents["web/page.css"], style.name


@pytest.mark.parametrize(
    "text",
    [
        'import * as other from "./other.js";\n',
        'import "./other.js";\n',
        "export default 1;\n",
        "export let count = 1;\n",
        'import { a } from "./main.js";\n',
    ],
)
def test_modules_that_cannot_be_joined_are_refused(text):
    with pytest.raises(ValueError, match=r"cannot be joined|import each other"):
        join_modules({"main.js": text, "other.js": ""}, "main.js")


def test_unchanged_files_are_not_sent_again(server):
    first = server.client.get("/web/main.js")
    again = server.client.get("/web/main.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = server.client.get("/web/main.js", headers={"If-None-Match": '"another"'})
    assert other.content == first.content


@pytest.mark.parametrize(
    "path", ["/web/", "/web/none.js", "/web/../app.py", "/web/..%2fapp.py", "/web/styles", "/web//"]
)
def test_nothing_else_can_be_had(server, path):
    with httpx2.Client(base_url=server.url) as client:
        assert client.get(path).status_code == 404


def test_the_page_can_be_switched_off():
    with running(ServerSettings(serve_page=False)) as without:
        assert without.client.get("/web/main.js").status_code == 404
        assert "text/html" not in without.client.get("/").headers["content-type"]


def test_the_page_needs_no_key_and_what_it_asks_for_does():
    access = AccessSettings(key_hashes=(hash_key(KEY),))
    with running(ServerSettings(access=access)) as closed:
        assert closed.client.get("/").status_code == 200
        assert closed.client.get("/web/main.js").status_code == 200
        assert closed.client.get("/v1/indexes").status_code == 401
