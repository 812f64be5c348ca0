"""What pages of other origins can do with a server, in a real browser: nothing, unless allowed.

The pages come from another port of loopback, so they are on the same site as the server, which is
the weakest of the borders that browsers draw.
"""

from pathlib import Path
from typing import NamedTuple

import pytest
from local_http import FileHandler, serve_files
from server.conftest import WAIT_MS, launch
from server.other_clients import browser_client
from server.serving import image, make_index, running
from small_models import open_tiny

from perception_encoder.server import ServerSettings
from perception_encoder.server.http.access import hash_key
from perception_encoder.server.options import AccessSettings

KEY = "a-key-of-some-length"


class Pages(NamedTuple):
    """A server of files that is not the one that is tested."""

    url: str
    folder: Path


class _Files(FileHandler):
    extensions_map = {".mjs": "text/javascript", ".html": "text/html", "": "text/plain"}  # noqa: RUF012


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A server of a blank page."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "page.html").write_text("<!doctype html><meta charset=utf-8><title>other</title>")
    with serve_files(folder, _Files) as url:
        yield Pages(url, folder)


def started(folder: Path, **access):
    files = [folder / f"{number}.png" for number in range(3)]
    for number, file in enumerate(files):
        file.write_bytes(image(number))
    model = open_tiny()
    make_index(folder / "t.lance", model, files)
    settings = ServerSettings(
        access=AccessSettings(host="127.0.0.1", **access),
        indexes=(str(folder / "t.lance"),),
        cache_folder=folder / "cache",
    )
    return running(settings, model=model)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with started(tmp_path_factory.mktemp("alone")) as running_server:
        yield running_server


@pytest.fixture(scope="module")
def allowing(tmp_path_factory, pages):
    """A server with a key, one of whose readers the pages are."""
    folder = tmp_path_factory.mktemp("allowing")
    with started(folder, cors_origins=(pages.url,), key_hashes=(hash_key(KEY),)) as running_server:
        running_server.client.headers["X-API-Key"] = KEY
        yield running_server


@pytest.fixture
def page(browser, pages):
    context = browser.new_context()
    found = context.new_page()
    found.set_default_timeout(WAIT_MS)
    found.goto(f"{pages.url}/page.html")
    yield found
    context.close()


def work_done(server) -> list[str]:
    """What the metrics say of computing and searching, and of whether the model is loaded."""
    lines = server.client.get("/metrics").text.splitlines()
    names = ("pe_batch_items_count", "pe_model_loaded", 'pe_requests_total{api="native"')
    return [line for line in lines if line.startswith(names) and "403" not in line]


# What a page can try without any help of the server; each says what it could read.
READ = """async (url) => {
  try {
    const reply = await fetch(url);
    return await reply.text();
  } catch (error) {
    return String(error.name);
  }
}"""
SEND = """async ([url, kind, body]) => {
  const headers = kind === null ? {} : { "Content-Type": kind };
  try {
    return (await fetch(url, { method: "POST", mode: "no-cors", headers, body })).status;
  } catch (error) {
    return 0;
  }
}"""
SHOW = """([tag, url]) => new Promise((resolve) => {
  const element = document.createElement(tag);
  element.onload = () => resolve("loaded");
  element.onerror = () => resolve("refused");
  if (tag === "link") { element.rel = "stylesheet"; element.href = url; } else element.src = url;
  document.head.append(element);
})"""
SUBMIT = """([url, kind]) => {
  const form = document.createElement("form");
  Object.assign(form, { method: "post", action: url, enctype: kind });
  const field = document.createElement("input");
  field.name = '{"texts": ["a cat"], "input": "a cat", "text": "a cat", "x": "';
  field.value = '"}';
  form.append(field);
  document.body.append(form);
  form.submit();
}"""
BODY = '{"texts": ["a cat"], "input": "a cat", "inputs": "a cat", "text": "a cat"}'


READABLE = (
    "/v1/models", "/v1/items", "/v1/duplicates", "/metrics", "/healthz", "/openapi.json", "/",
)  # fmt: skip
COMPUTING = (
    "/v1/embed", "/v1/embeddings", "/embed", "/knn-service", "/v1/search", "/clip/embed_text",
)  # fmt: skip


def test_another_origin_reads_nothing(server, page):
    for path in READABLE:
        before = work_done(server)
        assert page.evaluate(READ, f"{server.url}{path}") == "TypeError", path
        assert page.evaluate(READ, f"http://localhost:{server.port}{path}") == "TypeError", path
        assert work_done(server) == before, path


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_another_origin_has_nothing_computed(server, page, kind):
    for path in COMPUTING:
        before = work_done(server)
        assert page.evaluate(SEND, [f"{server.url}{path}", kind, BODY]) == 0, path
        assert work_done(server) == before, path


def test_another_origin_unloads_no_model(server, page):
    for path in ("/model/clear", "/model/remove"):
        page.evaluate(SEND, [f"{server.url}{path}", "text/plain", '{"model_id": "pe-nano"}'])
    assert server.services.served_models.states()[0].is_loaded


