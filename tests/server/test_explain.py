"""POST /v1/explain, and "Why this image" in the viewer of the page."""

import io

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect
from server.pages import overflows, search
from server.serving import data_uri, make_index, running
from small_models import open_tiny

from perception_encoder import AutoModel
from perception_encoder.server import ServerSettings

TEXTS = ["a cat", "a house"]


@pytest.fixture(scope="module")
def server(tmp_path_factory, gallery):
    folder = tmp_path_factory.mktemp("explained")
    model = AutoModel.from_pretrained("pe-nano", device="cpu", precision="fp32")
    names = ("cat-left-of-house", "cat", "castle", "house", "fish")
    index = folder / "scenes.lance"
    make_index(index, model, [gallery / f"{name}.webp" for name in names])
    settings = ServerSettings(indexes=(str(index),), cache_folder=folder / "thumbnails")
    with running(settings, model=model) as running_server:
        yield running_server


@pytest.fixture(scope="module")
def scene(gallery):
    return (gallery / "cat-left-of-house.webp").read_bytes()


@pytest.fixture(scope="module")
def item(server):
    items = server.client.get("/v1/items").json()["items"]
    return next(one["id"] for one in items if "cat-left" in one["name"])


def explained(server, **body):
    reply = server.client.post("/v1/explain", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_maps_are_those_of_the_model_and_their_sums_the_scores(server, scene):
    found = explained(server, image=data_uri(scene, "image/webp"), texts=TEXTS)
    expected = server.model.explain(scene, TEXTS)
    assert found["model"] == "pe-nano"
    assert found["region"] == [0, 0, 1, 1]
    for n, one in enumerate(found["explanations"]):
        assert one["text"] == TEXTS[n]
        assert np.allclose(one["map"], expected.maps[n], atol=2e-6)
        assert np.sum(one["map"]) + one["rest"] == pytest.approx(one["score"], abs=1e-4)
        assert one["score"] == pytest.approx(expected.scores[n], abs=1e-5)


def test_an_item_of_an_index_is_explained_by_the_indexs_model(server, scene, item):
    by_item = explained(server, item=item, texts=TEXTS)
    assert by_item == explained(server, image=data_uri(scene, "image/webp"), texts=TEXTS)
    assert by_item == explained(server, item=item, index="scenes", texts=TEXTS)


def test_a_part_of_an_image_is_explained_and_drawn(server, scene):
    part = "#xywh=percent:50,0,50,100"
    found = explained(server, image=data_uri(scene) + part, texts=TEXTS)
    right = Image.open(io.BytesIO(scene)).convert("RGB").crop((80, 0, 160, 160))
    expected = server.model.explain(right, TEXTS)
    assert np.allclose(found["explanations"][1]["map"], expected.maps[1], atol=1e-3)
    body = {"image": data_uri(scene) + part, "texts": ["a house"], "format": "png"}
    with Image.open(io.BytesIO(server.client.post("/v1/explain", json=body).content)) as picture:
        assert picture.height > 360 > picture.width - 180  # the part is half as wide as high


@pytest.mark.parametrize(
    ("body", "headers"),
    [({"format": "png"}, {}), ({}, {"Accept": "text/html;q=0.5, image/png"})],
)
def test_a_picture_is_sent_on_request(server, scene, body, headers):
    reply = server.client.post(
        "/v1/explain",
        json={"image": data_uri(scene), "texts": TEXTS, **body},
        headers=headers,
    )
    assert reply.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(reply.content)) as picture:
        assert picture.format == "PNG"
        assert picture.width > 2 * 360  # a panel for each text


def test_json_is_sent_where_both_are_accepted_by_format(server, scene):
    reply = server.client.post(
        "/v1/explain",
        json={"image": data_uri(scene), "texts": TEXTS, "format": "json"},
        headers={"Accept": "image/png"},
    )
    assert reply.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        ({"texts": ["a"]}, 422, "invalid_request", "give either image or item"),
        ({"texts": ["a"], "image": "x", "item": "y"}, 422, "invalid_request", "either image or"),
        ({"texts": [], "item": "y"}, 422, "invalid_request", "texts"),
        ({"texts": ["a"] * 17, "item": "y"}, 422, "invalid_request", "texts"),
        ({"texts": ["a"], "item": "y"}, 404, "unknown_item", "'y'"),
        ({"texts": ["a"], "item": "y", "index": "z"}, 404, "unknown_index", "z"),
        ({"texts": ["a"], "image": "AAAA"}, 400, None, "image"),
        ({"texts": ["a" * (2**20 + 1)], "image": "AAAA"}, 400, "text_too_large", "texts[0]"),
        ({"texts": ["a"], "image": "AAAA", "format": "gif"}, 422, "invalid_request", "format"),
    ],
)
def test_wrong_requests_are_answered_with_what_is_wrong(server, body, status, code, words):
    reply = server.client.post("/v1/explain", json=body)
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert code in (None, error["code"])
    assert words in error["message"]


