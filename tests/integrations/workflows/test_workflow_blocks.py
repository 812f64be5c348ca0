"""The blocks in Roboflow's execution engine, which runs in processes of its own."""

import json
import shutil
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from documentation.blocks import python_blocks
from integrations.workflows.workflow_engine import start_engine
from server.serving import running

import perception_encoder
from perception_encoder import AutoModel, FewShotClassifier
from perception_encoder.index import Index
from perception_encoder.server import ServerSettings
from perception_encoder.server.options import ModelSettings

NAMES = ("cat", "castle", "dog")
MODES = ("plain", "tensor")
SCRIPTS = {
    **dict.fromkeys(MODES, ("engine_runs.py", None)),
    "inference": ("inference_runs.py", "inside-inference"),
}
EQUAL = 2e-5  # an image's vector in batches of other sizes, in fp32


@pytest.fixture(scope="module")
def model():
    with AutoModel.from_pretrained("pe-nano", device="cpu", precision="fp32") as opened:
        yield opened


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The paths of drawings of three sizes."""
    folder = tmp_path_factory.mktemp("drawn")
    gallery = Path(perception_encoder.__file__).parent / "data" / "gallery"
    for number, name in enumerate(NAMES):
        image = cv2.imread(str(gallery / f"{name}.webp"))
        size = (100 + 20 * number, 120 - 30 * number)
        cv2.imwrite(str(folder / f"{name}.png"), cv2.resize(image, size))
    return [folder / f"{name}.png" for name in NAMES]


@pytest.fixture(scope="module")
def arrays(drawn):
    """Those drawings, BGR."""
    return [cv2.imread(str(path)) for path in drawn]


@pytest.fixture(scope="module")
def some_photos(request):
    try:
        return request.getfixturevalue("photos")[:3]
    except pytest.skip.Exception:  # other tests need none
        return []


@pytest.fixture(scope="module")
def taught(model):
    """A classifier of buildings and animals."""
    gallery = Path(perception_encoder.__file__).parent / "data" / "gallery"
    names = {"animal": ("wolf", "bear", "cow"), "building": ("factory", "house", "hospital")}
    examples = {
        label: [gallery / f"{name}.webp" for name in names_of] for label, names_of in names.items()
    }
    return FewShotClassifier.from_model(model, examples)


@pytest.fixture(scope="module")
def ran(drawn, some_photos, taught, tmp_path_factory):
    """What each workflow gave, by mode; the processes run side by side."""
    models = ModelSettings(
        names=("pe-nano",),
        aliases=(("PE-Core-B16-224", "pe-nano"), ("PE-Core-L14-336", "pe-nano")),
    )
    open_model = partial(AutoModel.from_pretrained, device="cpu", precision="fp32")
    with running(ServerSettings(models=models), open_model=open_model) as server:
        processes = {}
        for mode, (script, first) in SCRIPTS.items():
            folder = tmp_path_factory.mktemp(mode)
            for path in drawn:
                shutil.copy(path, folder)  # the page's blocks read them here
            taught.save(folder / "things.npz")
            request = {
                "folder": str(folder),
                "images": list(map(str, drawn)),
                "photos": list(map(str, some_photos)),
                "url": server.url,
                "tensor_mode": mode == "tensor",
                "page": _page(server.url) if mode == "plain" else [],
            }
            (folder / "request.json").write_text(json.dumps(request))
            files = (folder / "request.json", folder / "results.json")
            processes[mode] = folder, start_engine(script, *files, folder=folder, first=first)
        results = {}
        for mode, (folder, process) in processes.items():
            said, _ = process.communicate(timeout=200)
            assert process.returncode == 0, said[-3000:]
            results[mode] = json.loads((folder / "results.json").read_text())
    return results


def _page(url):
    """The page's blocks, as a reader whose server listens there would write them."""
    blocks = python_blocks("docs/guides/workflows.md")
    # What configures the process comes before all imports, as the page says.
    blocks.sort(key=lambda block: "configure_process" not in block)
    return [block.replace("http://127.0.0.1:9001", url) for block in blocks]


@pytest.mark.parametrize("mode", MODES)
def test_batches_texts_and_literals_have_the_models_vectors(mode, ran, model, arrays):
    rows = ran[mode]["embeddings"]
    images, texts = model.embed_images(arrays), model.embed_text(["a cat", "a red heart"])
    assert np.abs(np.array([row["image"] for row in rows]) - images).max() <= EQUAL
    for row in rows:
        assert np.abs(row["input"] - texts[0]).max() <= EQUAL
        assert np.abs(row["literal"] - texts[1]).max() <= EQUAL
    cosines = [row["cosine"] for row in rows]
    assert np.abs(cosines - (images @ texts[0])).max() <= EQUAL


