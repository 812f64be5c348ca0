"""Indexes of the preprocessing "fast": what is stored, and queries that are prepared alike."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_models import CORE, drawing, open_tiny

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.errors import IndexMismatchError
from perception_encoder.index import Index, row_id
from perception_encoder.indexing import Run
from perception_encoder.preprocess import ImageProcessor
from perception_encoder.search import read_queries
from perception_encoder.search.grammar import parse_query
from perception_encoder.sources import SourceOptions, open_sources

SIZES = ((1001, 763), (403, 1207), (20, 31))


def model_of(name: str, max_pixels: int = 10**7) -> EmbeddingModel:
    processor = ImageProcessor(CORE.image, 32, preprocess=name, max_pixels=max_pixels)
    return open_tiny(processor=processor)


def save_photos(folder: Path) -> list[Path]:
    """Write JPEGs, two of them large, that are stored on their side."""
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    paths = []
    for seed, (width, height) in enumerate(SIZES):
        paths.append(folder / f"photo{seed}.jpg")
        large = drawing(seed).resize((width, height), Image.Resampling.BICUBIC)
        large.save(paths[-1], quality=90, exif=exif)
    return paths


def indexed(folder: Path, model: EmbeddingModel, name: str) -> Index:
    index = Index.create(folder / name, model.identity)
    run = Run(model, index, open_sources([str(folder / "in")], SourceOptions()))
    assert {outcome.status for outcome in run.outcomes()} == {"embedded"}
    index.refresh()
    return index


def test_the_index_holds_the_size_of_the_whole_upright_image(tmp_path: Path):
    paths = save_photos(tmp_path / "in")
    index = indexed(tmp_path, model_of("fast"), "t.lance")
    sizes = {Path(row.uri).name: (row.width, row.height) for row in index.rows()}
    assert sizes == {path.name: size[::-1] for path, size in zip(paths, SIZES, strict=True)}
    assert Index.open(tmp_path / "t.lance").identity.preprocess == "fast"


@pytest.mark.parametrize("name", ["standard", "fast"])
def test_an_image_on_standard_input_is_prepared_as_the_indexes_were(tmp_path: Path, name: str):
    paths = save_photos(tmp_path / "in")
    model = model_of(name)
    index = indexed(tmp_path, model, "t.lance")
    (query,) = read_queries(
        index, [parse_query("-")], lambda: model, read_stdin=io.BytesIO(paths[0].read_bytes()).read
    )
    key = row_id(os.fspath(paths[0]))
    stored = index.by_ids([key])[key][1]
    np.testing.assert_allclose(query.vector, stored / np.linalg.norm(stored), atol=5e-4)


def test_vectors_of_large_images_differ_and_stay_near(tmp_path: Path):
    large, _, small = save_photos(tmp_path / "in")
    fast, standard = model_of("fast"), model_of("standard")
    np.testing.assert_array_equal(fast.embed_image(small), standard.embed_image(small))
    vectors = [model.embed_image(large) for model in (fast, standard)]
    assert (vectors[0] != vectors[1]).any()
    assert (vectors[0] @ vectors[1].T).item() > 0.999


def test_an_index_does_not_mix_fast_with_standard(tmp_path: Path):
    save_photos(tmp_path / "in")
    index = indexed(tmp_path, model_of("standard"), "t.lance")
    with pytest.raises(IndexMismatchError, match=r"preprocessing standard.*preprocessing fast"):
        read_queries(index, [parse_query("cat")], lambda: model_of("fast"))
    with pytest.raises(IndexMismatchError):
        Index.open_or_create(tmp_path / "t.lance", model_of("fast").identity)


def test_a_run_refuses_by_the_size_of_the_whole_image(tmp_path: Path):
    save_photos(tmp_path / "in")
    model = model_of("fast", max_pixels=500_000)
    index = Index.create(tmp_path / "t.lance", model.identity)
    run = Run(model, index, open_sources([str(tmp_path / "in")], SourceOptions()))
    reasons = {Path(o.uri).name: o.reason or o.status for o in run.outcomes()}
    assert reasons == {
        "photo0.jpg": "ImageTooLargeError",
        "photo1.jpg": "embedded",
        "photo2.jpg": "embedded",
    }