def test_a_model_without_weights_says_that_it_cannot_explain(scene):
    with running(model=open_tiny()) as server:
        body = {"image": data_uri(scene), "texts": ["cat"]}
        reply = server.client.post("/v1/explain", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "unsupported_by_model"
    assert "file of weights" in reply.json()["error"]["message"]


# -- the page -------------------------------------------------------------------------------------


def open_scene(open_page, server, query="", **options):
    page = open_page(f"{server.url}/", **options)
    if query:
        search(page, query)
    page.get_by_role("link", name="cat left of house").first.click()
    return page, page.get_by_role("dialog", name="Image")


def test_why_this_image_colors_it_for_the_query(open_page, server):
    page, viewer = open_scene(open_page, server, "a house")
    button = viewer.get_by_role("button", name="Why this image")
    expect(button).to_have_attribute("aria-pressed", "false")
    with page.expect_response("**/v1/explain") as asked:
        button.click()
    assert asked.value.request.post_data_json["texts"] == ["a house"]
    colors = viewer.locator("canvas.relevance")
    expect(colors).to_be_visible()
    image, canvas = viewer.locator(".stage img").bounding_box(), colors.bounding_box()
    assert all(abs(image[side] - canvas[side]) < 1.5 for side in image)
    assert share_of_red(viewer.locator(".stage")) > 0.02
    left, right = (mean_red(colors, part) for part in ((0, 0.5), (0.5, 1)))
    assert right > left  # the house is there
    expect(viewer.get_by_role("status")).to_contain_text("from all parts of the image")
    button.click()
    expect(colors).to_have_count(0)
    expect(button).to_have_attribute("aria-pressed", "false")


def share_of_red(stage):
    """The share of a screenshot that is red; the drawing itself is gray meanwhile."""
    with Image.open(io.BytesIO(stage.screenshot())) as shot:
        pixels = np.asarray(shot.convert("RGB")).astype(int)
    return float((pixels[..., 0] - pixels[..., 2] > 60).mean())


def mean_red(canvas, part):
    """The mean opacity of what raises the score, in a part of the width."""
    return canvas.evaluate(
        """(canvas, [from, to]) => {
          const x = Math.round(from * canvas.width);
          const width = Math.round(to * canvas.width) - x;
          const { data } = canvas.getContext("2d").getImageData(x, 0, width, canvas.height);
          let sum = 0;
          for (let at = 0; at < data.length; at += 4)
            if (data[at] > data[at + 2]) sum += data[at + 3];
          return sum / data.length;
        }""",
        list(part),
    )


def test_the_key_asks_for_a_text_and_another_image_is_explained_too(open_page, server):
    page, viewer = open_scene(open_page, server)
    page.keyboard.press("w")
    field = viewer.get_by_label("What raises the score for this text?")
    expect(field).to_be_focused()
    page.keyboard.type("wolf")  # w is a letter here, and the arrows move the cursor
    page.keyboard.press("ArrowLeft")
    expect(field).to_have_value("wolf")
    with page.expect_response("**/v1/explain"):
        page.keyboard.press("Enter")
    expect(viewer.locator("canvas.relevance")).to_be_visible()
    with page.expect_response("**/v1/explain") as asked:
        viewer.get_by_role("button", name="Next image").click()
    assert asked.value.request.post_data_json["texts"] == ["wolf"]
    expect(viewer.locator("canvas.relevance")).to_be_visible()
    viewer.get_by_role("heading").first.focus()
    page.keyboard.press("w")
    expect(viewer.locator("canvas.relevance")).to_have_count(0)


def test_the_colors_follow_the_zoom(open_page, server):
    page, viewer = open_scene(open_page, server, "a cat")
    viewer.get_by_role("button", name="Why this image").click()
    colors = viewer.locator("canvas.relevance")
    expect(colors).to_be_visible()
    viewer.get_by_role("heading").first.focus()
    page.keyboard.press("+")
    image = viewer.locator(".stage img")
    assert "scale" in image.get_attribute("style")
    expect(colors).to_have_css("transform", image.evaluate("it => getComputedStyle(it).transform"))


def test_an_explanation_fits_a_phone(open_page, server):
    page, viewer = open_scene(open_page, server, "a cat", width=380, height=720, has_touch=True)
    viewer.get_by_role("button", name="Why this image").tap()
    expect(viewer.locator("canvas.relevance")).to_be_visible()
    assert not overflows(page)


def test_a_model_that_cannot_explain_says_so_in_the_viewer(open_page, gallery, tmp_path):
    model = open_tiny()
    make_index(tmp_path / "a.lance", model, [gallery / "cat-left-of-house.webp"])
    with running(ServerSettings(indexes=(str(tmp_path / "a.lance"),)), model=model) as server:
        page, viewer = open_scene(open_page, server, expected=("400",))
        viewer.get_by_role("button", name="Why this image").click()
        page.keyboard.type("cat")
        page.keyboard.press("Enter")
        expect(viewer.get_by_text("relevance needs the model's file of weights")).to_be_visible()
