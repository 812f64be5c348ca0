"""What does reading metadata add to the preparation of photos?

Reading is timed as a share of decoding and resizing, both on one core and from memory. Each photo
is taken as it is, and again with metadata as a camera and a catalog write it: EXIF with a maker
note, XMP and IPTC. The quickest of runs that alternate, in milliseconds of processor time a photo.

    python -m benchmarks.metadata --photos ../shared/photos
"""

import argparse
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.ExifTags import GPS, IFD, Base
from PIL.TiffImagePlugin import IFDRational

from benchmarks.decoding_images import TWELVE, encoded, enlarged, photos_in
from benchmarks.report import write_report
from perception_encoder.metadata import read_metadata
from perception_encoder.preprocess import ImageProcessor
from perception_encoder.registry import ImageConfig
from perception_encoder.types import PreprocessName

SIDE = 224
REPEATS = 15
MAKER_NOTE_BYTES = 30_000
XMP = """<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/" xmp:Rating="4" {settings}>
<dc:title><rdf:Alt><rdf:li xml:lang="x-default">Title</rdf:li></rdf:Alt></dc:title>
<dc:subject><rdf:Bag>{keywords}</rdf:Bag></dc:subject></rdf:Description></rdf:RDF></x:xmpmeta>"""


def main() -> None:
    """Measure, print the figures, and write them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, required=True)
    folder = parser.parse_args().photos
    photos = photos_in(folder)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    twelve = enlarged(photos["truck.jpg"], TWELVE)
    files = {name: (folder / name).read_bytes() for name in photos}
    tagged = {name: with_metadata(data) for name, data in files.items()}
    large = {"12 MP": with_metadata(encoded(twelve, "JPEG", quality=90))}
    figures: dict[str, Any] = {}
    megapixels = sum(image.width * image.height for image in photos.values()) / 1e6
    for kind, some in (
        ("photos without metadata", files),
        ("photos with EXIF, XMP and IPTC", tagged),
        ("12 MP with EXIF, XMP and IPTC", large),
    ):
        for preprocess in ("standard", "fast"):
            figures.setdefault(kind, {})[preprocess] = measured(some, preprocess)
            print(kind, preprocess, figures[kind][preprocess], flush=True)
    note = f"JPEGs, resized to {SIDE}; EXIF with a maker note of {MAKER_NOTE_BYTES:,} bytes"
    path = write_report(
        "metadata",
        "the cost of reading metadata, as a share of preparing a photo",
        ["pillow", "defusedxml"],
        {"photos": len(files), "megapixels": round(megapixels / len(files), 2), **figures},
        note,
    )
    print(path)


def measured(files: Mapping[str, bytes], preprocess: PreprocessName) -> dict[str, float]:
    """Return the means over some files of preparing, of reading metadata, and their quotient."""
    process = ImageProcessor(ImageConfig(), SIDE, preprocess=preprocess)
    preparing = reading = 0.0
    for data in files.values():
        runs: list[tuple[float, float]] = []
        for _ in range(REPEATS):
            started = time.thread_time()
            process(data)
            between = time.thread_time()
            read_metadata(data)
            runs.append((between - started, time.thread_time() - between))
        preparing += min(run[0] for run in runs)
        reading += min(run[1] for run in runs)
    return {
        "prepare_ms": round(1000 * preparing / len(files), 3),
        "read_metadata_ms": round(1000 * reading / len(files), 4),
        "share": round(reading / preparing, 5),
    }


def with_metadata(jpeg: bytes) -> bytes:
    """Return a JPEG with all three kinds of metadata before its image data."""
    keywords = "".join(f"<rdf:li>keyword {number}</rdf:li>" for number in range(12))
    settings = " ".join(f'crs:Setting{number}="{number}"' for number in range(80))
    xmp = XMP.format(settings=settings, keywords=keywords).encode()
    iptc = b"".join(
        struct.pack(">BBBH", 0x1C, 2, number, len(value)) + value
        for number, value in [(5, b"Title"), (25, b"dog"), (55, b"20230504"), (60, b"103000+0200")]
    )
    photoshop = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(iptc)) + iptc
    parts = [
        (0xE1, _exif().tobytes()),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp),
        (0xED, b"Photoshop 3.0\0" + photoshop),
    ]
    packed = (struct.pack(">BBH", 0xFF, marker, len(part) + 2) + part for marker, part in parts)
    return jpeg[:2] + b"".join(packed) + jpeg[2:]


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[Base.Make] = "Canon"
    exif[Base.Model] = "Canon EOS 5D Mark IV"
    exif[Base.DateTime] = "2023:05:04 10:30:01"
    exif.get_ifd(IFD.Exif).update(
        {
            Base.DateTimeOriginal: "2023:05:04 10:30:01",
            Base.OffsetTimeOriginal: "+02:00",
            Base.ISOSpeedRatings: 400,
            Base.ExposureTime: IFDRational(1, 250),
            Base.FNumber: IFDRational(28, 10),
            Base.FocalLength: IFDRational(50, 1),
            Base.LensModel: "EF50mm f/1.8 STM",
            Base.MakerNote: bytes(MAKER_NOTE_BYTES),
            **dict.fromkeys(range(0xA401, 0xA40B), 1),
        }
    )
    exif.get_ifd(IFD.GPSInfo).update(
        {
            GPS.GPSLatitudeRef: "N",
            GPS.GPSLatitude: (48.0, 51.0, 30.0),
            GPS.GPSLongitudeRef: "E",
            GPS.GPSLongitude: (2.0, 17.0, 42.0),
        }
    )
    return exif


if __name__ == "__main__":
    main()
