"""An exported model from a folder of images to a server, as where there is onnxruntime alone.

`make test-without-torch` runs this in an environment without torch, on a folder that was exported
outside of it: PE_TEST_EXPORT.
"""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from cli.command import lines, pe_ending, serving

from perception_encoder import AutoModel

pytestmark = pytest.mark.usefixtures("exporting_once")

GALLERY = Path(__file__).resolve().parents[1] / "src" / "perception_encoder" / "data" / "gallery"
NAMES = ["red-heart", "green-apple", "yellow-star", "cat", "blue-square", "banana", "castle"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if given := os.environ.get("PE_TEST_EXPORT"):
        return Path(given).resolve()
    from perception_encoder.export import export_pretrained

    folder = tmp_path_factory.mktemp("exported") / "nano-onnx"
    export_pretrained("pe-nano", folder)
    return folder


def test_images_and_words_meet(exported: Path) -> None:
    names = [name for name in NAMES if (GALLERY / f"{name}.webp").exists()]
    assert len(names) >= 4
    with AutoModel.from_pretrained(exported) as model:
        images = model.embed_images([GALLERY / f"{name}.webp" for name in names])
        texts = model.embed_text([name.replace("-", " ") for name in names])
        again = model.embed_images([GALLERY / f"{names[0]}.webp"])
    assert model.backend.name == "onnx"
    assert (model.similarity(images, texts).argmax(axis=1) == np.arange(len(names))).mean() > 0.7
    assert np.abs(again - images[:1]).max() <= 2e-5
    if "PE_TEST_EXPORT" in os.environ:
        assert "torch" not in sys.modules


def test_a_folder_is_indexed_searched_and_served(exported: Path, tmp_path: Path) -> None:
    given = ("--model", str(exported), "--index", "t.lance")
    done = pe_ending("index", str(GALLERY), *given, folder=tmp_path)
    assert "embedded" in done.stderr
    found = lines(pe_ending("search", "red heart", *given, "--json", "-k", "3", folder=tmp_path))
    assert "red-heart" in [Path(hit["uri"]).stem for hit in found]
    cat = str(GALLERY / "cat.webp")
    (first, *_) = lines(pe_ending("search", cat, *given, "--json", folder=tmp_path))
    assert Path(first["uri"]).stem == "cat"
    server = serving("--model", str(exported), "--index", "t.lance", folder=tmp_path)
    with server as (client, _):
        asked = {"terms": [{"text": "red heart"}], "k": 3}
        hits = client.post("/v1/search", json=asked).json()["hits"]
        assert [hit["score"] for hit in hits] == pytest.approx(
            [hit["score"] for hit in found], abs=1e-4
        )
        image = (GALLERY / "cat.webp").read_bytes()
        reply = client.post("/v1/embed", content=image, headers={"Content-Type": "image/webp"})
        assert len(reply.json()["data"][0]["embedding"]) == 192
