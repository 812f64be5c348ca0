"""How many bytes does a row of an index take besides its embedding?

    python -m benchmarks.capacity --measure-rows

Names as of a photo library, digests, sizes and times, without and with the metadata of photos.
"""

import datetime
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.report import write_report
from perception_encoder.index import Index, Row
from perception_encoder.types import ModelIdentity

ROWS = 100_000
EMBED_DIM = 64
CAMERAS = ("Canon EOS R5", "Apple iPhone 13", "NIKON Z 6", "SONY ILCE-7M4")


def measure_rows() -> Path:
    """Write indexes of rows with random values, and report their bytes."""
    plain, photos = (_bytes_per_row(has_metadata=one) for one in (False, True))
    return write_report(
        "rows",
        "bytes of a row of an index besides its embedding",
        ["pylance", "pyarrow", "numpy"],
        {
            "rows": ROWS,
            "bytes_per_row": round(plain, 1),
            "bytes_of_photo_metadata_per_row": round(photos - plain, 1),
        },
        note="names such as /srv/photos/2021/06/IMG_012345.jpg; time, camera, place, exposure",
    )


def _bytes_per_row(*, has_metadata: bool) -> float:
    generator = np.random.default_rng(0)
    identity = ModelIdentity("made/rows", "0" * 16, "standard", EMBED_DIM)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.lance"
        index = Index.create(path, identity)
        vectors = generator.standard_normal((ROWS, EMBED_DIM)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        index.add([_row(number, generator, has_metadata) for number in range(ROWS)], vectors)
        files = [one for one in (path / "data").rglob("*") if one.is_file()]
        return sum(one.stat().st_size for one in files) / ROWS - 2 * EMBED_DIM


def _row(number: int, generator: np.random.Generator, has_metadata: bool) -> Row:
    taken = datetime.datetime(2010, 1, 1) + datetime.timedelta(seconds=int(generator.integers(4e8)))
    metadata = {
        "taken_at": taken,
        "camera": CAMERAS[int(generator.integers(len(CAMERAS)))],
        "latitude": float(generator.uniform(-60, 60)),
        "longitude": float(generator.uniform(-180, 180)),
        "exposure_time": float(generator.choice([0.001, 0.004, 0.008, 0.02])),
        "f_number": float(generator.choice([1.8, 2.8, 4.0, 8.0])),
        "iso": int(generator.choice([100, 200, 400, 800])),
        "title": f"A day at the lake, {number}" if number % 10 == 0 else None,
    }
    return Row(
        f"/srv/photos/{taken:%Y/%m}/IMG_{number:06}.jpg",
        width=int(generator.choice([4000, 4032, 6000])),
        height=int(generator.choice([3000, 3024, 4000])),
        bytes=int(generator.integers(1e6, 9e6)),
        mtime=int(taken.timestamp() * 1e9),
        sha256=generator.bytes(32).hex(),
        metadata=metadata if has_metadata else {},
    )
