"""The reference preprocessing against pixels recorded from open_clip on real torchvision."""

import hashlib
from pathlib import Path

import formula
import numpy as np
import pytest
import torch

from perception_encoder.model.dual_encoder import Normalize
from perception_encoder.preprocess import ImageProcessor
from perception_encoder.registry import find

PIPELINES = {"pe": "PE-Core-B16-224", "clip": "clip/ViT-B-32"}


def processor(pipeline: str) -> ImageProcessor:
    config = find(PIPELINES[pipeline]).config
    return ImageProcessor(config.image, config.vision.image_size, preprocess="reference")


def check(path: Path, golden: formula.EndToEnd, place: int, pipeline: str) -> None:
    process = processor(pipeline)
    prepared = process(path)
    digest = hashlib.sha256(prepared.tobytes()).hexdigest()
    assert digest == golden.rows[place][f"{pipeline}_pixels_sha256"], path.name
    normalize = Normalize(process.config.mean, process.config.std)
    pixels = normalize(torch.from_numpy(prepared[None]))[0].numpy()
    samples = pixels.ravel()[:: pixels.size // 97][:97]
    np.testing.assert_array_equal(samples, golden.arrays[f"{pipeline}/pixel_samples"][place])
    mean = pixels.astype(np.float64).mean(axis=(1, 2))
    np.testing.assert_allclose(mean, golden.arrays[f"{pipeline}/pixel_mean"][place], atol=1e-5)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_recorded_image_gives_the_originals_pixels(pipeline: str):
    golden = formula.load_end_to_end("images")
    for place, row in enumerate(golden.rows):
        check(formula.GOLDEN / "images" / row["file"], golden, place, pipeline)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_recorded_photo_gives_the_originals_pixels(pipeline: str, photos: list[Path]):
    golden = formula.load_end_to_end("photos")
    places = {row["sha256"]: place for place, row in enumerate(golden.rows)}
    known = [
        (path, places[digest])
        for path in photos
        if (digest := hashlib.sha256(path.read_bytes()).hexdigest()) in places
    ]
    if not known:
        pytest.skip("none of the photos here is one of those recorded")
    for path, place in known:
        check(path, golden, place, pipeline)