def test_another_origin_shows_no_image_and_runs_no_script(server, page):
    item = server.client.get("/v1/items").json()["items"][0]["id"]
    before = work_done(server)
    for tag, path in (
        ("img", f"/v1/items/{item}/thumbnail"),
        ("img", f"/v1/items/{item}/image"),
        ("script", "/web/main.js"),
        ("script", "/v1/duplicates"),
        ("link", "/web/styles/base.css"),
    ):
        assert page.evaluate(SHOW, [tag, f"{server.url}{path}"]) == "refused"
    assert work_done(server) == before


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
def test_a_form_of_another_origin_is_refused(server, pages, page, kind):
    for path in ("/v1/embed", "/v1/embeddings", "/model/clear"):
        before = work_done(server)
        with page.expect_navigation() as navigation:
            page.evaluate(SUBMIT, [f"{server.url}{path}", kind])
        assert navigation.value.status == 403, path
        assert work_done(server) == before, path
        assert server.services.served_models.states()[0].is_loaded, path
        page.goto(f"{pages.url}/page.html")


def test_a_link_of_another_origin_leads_to_the_page_only(server, page):
    for path, status in (("/v1/duplicates", 403), ("/v1/models", 403), ("/", 200)):
        page.evaluate("(url) => { const a = document.createElement('a'); a.id = 'link';"
                      " a.href = url; a.textContent = 'go'; document.body.replaceChildren(a); }",
                      f"{server.url}{path}")  # fmt: skip
        with page.expect_navigation() as navigation:
            page.click("#link")
        assert navigation.value.status == status
        page.go_back()


def test_a_name_that_leads_here_reads_nothing(browser, server):
    """DNS rebinding: for the browser the page and the server are of one origin."""
    rules = "--host-resolver-rules=MAP rebound.example 127.0.0.1"
    other = launch(browser.browser_type, rules)
    try:
        page = other.new_page()
        reply = page.goto(f"http://rebound.example:{server.port}/")
        assert reply.status == 403
        for path in ("/v1/items", "/v1/models"):
            assert "forbidden_host" in page.evaluate(READ, path)
        assert page.evaluate(SEND, ["/model/clear", None, ""]) == 403
        assert server.services.served_models.states()[0].is_loaded
    finally:
        other.close()


OPENAI = """async ([module, url, key]) => {
  const { default: OpenAI } = await import(module);
  const client = new OpenAI({
    baseURL: `${url}/v1`, apiKey: key, dangerouslyAllowBrowser: true, maxRetries: 0,
  });
  const models = await client.models.list();
  const made = await client.embeddings.create({ model: "pe-nano", input: ["a cat", "a dog"] });
  let failure = null;
  try {
    await client.embeddings.create({ model: "none", input: "a" });
  } catch (error) {
    failure = { status: error.status, code: error.code, id: error.requestID };
  }
  return {
    models: models.data.map((model) => model.id),
    embeddings: made.data.map((one) => one.embedding),
    failure,
  };
}"""


def test_openai_s_client_works_on_a_page_of_an_allowed_origin(allowing, pages, page):
    (pages.folder / "openai").symlink_to(browser_client("openai"))
    module = f"{pages.url}/openai/index.mjs"
    got = page.evaluate(OPENAI, [module, f"{allowing.url}", KEY])
    assert "pe-nano" in got["models"]
    expected = allowing.model.embed_text(["a cat", "a dog"])
    assert abs(expected - got["embeddings"]).max() < 2e-5
    assert got["failure"]["status"] == 404
    assert got["failure"]["code"] == "model_not_found"
    assert got["failure"]["id"]  # X-Request-ID can be read
    refused = page.evaluate(
        "([module, url]) => ("
        + OPENAI
        + ")([module, url, 'no key at all']).catch((e) => e.status)",
        [module, allowing.url],
    )
    assert refused == 401


def test_a_page_of_an_allowed_origin_is_told_when_to_ask_again(tmp_path, pages, page):
    with started(tmp_path, cors_origins=(pages.url,), requests_per_minute=5) as server:
        waits = page.evaluate(
            """async (url) => {
              const waits = [];
              for (let n = 0; n < 10; n += 1) {
                const reply = await fetch(url, { headers: { "X-Whatever": "1" } });
                if (reply.status === 429) waits.push(reply.headers.get("retry-after"));
              }
              return waits;
            }""",
            f"{server.url}/v1/models",
        )
    assert len(waits) >= 5
    assert all(int(wait) >= 1 for wait in waits)


def test_a_page_of_an_allowed_origin_shows_images(tmp_path, pages, page):
    with started(tmp_path, cors_origins=(pages.url,)) as server:
        item = server.client.get("/v1/items").json()["items"][0]["id"]
        for path in ("thumbnail", "image", "thumbnail"):  # the third from the cache
            url = f"{server.url}/v1/items/{item}/{path}"
            assert page.evaluate(SHOW, ["img", url]) == "loaded"
            reply = page.evaluate("(url) => fetch(url).then((reply) => reply.status)", url)
            assert reply == 200
