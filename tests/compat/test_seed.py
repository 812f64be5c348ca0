"""The user's own description of the system, with every Python block run as it is printed.

The blocks run with the compatibility package, in a folder that has the images they name, and the
model they name as a saved pe-nano: a path that exists wins over an id of the same spelling.
"""

import hashlib
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import drawing

import perception_encoder
from perception_encoder.registry import find

SEED = Path(__file__).parent.parent / "data" / "seed" / "perception-encoder.md"
SHA256 = "c06ac81815f3cbbed3d359e2adeaaae5b66d6cf8c8cdb7fcd43be75c8697d319"
TEXT = SEED.read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^### ([^\n]+)\n+```python\n(.*?)^```$", TEXT, re.S | re.M))
IDS = ["perception-encoder/PE-Core-B16-224", "perception-encoder/PE-Core-L14-336"]
NUM_DATABASE = 100
TWIN = 37  # the image of the database that the query is a copy of

# numpy's own remark on torch tensors, from the lines that hand tensors to np.dot.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


@pytest.fixture(scope="module")
def crops(request):
    """A hundred different small images: parts of photos, or drawings where there are none."""
    try:
        photos = [Image.open(path).convert("RGB") for path in request.getfixturevalue("photos")]
    except pytest.skip.Exception:
        return [drawing(seed, 96 + seed % 32, 64 + seed % 48) for seed in range(NUM_DATABASE)]
    generator = np.random.default_rng(0)
    crops = []
    for number in range(NUM_DATABASE):
        photo = photos[number % len(photos)]
        side = int(min(photo.size) * generator.uniform(0.3, 0.8))
        left = int(generator.integers(0, photo.width - side + 1))
        top = int(generator.integers(0, photo.height - side + 1))
        size = (96 + number % 32, 64 + number % 48)
        crops.append(photo.resize(size, box=(left, top, left + side, top + side)))
    return crops


@pytest.fixture(scope="module")
def folder(crops, tmp_path_factory):
    """A folder in which the blocks find everything they name."""
    folder = tmp_path_factory.mktemp("seed")
    nano = perception_encoder.AutoModel.from_pretrained("pe-nano", device="cpu")
    first = nano.save_pretrained(folder / IDS[0])
    shutil.copytree(first, folder / IDS[1])
    images = folder / "path" / "to"
    images.mkdir(parents=True)
    crops[0].save(images / "image.jpg")
    for number, crop in enumerate(crops):
        crop.save(images / f"image{number}.jpg", quality=92)
    shutil.copy(images / f"image{TWIN}.jpg", images / "query.jpg")
    return folder


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Run the block under a title; returns its variables and what it printed."""
    monkeypatch.chdir(folder)

    def run_block(title):
        names = {"__name__": "__main__"}
        exec(compile(BLOCKS[title], f"{SEED.name}: {title}", "exec"), names)
        return names, capsys.readouterr().out

    return run_block


def is_unit_rows(tensor, num_rows) -> bool:
    return (
        isinstance(tensor, torch.Tensor)
        and (tensor.dtype, tensor.device.type) == (torch.float32, "cpu")
        and tensor.shape == (num_rows, 192)
        and bool((tensor.norm(dim=1) - 1).abs().max() < 1e-5)
    )


def test_the_text_is_the_users_own_and_every_block_of_it_is_run():
    assert hashlib.sha256(SEED.read_bytes()).hexdigest() == SHA256
    assert len(BLOCKS) == TEXT.count("```python") == 6
    assert list(BLOCKS) == [
        "Image Embeddings",
        "Text Embeddings",
        "Image-Text Similarity",
        "Similarity Search",
        "Image Clustering",
        "Batch Processing",
    ]


@pytest.mark.parametrize("name", ["PE-Core-B16-224", "PE-Core-L14-336", "PE-Core-G14-448"])
def test_every_id_of_the_text_is_registered_in_both_spellings(name):
    assert f"`perception-encoder/{name}`" in TEXT
    entry = find(f"perception-encoder/{name}")
    assert entry is find(f"perception_encoder/{name}") is find(name)
    assert entry.config.vision.image_size == int(name.rpartition("-")[2])
    assert any(source.repo == f"facebook/{name}" for source in entry.sources)


def test_image_embeddings(run):
    names, printed = run("Image Embeddings")
    assert is_unit_rows(names["embedding"], 1)
    assert printed == "Embedding shape: torch.Size([1, 192])\n"


def test_text_embeddings(run):
    names, printed = run("Text Embeddings")
    assert is_unit_rows(names["text_embedding"], 1)
    assert is_unit_rows(names["text_embeddings"], 3)
    assert torch.allclose(names["text_embeddings"][:1], names["text_embedding"], atol=2e-5)
    assert printed.splitlines() == [
        "Text embedding shape: torch.Size([1, 192])",
        "Batch text embeddings shape: torch.Size([3, 192])",
    ]


def test_image_text_similarity(run):
    names, printed = run("Image-Text Similarity")
    scores = (names["image_embedding"] @ names["text_embeddings"].T)[0]
    assert np.allclose(names["similarities"], scores, atol=1e-6)
    best = int(scores.argmax())
    assert names["best_match_idx"] == best
    word, similarity = ["cat", "dog", "bird"][best], names["similarities"][best]
    assert f"Best match: {word} (similarity: {similarity:.3f})\n" in printed


def test_similarity_search_runs_but_ranks_only_when_the_query_is_one_vector(run, folder):
    names, printed = run("Similarity Search")
    query, database = names["query_embedding"], names["database_embeddings"]
    assert is_unit_rows(query, 1)
    assert is_unit_rows(database, NUM_DATABASE)
    # As printed, the query is (1, E): each similarity is an array of one number, and np.argsort
    # sorts each of these by itself.
    assert np.shape(names["similarities"]) == (NUM_DATABASE, 1)
    assert names["top_indices"].tolist() == [[0]] * 5
    assert printed.startswith("Top 5 most similar images: [[0]")

    scores = [names["cosine_similarity"](query[0], row) for row in database]
    assert np.argmax(scores) == TWIN
    model = perception_encoder.AutoModel.from_pretrained(folder / IDS[0])
    similarities = model.similarity(query, database)[0]
    assert np.allclose(similarities, scores, atol=1e-6)
    assert np.argsort(similarities)[::-1][0] == TWIN


def test_image_clustering(run):
    names, printed = run("Image Clustering")
    assert names["cluster_labels"].shape == (NUM_DATABASE,)
    assert set(names["cluster_labels"]) == set(range(10))
    assert printed.startswith("Cluster assignments: [")


def test_batch_processing(run):
    names, printed = run("Batch Processing")
    assert is_unit_rows(names["embeddings"], 10)
    assert printed == "Batch embeddings shape: torch.Size([10, 192])\n"
    alone = torch.cat([names["model"].embed_image(image) for image in names["images"]])
    assert torch.allclose(names["embeddings"], alone, atol=2e-5)
