"""What is lost where a color profile is ignored?

Each photo's pixels are taken for Display P3, Adobe RGB and Rec. 2020, as if a phone or a camera had
written them, and embedded with and without conversion to sRGB. The figures go into
`results/color_profiles.json`.

    python -m benchmarks.color_profiles --photos ../shared/photos
"""

import argparse
import io
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.decoding_images import photos_in
from benchmarks.report import write_report
from perception_encoder import AutoModel
from perception_encoder.preprocess import ImageProcessor
from perception_encoder.registry import ImageConfig

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from preprocess.color_profiles import ADOBE_RGB, DISPLAY_P3, REC2020

MODELS = (("pe-nano", False), ("PE-Core-B16-224", True))
PROFILES = {"Display P3": DISPLAY_P3, "Adobe RGB": ADOBE_RGB, "Rec. 2020": REC2020}
REPEATS = 20


def main() -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, required=True)
    photos = photos_in(parser.parse_args().photos)
    figures: dict[str, object] = {"num_photos": len(photos), "cosines": {}, "cost": cost(photos)}
    for name, has_random_weights in MODELS:
        model = AutoModel.from_pretrained(
            name, random_weights=has_random_weights, device="cpu", precision="fp32"
        )
        plain = model.embed_images(list(photos.values()))
        found: dict[str, object] = {"random_weights": has_random_weights}
        for profile, content in PROFILES.items():
            converted = model.embed_images([with_profile(one, content) for one in photos.values()])
            cosines = (plain * converted).sum(axis=1)
            found[profile] = {
                "median": round(float(np.median(cosines)), 5),
                "lowest": round(float(cosines.min()), 5),
            }
        others = plain @ plain.T
        found["between different photos, highest"] = round(
            float(others[~np.eye(len(others), dtype=bool)].max()), 5
        )
        figures["cosines"][name] = found  # type: ignore[index]
        print(name, json.dumps(found, indent=1), flush=True)
    write_report(
        "color_profiles",
        "embeddings with and without conversion of wide colors to sRGB",
        ["pillow", "numpy", "torch"],
        figures,
    )


def with_profile(photo: Image.Image, profile: bytes) -> bytes:
    """Return a PNG whose pixels are meant in the colors of a profile."""
    buffer = io.BytesIO()
    photo.convert("RGB").save(buffer, "PNG", icc_profile=profile, compress_level=1)
    return buffer.getvalue()


def cost(photos: dict[str, Image.Image]) -> dict[str, float]:
    """Return the milliseconds that a 12-megapixel JPEG takes, with and without a profile."""
    photo = next(iter(photos.values())).convert("RGB").resize((4000, 3000))
    processor = ImageProcessor(ImageConfig(), 384)
    taken = {}
    for name, profile in (("no profile", None), ("Display P3", DISPLAY_P3)):
        buffer = io.BytesIO()
        photo.save(buffer, "JPEG", quality=90, icc_profile=profile)
        data = buffer.getvalue()
        processor(data)
        times = []
        for _ in range(REPEATS):
            started = time.thread_time()
            processor(data)
            times.append(1000 * (time.thread_time() - started))
        taken[name] = round(statistics.median(times), 1)
    print(taken, flush=True)
    return taken


if __name__ == "__main__":
    main()