@pytest.mark.parametrize("mode", MODES)
def test_the_stock_block_runs_on_this_backend_in_process(mode, ran, model, arrays):
    rows = ran[mode]["embeddings"]
    images, text = model.embed_images(arrays), model.embed_text("a cat")[0]
    assert np.abs(np.array([row["stock"] for row in rows]) - images).max() <= EQUAL
    assert all(np.abs(row["stock_text"] - text).max() <= EQUAL for row in rows)


@pytest.mark.parametrize("mode", MODES)
def test_the_stock_block_runs_at_a_server_of_ours(mode, ran, model, arrays):
    rows = ran[mode]["remote"]
    sent = [cv2.imencode(".jpg", array, [cv2.IMWRITE_JPEG_QUALITY, 95])[1] for array in arrays]
    images = model.embed_images([data.tobytes() for data in sent])
    text = model.embed_text("a dog")[0]
    # The backend's own JPEG encoder is not OpenCV's in every release.
    assert np.sum(np.array([row["image"] for row in rows]) * images, axis=1).min() >= 0.995
    assert all(np.abs(row["text"] - text).max() <= EQUAL for row in rows)


@pytest.mark.parametrize("mode", MODES)
def test_encoded_images_and_whole_crops_of_them_have_one_vector(mode, ran, model, arrays):
    rows, images = ran[mode]["encoded"], model.embed_images(arrays)
    assert np.abs(np.array([row["whole"] for row in rows]) - images).max() <= EQUAL
    assert np.abs(np.array([row["crop"] for row in rows]) - images).max() <= EQUAL


@pytest.mark.parametrize("mode", MODES)
def test_blocks_that_watch_for_changes_read_our_embeddings(mode, ran):
    *same, other = ran[mode]["changes"]
    assert other == {"change": True, "outlier": True}
    assert not any(row["change"] for row in same[:3])  # they are warming up


@pytest.mark.parametrize("mode", MODES)
def test_crops_of_photos_are_embedded_labeled_indexed_and_found(mode, photos, ran, model):
    first, again = ran[mode]["crops"]["first"], ran[mode]["crops"]["again"]
    crops = [_crop(cv2.imread(str(photo))) for photo in photos[:3]]
    vectors = model.embed_images(crops)
    assert np.abs(np.array([row["embedding"] for row in first]) - vectors).max() <= EQUAL
    classes = ["cat", "red car", "tree"]
    cosines = vectors @ model.embed_text([f"a {name}" for name in classes]).T
    for row, expected, crop in zip(first, cosines, crops, strict=True):
        _check_labels(row["zero_shot"], classes, expected, crop.shape, model)
    assert [row["add"]["is_new"] for row in first] == [True, True, True]
    assert [row["add"] for row in again] == [{**row["add"], "is_new": False} for row in first]
    for row, found in zip(first, ran[mode]["crops"]["search"], strict=True):
        hits = found["search"]["hits"]
        assert [hits[0]["uri"], len(hits)] == [row["add"]["uri"], 2]
        assert found["search"]["best_uri"] == hits[0]["uri"]
        assert hits[0]["score"] == pytest.approx(1, abs=1e-3)
        assert hits[0]["metadata"] == {"camera": "north", "class": row["zero_shot"]["class"]}
    index = Index.open(Path(first[0]["add"]["uri"]).parents[1] / "crops.lance")
    rows = {row.uri: row for row in index.rows()}
    assert len(rows) == 3
    for row, crop in zip(first, crops, strict=True):
        saved = Path(row["add"]["uri"])
        assert np.array_equal(cv2.imread(str(saved)), crop)
        assert rows[str(saved)].bytes == saved.stat().st_size
        assert (rows[str(saved)].width, rows[str(saved)].height) == crop.shape[1::-1]


def _crop(image):
    """What the stock block for crops makes of the workflow's numbers."""
    height, width = image.shape[:2]
    crop_width, crop_height = 0.3 * width, 0.25 * height
    left, top = round(0.4 * width - crop_width / 2), round(0.6 * height - crop_height / 2)
    return image[top : round(top + crop_height), left : round(left + crop_width)]


def _check_labels(result, classes, cosines, shape, model):
    powers = np.exp(model.logit_scale * (cosines - cosines.max()))
    probabilities = powers / powers.sum()
    best = int(cosines.argmax())
    assert result["class"] == classes[best]
    assert result["confidence"] == pytest.approx(probabilities[best], abs=1e-3)
    assert np.abs(result["similarities"] - cosines).max() <= EQUAL
    predictions = result["predictions"]
    assert predictions["top"] == classes[best]
    assert predictions["image"] == {"width": shape[1], "height": shape[0]}
    assert {one["class"]: one["class_id"] for one in predictions["predictions"]} == {
        name: number for number, name in enumerate(classes)
    }


