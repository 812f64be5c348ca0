"""How long does a folder of 20,000 JPEG files take to index, and how long when nothing changed?

The files are crops and re-encodings of the photos in --photos and of the bundled gallery, all of
different content, with 200 broken ones of twelve kinds among them. `pe index` runs with pe-nano as
a process of its own, as a person would start it, after a run that made the backend's graphs: over a
tenth of the files and over all, for the memory of both; again with nothing changed, without and
with a line of JSON for every file; then `pe search "red heart"` with everything warm. The
reason reported for each broken file is compared with its kind.

    python -m benchmarks.folder --photos ../shared/photos --folder /tmp/folder-benchmark
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks.report import write_report

NUM_FILES = 20_000
NUM_BROKEN = 200
GALLERY = Path(__file__).parent.parent / "src/perception_encoder/data/gallery"


class Run(NamedTuple):
    """One process: what it wrote, how long it took, how much memory it held at most."""

    lines: list[dict]
    seconds: float
    peak_rss_bytes: int


def main() -> None:
    """Make the files, run, compare and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="Made, and deleted at the end.")
    parser.add_argument("--files", type=int, default=NUM_FILES)
    arguments = parser.parse_args()
    folder, num_files = arguments.folder, arguments.files
    shutil.rmtree(folder, ignore_errors=True)
    make(arguments.photos, folder / "tenth", num_files // 10, first=0)
    make(arguments.photos, folder / "all", num_files, first=num_files)
    broken = make_broken(folder / "all", NUM_BROKEN)
    num_bytes = sum(path.lstat().st_size for path in (folder / "all").rglob("*.*"))

    pe("index", folder / "tenth" / "000", "--index", folder / "warm.lance")
    tenth = pe("index", folder / "tenth", "--index", folder / "tenth.lance", "--json")
    first = pe("index", folder / "all", "--index", folder / "all.lance", "--json")
    second = pe("index", folder / "all", "--index", folder / "all.lance")
    third = pe("index", folder / "all", "--index", folder / "all.lance", "--json")
    searches = [
        pe("search", "red heart", "--index", folder / "all.lance", "--json").seconds
        for _ in range(7)
    ]
    failed = {Path(line["uri"]).name: line.get("reason") for line in first.lines if is_failed(line)}
    right = sum(failed.get(name) == reason for name, reason in broken.items())
    figures = {
        "files": num_files,
        "broken": len(broken),
        "bytes": num_bytes,
        "statuses_first": Counter(line["status"] for line in first.lines),
        "statuses_third": Counter(line["status"] for line in third.lines),
        "seconds_first": first.seconds,
        "images_per_second": num_files / first.seconds,
        "seconds_second": second.seconds,
        "seconds_third_with_json": third.seconds,
        "second_against_first": second.seconds / first.seconds,
        "decode_ms": statistics.median(embedded(first, "decode_ms")),
        "encode_ms": statistics.median(embedded(first, "encode_ms")),
        "peak_rss_bytes_tenth": tenth.peak_rss_bytes,
        "peak_rss_bytes_all": first.peak_rss_bytes,
        "peak_all_against_tenth": first.peak_rss_bytes / tenth.peak_rss_bytes,
        "broken_with_the_right_reason": right,
        "whole_files_that_failed": sorted(set(failed) - set(broken)),
        "search_seconds": searches,
    }
    path = write_report(
        "folder",
        "indexing 20,000 JPEG files with pe-nano: whole processes",
        ["torch", "pylance", "pyarrow", "pillow"],
        figures,
    )
    print(path.read_text(encoding="utf-8"))
    for name, reason in broken.items():
        if failed.get(name) != reason:
            print(f"{name}: {failed.get(name)} instead of {reason}")
    shutil.rmtree(folder)


def pe(*arguments: object) -> Run:
    """Run `pe` and wait for it; a child's memory counts, not this process's."""
    command = [sys.executable, "-m", "perception_encoder.cli", *map(str, arguments)]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=sys.stderr)
    assert process.stdout is not None
    output = process.stdout.read()
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0  # waited for
    seconds = time.perf_counter() - started
    return Run([json.loads(line) for line in output.splitlines()], seconds, usage.ru_maxrss * 1024)


def is_failed(line: dict) -> bool:
    """Say whether an outcome is a failure."""
    return line["status"] == "failed"


