"""From file bytes and words to unit vectors, against open_clip's whole pipeline.

Recorded with open_clip's own transforms, tokenizer and towers on formula weights; ours run with
`reference` preprocessing, through the towers and through the backend that CPUs get by default. What
was recorded: tests/golden/README.md.
"""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import formula
import numpy as np
import pytest
import torch

from perception_encoder import EmbeddingModel
from perception_encoder.backends import ComputeOptions
from perception_encoder.backends.openvino_backend import OpenVinoBackend
from perception_encoder.backends.torch_backend import TorchBackend
from perception_encoder.checkpoints import locate
from perception_encoder.checkpoints.load import build_from_tensors
from perception_encoder.checkpoints.save import save_model
from perception_encoder.model import DualEncoder
from perception_encoder.preprocess import ImageProcessor
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.preprocess.vocabulary import installed_vocabulary
from perception_encoder.registry import find

TOLERANCE = 2e-5  # as in tests/model/test_parity.py: pixels and tokens are equal bit for bit
MODELS = {
    "pe": ("PE-Core-B16-224", "PE-Core-B16-224"),
    "clip": ("CLIP-ViT-B-32", "clip/ViT-B-32"),
}


@pytest.fixture(scope="module", params=MODELS)
def towers(request: pytest.FixtureRequest) -> tuple[str, DualEncoder]:
    golden_name, model_id = MODELS[request.param]
    keys = formula.load_golden(golden_name).keys["openclip"]
    tensors = {k: torch.from_numpy(v) for k, v in formula.formula_state(keys).items()}
    return request.param, build_from_tensors(find(model_id).config, tensors)


@pytest.fixture(scope="module")
def pipeline(towers: tuple[str, DualEncoder]) -> tuple[str, EmbeddingModel]:
    name, model = towers
    config = model.config
    backend = TorchBackend(
        model,
        torch.device("cpu"),
        "fp32",
        fingerprint="formula",
        logit_scale=100.0,
    )
    vocabulary = installed_vocabulary()
    assert vocabulary is not None, "make install brings it"
    assert config.text is not None
    processor = ImageProcessor(config.image, config.vision.image_size, preprocess="reference")
    tokenizer = Tokenizer.from_file(vocabulary, config.text.context_length)
    return name, EmbeddingModel(config, backend, processor, tokenizer)


def largest_difference(vectors: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(vectors[:, : expected.shape[1]] - expected).max())


def test_images_of_every_mode(pipeline: tuple[str, EmbeddingModel]) -> None:
    name, model = pipeline
    golden = formula.load_end_to_end("images")
    files = [formula.GOLDEN / "images" / row["file"] for row in golden.rows]
    vectors = model.embed_images(files, batch_size=5)
    assert largest_difference(vectors, golden.arrays[f"{name}/embedding_head"]) <= TOLERANCE


def test_photos(pipeline: tuple[str, EmbeddingModel], photos: list[Path]) -> None:
    name, model = pipeline
    golden = formula.load_end_to_end("photos")
    present = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in photos}
    rows = [i for i, row in enumerate(golden.rows) if row["sha256"] in present]
    assert rows, "none of the photos is one that was recorded"
    vectors = model.embed_images([present[golden.rows[i]["sha256"]] for i in rows])
    expected = golden.arrays[f"{name}/embedding_head"][rows]
    assert largest_difference(vectors, expected) <= TOLERANCE


def test_texts_of_one_word_and_of_two_hundred(pipeline: tuple[str, EmbeddingModel]) -> None:
    name, model = pipeline
    golden = formula.load_end_to_end("texts")
    texts = [row["text"] for row in golden.rows]
    assert {len(text.split()) for text in texts} >= {0, 1, 200}
    expected = golden.arrays[f"{name}/embedding_head"]
    assert largest_difference(model.embed_text(texts, batch_size=5), expected) <= TOLERANCE
    one_by_one = np.concatenate([model.embed_text(text) for text in texts[::4]])
    assert largest_difference(one_by_one, expected[::4]) <= TOLERANCE


@pytest.fixture(scope="module")
def through_openvino(
    towers: tuple[str, DualEncoder],
    pipeline: tuple[str, EmbeddingModel],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, EmbeddingModel]]:
    """The same weights, written to disk, opened as a user would, and computed by OpenVINO."""
    name, model = pipeline
    folder = tmp_path_factory.mktemp(name)
    save_model(towers[1], folder / "model", model.tokenizer)
    options = ComputeOptions(
        backend="openvino", device="cpu", precision="fp32", graph_cache=folder / "graphs"
    )
    backend = OpenVinoBackend.load(locate(folder / "model"), options)
    yield name, EmbeddingModel(model.config, backend, model.processor, model.tokenizer)
    shutil.rmtree(folder)


def test_images_through_openvino(through_openvino: tuple[str, EmbeddingModel]) -> None:
    name, model = through_openvino
    golden = formula.load_end_to_end("images")
    files = [formula.GOLDEN / "images" / row["file"] for row in golden.rows]
    vectors = model.embed_images(files, batch_size=5)
    assert largest_difference(vectors, golden.arrays[f"{name}/embedding_head"]) <= TOLERANCE


def test_texts_through_openvino(through_openvino: tuple[str, EmbeddingModel]) -> None:
    name, model = through_openvino
    golden = formula.load_end_to_end("texts")
    texts = [row["text"] for row in golden.rows]
    vectors = model.embed_text(texts, batch_size=5)
    assert largest_difference(vectors, golden.arrays[f"{name}/embedding_head"]) <= TOLERANCE
