"""What do RAW files and JPEG XL cost beside a JPEG of the same size?

A RAW file is written with a preview of 24 megapixels and 40 MB of other data. Writes
`results/camera_files.json`: milliseconds of processor time, medians. JPEG XL is decoded in a child
process; beside the decoding stands what that adds in this process.

    python -m benchmarks.camera_files --photos ../shared/photos
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pylibjxl
from PIL import Image

from benchmarks.decoding_images import TWELVE, TWENTY_FOUR, encoded, enlarged, photos_in
from benchmarks.report import write_report
from perception_encoder.preprocess import ImageProcessor, decode_image
from perception_encoder.preprocess.raw import find_preview
from perception_encoder.registry import ImageConfig

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from preprocess import camera_files

SUBJECT = "truck.jpg"
SIDE = 384
SENSOR_BYTES = 40_000_000
REPEATS = 9


def main() -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, required=True)
    subject = photos_in(parser.parse_args().photos)[SUBJECT].convert("RGB")
    figures = {"raw": raw(subject), "jpeg_xl": jpeg_xl(subject)}
    packages = ["pillow", "numpy", "pylibjxl", "rawpy"]
    write_report("camera_files", "RAW files and JPEG XL beside JPEG", packages, figures)
    print(json.dumps(figures, indent=1))


def median(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Return the median milliseconds of some runs, after one that does not count."""
    work()
    taken = []
    for _ in range(REPEATS):
        started = clock()
        work()
        taken.append(1000 * (clock() - started))
    return round(statistics.median(taken), 1)


def raw(subject: Image.Image) -> dict[str, object]:
    """Time a RAW file and its preview alone, in processor time."""
    preview = encoded(enlarged(subject, TWENTY_FOUR), "JPEG", quality=90)
    noise = np.random.default_rng(0).integers(0, 256, SENSOR_BYTES, np.uint8).tobytes()
    data = camera_files.nef(subject, preview, orientation=6) + noise
    figures: dict[str, object] = {
        "bytes": len(data),
        "find the preview": median(partial(find_preview, data), time.thread_time),
    }
    for name in ("standard", "fast"):
        processor = ImageProcessor(ImageConfig(), SIDE, preprocess=name)
        figures[f"{name}, RAW"] = median(partial(processor, data), time.thread_time)
        figures[f"{name}, preview alone"] = median(partial(processor, preview), time.thread_time)
    return figures


def jpeg_xl(subject: Image.Image) -> dict[str, object]:
    """Time JPEG XL and JPEG."""
    figures: dict[str, object] = {}
    for name, size in (("12 MP", TWELVE), ("0.3 MP", (640, 480))):
        image = enlarged(subject, size)
        data = pylibjxl.encode(np.asarray(image), effort=3)
        jpeg = encoded(image, "JPEG", quality=90)
        figures[name] = {
            "decoding": median(partial(pylibjxl.decode, data), time.process_time),
            "asking the child process": median(partial(decode_image, data), time.process_time),
            "JPEG": median(partial(decode_image, jpeg), time.process_time),
        }
    return figures


if __name__ == "__main__":
    main()
