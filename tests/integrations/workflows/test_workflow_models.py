"""What blocks share, and the provider for the stock block, without an execution engine."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_models import CORE, CountingBackend, as_bgr, drawing, open_tiny, save_drawings

from perception_encoder.errors import (
    IndexMismatchError,
    IndexNotFoundError,
    IndexStorageError,
    UnknownModelError,
    UnsupportedOperationError,
)
from perception_encoder.index import Index, Row
from perception_encoder.integrations.workflows.models import Indexes, Models
from perception_encoder.integrations.workflows.provider import PerceptionEncoderModels
from perception_encoder.preprocess import ImageProcessor

STOCK = "perception_encoder/PE-Core-L14-336"


class TinyModels:
    """Opens tiny models under any name, and notes what was asked for."""

    def __init__(self):
        self.asked = []
        self.backends = []

    def __call__(self, name, /, *, preprocess):
        self.asked.append((name, preprocess))
        processor = ImageProcessor(
            CORE.image, CORE.vision.image_size, preprocess=preprocess or "standard"
        )
        self.backends.append(CountingBackend(open_tiny().backend))
        return open_tiny(backend=self.backends[-1], processor=processor)


def test_a_model_is_opened_once_whoever_asks_and_however_it_is_spelled():
    opened = TinyModels()
    models = Models(opened)
    names = ["PE-Core-B16-224", "perception_encoder/pe-core-b16-224", "facebook/PE-Core-B16-224"]
    with ThreadPoolExecutor(8) as pool:
        found = set(map(id, pool.map(models.get, 10 * names)))
    assert opened.asked == [("perception-encoder/PE-Core-B16-224", None)]
    assert found == {id(models.get("PE-Core-B16-224", "standard"))}


def test_texts_are_remembered_and_keep_their_order():
    opened = TinyModels()
    models = Models(opened)
    model = models.get("a")
    first = models.embed_texts(model, ["a cat", "a dog", "a cat"])
    again = models.embed_texts(model, ["a dog", "a tree", "a cat"])
    assert opened.backends[0].num_texts == 3
    assert np.array_equal(first[2], first[0])
    assert np.array_equal(again[[2, 0]], first[:2])
    assert np.allclose(again, model.embed_text(["a dog", "a tree", "a cat"]), atol=1e-5)
    models.embed_texts(models.get("b"), ["a cat"])
    assert opened.backends[1].num_texts == 1


def test_an_index_gets_its_own_model_and_no_other(tmp_path):
    models = Models(TinyModels())
    fast = models.get("a", "fast")
    index = Index.create(tmp_path / "fast", fast.identity)
    assert models.get("a") is not fast
    assert models.of_index(index, "a") is fast
    assert models.of_index(index).identity == fast.identity
    other = Index.create(tmp_path / "other", replace(fast.identity, fingerprint="of others"))
    with pytest.raises(IndexMismatchError, match="of others"):
        models.of_index(other, "a")


def test_indexes_show_what_other_processes_committed(tmp_path):
    model, indexes = open_tiny(), Indexes()
    path = str(tmp_path / "a.lance")
    with pytest.raises(IndexNotFoundError):
        indexes.open(path)
    indexes.open_or_create(path, model.identity)
    files = save_drawings(tmp_path, 2)
    Index.open(path).add([Row(str(file)) for file in files], model.embed_images(files))
    assert indexes.open(path).count() == 2
    assert indexes.open(path) is indexes.open_or_create(path, model.identity)


def test_indexes_keep_to_what_the_host_allows(tmp_path):
    identity = open_tiny().identity
    none = Indexes(local_storage=False)
    for refused in (
        lambda: none.open(str(tmp_path / "a.lance")),
        lambda: none.open_or_create(str(tmp_path / "a.lance"), identity),
        lambda: none.check_model(str(tmp_path)),
    ):
        with pytest.raises(IndexStorageError, match="LOCAL_STORAGE"):
            refused()
    none.check_model("PE-Core-B16-224")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    some = Indexes(write_folder=str(tmp_path / "in"))
    some.open_or_create(str(tmp_path / "in" / "a.lance"), identity)
    for place in ("a.lance", "in/../b.lance", "in/link/c.lance", "in-not/d.lance"):
        with pytest.raises(IndexStorageError, match="WRITE_DIRECTORY"):
            some.open_or_create(f"{tmp_path}/{place}", identity)
    with pytest.raises(IndexStorageError, match="WRITE_DIRECTORY"):
        some.check_write("s3://bucket/a.lance")


@pytest.fixture
def provider():
    return PerceptionEncoderModels(Models(TinyModels()), names={"PE-Core-L14-336": "mine"})


def test_the_provider_embeds_as_the_stock_block_asks(provider):
    model = open_tiny()
    provider.add_model(STOCK, None, endpoint_type="core_model")
    assert STOCK in provider
    arrays = [as_bgr(drawing(seed, 30 + seed, 50)) for seed in range(2)]
    asked = [{"type": "numpy_object", "value": array} for array in arrays]
    images = provider.run_perception_encoder_image_embedding(STOCK, "PE-Core-L14-336", asked)
    texts = provider.run_perception_encoder_text_embedding(STOCK, "PE-Core-L14-336", ["a cat"])
    assert np.allclose(images, model.embed_images(arrays), atol=1e-6)
    assert np.allclose(texts, model.embed_text("a cat"), atol=1e-6)
    assert isinstance(images[0][0], float)
    tensors = [torch.from_numpy(array[:, :, ::-1].copy()).permute(2, 0, 1) for array in arrays]
    for given, order in ((tensors, "rgb"), (arrays, "bgr")):
        found = provider.run_tensor_native_inference(
            STOCK, action="embed-image", images=given, input_color_format=order
        )
        assert torch.allclose(found, torch.tensor(images), atol=1e-6)
    found = provider.run_tensor_native_inference(STOCK, action="embed-text", texts=["a cat"])
    assert torch.allclose(found, torch.tensor(texts), atol=1e-6)
    with pytest.raises(UnsupportedOperationError, match="not 'compare'"):
        provider.run_tensor_native_inference(STOCK, action="compare", texts=["a cat"])


def test_other_models_are_refused_or_handed_on(provider):
    with pytest.raises(UnsupportedOperationError, match="yolov8n-640: only Perception Encoder"):
        provider.add_model("yolov8n-640", None)
    with pytest.raises(AttributeError, match="only Perception Encoder"):
        provider.run_object_detection("yolov8n-640", [])
    assert "yolov8n-640" not in provider
    calls = []
    others = SimpleNamespace(
        add_model=lambda *args, **options: calls.append((args, options)),
        run_object_detection=lambda *args: ["found", *args],
        run_tensor_native_inference=lambda *args, **options: (args, options),
    )
    both = PerceptionEncoderModels(Models(TinyModels()), others=others)
    both.add_model("yolov8n-640", "key", countinference=True)
    assert calls == [(("yolov8n-640", "key", None), {"countinference": True})]
    assert both.run_object_detection("yolov8n-640", []) == ["found", "yolov8n-640", []]
    given = {"images": [1], "confidence": 0.3}
    assert both.run_tensor_native_inference("yolov8n-640", **given) == (("yolov8n-640",), given)


def test_a_wrong_name_shows_when_the_model_is_added():
    with pytest.raises(UnknownModelError, match="no-such-model"):
        PerceptionEncoderModels(Models()).add_model("perception_encoder/no-such-model", None)


def test_naming_the_plugin_imports_nothing_heavy():
    code = (
        "import sys, perception_encoder.integrations.workflows\n"
        "heavy = {'torch', 'openvino', 'lance', 'pyarrow', 'pydantic', 'inference'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