def embedded(run: Run, name: str) -> list[float]:
    """Return a figure of every image that was computed."""
    return [line[name] for line in run.lines if line["status"] == "embedded"]


def make(photos: Path, folder: Path, count: int, first: int) -> None:
    """Write JPEG files in folders of a thousand; each number gives its own image."""
    sources = sorted(p for p in photos.iterdir() if p.suffix in (".jpg", ".jpeg", ".png"))
    sources += sorted(GALLERY.glob("*.webp"))
    for start in range(0, count, 1000):
        (folder / f"{start // 1000:03}").mkdir(parents=True)
    jobs = [(folder, sources, start, first) for start in range(0, count, 1000)]
    with ProcessPoolExecutor() as pool:
        list(pool.map(make_thousand, jobs, [min(1000, count - job[2]) for job in jobs]))


def make_thousand(job: tuple[Path, list[Path], int, int], count: int) -> None:
    """Write one folder of files."""
    folder, sources, start, first = job
    opened: dict[Path, Image.Image] = {}
    for number in range(start, start + count):
        random = np.random.default_rng(first + number)
        source = sources[int(random.integers(len(sources)))]
        if source not in opened:
            opened[source] = Image.open(source).convert("RGB")
        image = opened[source]
        side = float(random.uniform(0.4, 1.0))
        width, height = (max(32, int(side * length)) for length in image.size)
        left = int(random.integers(image.width - width + 1)) if image.width > width else 0
        top = int(random.integers(image.height - height + 1)) if image.height > height else 0
        crop = image.crop((left, top, left + width, top + height))
        crop.thumbnail((1024, 1024))
        crop.save(
            folder / f"{start // 1000:03}" / f"{number}.jpg", quality=int(random.integers(60, 96))
        )


def make_broken(folder: Path, count: int) -> dict[str, str]:
    """Write files that cannot be used, and return the reason for each by its name."""
    kinds = list(broken_kinds())
    reasons = {}
    for number in range(count):
        suffix, reason, write = kinds[number % len(kinds)]
        path = folder / "000" / f"broken{number}{suffix}"
        write(path, number)
        reasons[path.name] = reason
    return reasons


def encoded(form: str, number: int) -> bytes:
    """Return a whole image in a format; each number gives another."""
    stream = BytesIO()
    noise = np.random.default_rng(number).integers(0, 256, (120, 160, 3), np.uint8)
    Image.fromarray(noise).save(stream, form)
    return stream.getvalue()


def broken_kinds() -> Iterator[tuple[str, str, Callable[[Path, int], object]]]:
    """Yield twelve kinds: the ending, the reason that is right, and how such a file is written."""

    def cut(form: str) -> Callable[[Path, int], object]:
        return lambda path, number: path.write_bytes(encoded(form, number)[:-4000])

    def spoilt_png(path: Path, number: int) -> None:
        data = bytearray(encoded("PNG", number))
        data[3000:3200] = b"\xff" * 200
        path.write_bytes(data)

    def huge_png(path: Path, number: int) -> None:
        del number
        data = bytearray(encoded("PNG", 1))
        data[16:24] = (200_000).to_bytes(4, "big") * 2  # width and height in the header
        import zlib

        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
        path.write_bytes(data)

    yield ".jpg", "ImageEmptyError", lambda path, _: path.write_bytes(b"")
    yield ".jpg", "ImageDecodeError", lambda path, n: path.write_text(f"<html>404 {n}</html>")
    yield ".png", "ImageDecodeError", lambda path, n: path.write_bytes(bytes(5000 + n))
    yield ".jpg", "ImageTruncatedError", cut("JPEG")
    yield ".png", "ImageTruncatedError", cut("PNG")
    yield ".webp", "ImageTruncatedError", cut("WEBP")
    yield ".bmp", "ImageTruncatedError", cut("BMP")
    yield ".gif", "ImageTruncatedError", cut("GIF")
    yield ".png", "ImageDecodeError", spoilt_png
    yield ".png", "ImageTooLargeError", huge_png
    yield ".jpg", "ImageNotFoundError", lambda path, n: path.symlink_to(f"gone{n}.jpg")
    yield ".jpg", "ImageUnreadableError", lambda path, _: os.mkfifo(path)


if __name__ == "__main__":
    main()