@pytest.mark.parametrize("mode", MODES)
def test_images_are_called_by_their_file_their_name_or_their_pixels(mode, ran, drawn):
    index = ran[mode]["index"]
    assert [row["add"]["uri"] for row in index["by_path"]] == list(map(str, drawn))
    (by_pixels,) = index["by_pixels"]
    assert by_pixels["add"]["uri"].startswith("workflow:")
    assert [rows[0]["add"]["uri"] for rows in index["by_name"]] == [
        "camera/0", "camera/1", "camera/2"
    ]  # fmt: skip
    assert [row["add"] for row in index["off"]] == 3 * [{"uri": None, "id": None, "is_new": False}]


@pytest.mark.parametrize("mode", MODES)
def test_words_find_what_was_added_and_conditions_hold(mode, ran, drawn):
    index = ran[mode]["index"]
    hits = index["by_words"][0]["search"]["hits"]
    assert {hit["uri"].split(":")[0] for hit in hits} == {str(drawn[0]), "camera/0", "workflow"}
    (narrow,) = index["narrow"]
    assert [hit["uri"] for hit in narrow["search"]["hits"]] == ["camera/2"]
    assert index["nothing"] == [{"search": {"hits": [], "best_uri": None, "best_score": None}}]
    assert "there is no index at" in index["missing"]
    assert index["both_names"].startswith("WorkflowSyntaxError")


def test_fifty_workflows_at_once_give_what_one_gives(ran, model, arrays):
    """Upstream skips its tests of these two for a race."""
    runs = ran["plain"]["together"]
    assert len(runs) == 50
    images = model.embed_images(arrays)
    texts = model.embed_text([f"image {number}" for number in range(50)])
    for number, run in enumerate(runs):
        one, two = run["pair"]
        assert run["cosine"] == pytest.approx(float(images[one] @ images[two]), abs=EQUAL)
        assert run["stock"] == pytest.approx(run["cosine"], abs=EQUAL)
        assert np.abs(run["texts"]["ours"] - texts[number]).max() <= EQUAL
        assert np.abs(run["texts"]["stock"] - texts[number]).max() <= EQUAL


def test_threads_that_fill_one_index_lose_nothing(ran):
    filling = ran["plain"]["filling"]
    assert all(row["is_new"] for row in filling["added"])
    index = Index.open(filling["index"])
    assert {row.uri for row in index.rows()} == {f"camera/{number}" for number in range(70)}
    assert index.count() == 70
    assert not index.needs_optimize()


def test_the_blocks_run_in_the_engine_that_older_inference_has_inside(ran, model, arrays):
    rows = ran["inference"]["embeddings"]
    images, text = model.embed_images(arrays), model.embed_text("a cat")[0]
    # It opens the model as the machine does best, which may be in 16 bits.
    for row, image in zip(rows, images, strict=True):
        assert row["image"] @ image >= 0.999
        assert row["text"] @ text >= 0.999
        assert row["cosine"] == pytest.approx(float(image @ text), abs=0.02)
    assert [row["warming_up"] for row in rows] == [True, True, False]
    assert [row["label"]["class"] for row in rows][:2] == ["cat", "castle"]
    assert [row["add"]["is_new"] for row in rows] == [True, True, True]
    for row, found in zip(rows, ran["inference"]["search"], strict=True):
        best = found["search"]["hits"][0]
        assert (best["uri"], best["metadata"]) == (
            row["add"]["uri"], {"class": row["label"]["class"]}
        )  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_a_taught_classifier_gives_its_labels(mode, ran, taught, model, arrays):
    expected = taught.classify(model.embed_images(arrays))
    results = ran[mode]["taught"]
    found = [row["taught"] for row in results["found"]]
    assert [row["class"] for row in found] == ["animal", "building", "animal"]
    assert [tuple(row["classes"]) for row in found] == list(map(tuple, expected.given()))
    for row, probabilities in zip(found, expected.probabilities, strict=True):
        assert row["confidence"] == pytest.approx(probabilities.max(), abs=1e-4)
        assert row["predictions"]["top"] == row["class"]
    assert "gone.npz" in results["gone"]


def test_mistakes_are_told(ran):
    mistakes = ran["plain"]["mistakes"]
    assert "no model is named 'no-such-model'" in mistakes["no_model"]
    assert "needs at least one label" in mistakes["no_labels"]
    assert mistakes["not_a_text"].startswith("RuntimeInputError")


def test_the_pages_blocks_run(ran):
    """Those of docs/guides/workflows.md, in that process, where nothing was configured before."""
    printed = ran["plain"]["page"]
    *labeled, in_process, at_server = printed.splitlines()
    assert [line.split()[0] for line in labeled] == ["cat", "castle"]
    assert (in_process, at_server) == ("192", "192")
