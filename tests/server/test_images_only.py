"""An index of a vision-only model: searched with images, and with texts if its twin is served."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect
from server.pages import bring, expect_search, names, wait_for_results
from server.serving import Running, in_base64, make_index, running
from small_models import save_drawings
from twins import BOTH, VISION, register

from perception_encoder import AutoModel, EmbeddingModel
from perception_encoder.server import ServerSettings
from perception_encoder.server.options import ModelSettings


def opened(name: str) -> EmbeddingModel:
    return AutoModel.from_pretrained(name, device="cpu", backend="torch", precision="fp32")


@contextmanager
def serving(folder: Path, *names: str) -> Iterator[Running]:
    """A server of an index of the vision-only model, with some models."""
    settings = ServerSettings(
        indexes=(str(folder / "t.lance"),), models=ModelSettings(names=names, preload=False)
    )
    with running(settings, model=opened(VISION), open_model=opened) as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("twins")
    with pytest.MonkeyPatch.context() as patch:
        register(patch, path / "hub")
        make_index(path / "t.lance", opened(VISION), save_drawings(path, 6))
        yield path


@pytest.fixture(scope="module")
def alone(folder: Path) -> Iterator[Running]:
    with serving(folder) as server:
        yield server


def test_models_and_indexes_say_that_no_text_is_read(alone: Running) -> None:
    (model,) = alone.client.get("/v1/models").json()["data"]
    assert (model["id"], model["reads_text"], model["text_twin"]) == (VISION, False, BOTH)
    for index in (
        alone.client.get("/v1/indexes").json()["data"][0],
        alone.client.get("/v1/indexes/t").json(),
    ):
        assert (index["model"], index["text_model"], index["text_twin"]) == (VISION, None, BOTH)


def test_an_image_is_searched_and_a_text_names_the_twin(alone: Running, folder: Path) -> None:
    image = {"image": in_base64((folder / "drawing3.png").read_bytes())}
    reply = alone.client.post("/v1/search", json={"terms": [image], "k": 2})
    assert reply.status_code == 200, reply.text
    assert reply.json()["hits"][0]["uri"].endswith("drawing3.png")
    refused = alone.client.post("/v1/search", json={"terms": [{"text": "cat"}]})
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "unsupported_by_model"
    assert f"pe serve --model {BOTH}" in refused.json()["error"]["message"]
    refused = alone.client.post("/v1/embeddings", json={"input": "cat"})
    assert refused.status_code == 400
    assert BOTH in refused.json()["error"]["message"]
    assert len(alone.client.get("/v1/indexes/t/duplicates").json()) > 0


def test_the_twin_embeds_texts_and_images_for_the_index(folder: Path) -> None:
    with serving(folder, BOTH) as server:
        index = server.client.get("/v1/indexes/t").json()
        assert index["text_model"] == BOTH
        reply = server.client.post("/v1/search", json={"terms": [{"text": "cat"}], "k": 6}).json()
        vector = np.frombuffer(base64.b64decode(reply["query"]["vector"]), "<f4")
        expected = opened(BOTH).embed_text("cat")[0]
        np.testing.assert_allclose(vector, expected, atol=1e-4)
        assert len(reply["hits"]) == 6
        image = {"image": in_base64((folder / "drawing3.png").read_bytes())}
        reply = server.client.post("/v1/search", json={"terms": [image], "k": 1}).json()
        assert reply["hits"][0]["uri"].endswith("drawing3.png")
        loaded = {
            one["id"]: one["loaded"] for one in server.client.get("/v1/models").json()["data"]
        }
        assert loaded == {BOTH: True, VISION: False}


def test_the_page_asks_for_an_image_and_says_why(alone: Running, open_page, folder: Path) -> None:
    page = open_page(alone.url, expected=("400",))
    wait_for_results(page)
    note = page.get_by_role("note", name="Search with images")
    expect(note).to_contain_text(f"{VISION}, reads no text")
    expect(note).to_contain_text(f"--model {BOTH}")
    expect(page.get_by_label("Not this")).to_be_hidden()
    with expect_search(page):
        bring(page, folder / "drawing2.png")
    wait_for_results(page)
    assert names(page)[0] == "drawing2.png"


def test_the_page_describes_images_with_the_twin(open_page, folder: Path) -> None:
    with serving(folder, BOTH) as server:
        page = open_page(server.url)
        wait_for_results(page)
        expect(page.get_by_role("note", name="Search with images")).to_be_hidden()
        expect(page.get_by_label("Not this")).to_be_visible()
