"""What is lost where a color profile is ignored?

Each photo's pixels are taken for Display P3, Adobe RGB and Rec. 2020, as if a phone or a camera had
written them, and embedded with and without conversion to sRGB. For HDR, each photo is written with
the PQ and HLG curves and BT.2020 primaries, as PNG with a `cICP` chunk; the embeddings with and
without conversion are compared with that of the photo itself. The figures go into
`results/color_profiles.json`.

    python -m benchmarks.color_profiles --photos ../shared/photos
"""

import argparse
import io
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

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
WHITE_NITS = 203.0
SRGB_TO_2020 = np.array(
    [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
)


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
            found[profile] = cosines_to(plain, converted)
        for curve, encode in CURVES.items():
            pixels = [in_hdr(photo, encode) for photo in photos.values()]
            code = CODES[curve]
            found[f"{curve}, BT.2020"] = {
                "ignored": cosines_to(plain, model.embed_images([png(one) for one in pixels])),
                "converted": cosines_to(
                    plain, model.embed_images([png(one, (9, code)) for one in pixels])
                ),
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


def cosines_to(plain: NDArray[np.float32], others: NDArray[np.float32]) -> dict[str, float]:
    """Return the median and the lowest cosine between the rows of (N, E) embeddings."""
    cosines = (plain * others).sum(axis=1)
    return {
        "median": round(float(np.median(cosines)), 5),
        "lowest": round(float(cosines.min()), 5),
    }


def in_hdr(
    photo: Image.Image, encode: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> Image.Image:
    """Return a photo in BT.2020 and a curve of HDR, with white at 203 nits."""
    value = np.asarray(photo.convert("RGB")) / 255
    light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    nits = np.clip(light @ SRGB_TO_2020.T, 0, 1) * WHITE_NITS
    return Image.fromarray(np.rint(255 * encode(nits)).astype(np.uint8))


def pq(nits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the signal of SMPTE ST 2084."""
    power = (nits / 10_000) ** 0.1593017578125
    signal: NDArray[np.float64] = (
        (0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)
    ) ** 78.84375
    return signal


def hlg(nits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the signal of ITU-R BT.2100 HLG on a display of 1000 nits."""
    scene = (nits / 1000) ** (1 / 1.2)
    upper = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), upper)


CURVES = {"PQ": pq, "HLG": hlg}
CODES = {"PQ": 16, "HLG": 18}


def png(image: Image.Image, code_points: tuple[int, int] | None = None) -> bytes:
    """Return a PNG, with the color primaries and the curve in a `cICP` chunk if they are given."""
    buffer = io.BytesIO()
    chunks = PngInfo()
    if code_points is not None:
        chunks.add(b"cICP", bytes((*code_points, 0, 1)))
    image.save(buffer, "PNG", pnginfo=chunks, compress_level=1)
    return buffer.getvalue()


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
