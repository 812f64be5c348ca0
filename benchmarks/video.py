"""Does a text find the right moment of a video, and what does a minute of 1080p cost?

The clips of the first question are made from drawings of the gallery: each is shown for two to four
seconds, with a pan and a zoom. A search counts if its best hit is in the right clip, and its frame
in the right scene. The clip of the second question is 60 seconds at 30 frames a second, H.264, with
a keyframe every second (as phones write) or about every eight seconds (as x264 does by default).

With `--hours`, a file of so many hours is sampled, too: ten seconds of 320 × 240 at 25 frames a
second, written again and again.

    python -m benchmarks.video --hours 10
"""

import argparse
import random
import resource
import statistics
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.report import write_report
from perception_encoder import AutoModel
from perception_encoder.backends import ComputeOptions, open_random_backend
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.index import Index
from perception_encoder.indexing import Run
from perception_encoder.preprocess import ImageProcessor
from perception_encoder.registry import find
from perception_encoder.sources import SourceOptions, open_sources
from perception_encoder.video import VideoDecoder

CLIPS, SCENES_OF_A_CLIP = 16, 8
SIZE, FPS = (320, 240), 24
FULL_HD, SECONDS, HD_FPS = (1920, 1080), 60, 30
REPEATS = 3
LONG_FPS = 25
SPEED_MODELS = ("pe-nano", "PE-Core-S16-384")


def main() -> None:
    """Measure both, and write them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hours", type=float, default=0, help="length of a long file")
    hours = parser.parse_args().hours
    figures: dict[str, Any] = {}
    if hours:  # first: what the largest child process needed is known of all together
        with tempfile.TemporaryDirectory() as folder:
            figures["long_file"] = long_file(Path(folder), hours)
    with tempfile.TemporaryDirectory() as folder:
        found = precision(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        speed = [
            minute(Path(folder), keyframes, gop) for keyframes, gop in (("1 s", 30), ("8 s", 250))
        ]
    write_report(
        "video",
        "Does a text find the right moment, and what does a minute of 1080p cost?",
        ["av", "openvino", "torch", "numpy", "pillow"],
        {"precision": found, "minute_of_1080p": speed, **figures},
        note="PE-Core-S16-384 has random weights, which take the same time.",
    )


def drawings() -> list[tuple[str, Image.Image]]:
    """Return the gallery's drawings of one thing, on white, with their names."""
    found = []
    for path in sorted((files("perception_encoder") / "data" / "gallery").iterdir(), key=str):
        stem = Path(str(path)).stem
        if Path(str(path)).suffix == ".webp" and not {"next", "above", "left"} & set(
            stem.split("-")
        ):
            with path.open("rb") as file:
                drawn = Image.open(file).convert("RGBA")
            white = Image.new("RGBA", drawn.size, "white")
            found.append((stem.replace("-", " "), Image.alpha_composite(white, drawn)))
    return [(name, drawn.convert("RGB")) for name, drawn in found]


def precision(folder: Path) -> dict[str, Any]:
    """Index clips of known scenes with pe-nano, and search for each scene by its name."""
    chosen = random.Random(0)
    scenes = chosen.sample(drawings(), CLIPS * SCENES_OF_A_CLIP)
    truth: dict[str, tuple[str, float, float]] = {}
    (folder / "in").mkdir()
    for number in range(CLIPS):
        path = folder / "in" / f"{number:02}.mp4"
        start, frames = 0.0, list[NDArray[np.uint8]]()
        part = scenes[number * SCENES_OF_A_CLIP : (number + 1) * SCENES_OF_A_CLIP]
        for name, drawn in part:
            count = round(FPS * chosen.uniform(2, 4))
            truth[name] = (str(path), start, start + count / FPS)
            frames += pan_and_zoom(drawn, count, chosen)
            start += count / FPS
        write(path, frames, FPS, 250)
    model = AutoModel.from_pretrained("pe-nano")
    index = Index.create(folder / "t.lance", model.identity)
    sources = open_sources([str(folder / "in")], SourceOptions(videos=True))
    assert all(one.status == "embedded" for one in Run(model, index, sources).outcomes())
    images = model.embed_images([drawn for _, drawn in scenes])
    texts = model.embed_text([name for name, _ in scenes])
    hits = index.search(texts, k=5)
    right = [
        [is_right(hit.uri, hit.moment, truth[name]) for hit in found]
        for (name, _), found in zip(scenes, hits, strict=True)
    ]
    errors = [
        abs(hit.moment.start - truth[name][1])
        for (name, _), (hit, *_) in zip(scenes, hits, strict=True)
        if hit.moment is not None and is_right(hit.uri, hit.moment, truth[name])
    ]
    ranks = (texts @ images.T).argmax(axis=1) == np.arange(len(scenes))
    return {
        "model": "pe-nano",
        "clips": CLIPS,
        "scenes": len(scenes),
        "segments": index.count(),
        "precision_at_1": round(statistics.mean(one[0] for one in right), 3),
        "recall_at_5": round(statistics.mean(any(one) for one in right), 3),
        "precision_at_1_of_the_drawings_themselves": round(float(ranks.mean()), 3),
        "median_error_of_start_seconds": round(statistics.median(errors), 2),
    }


def is_right(uri: str, moment: Any, truth: tuple[str, float, float]) -> bool:
    """Whether a hit's frame is in the scene."""
    path, start, end = truth
    return uri == path and start <= moment.frame_time < end


def pan_and_zoom(
    drawn: Image.Image, count: int, chosen: random.Random, size: tuple[int, int] = SIZE
) -> list[NDArray[np.uint8]]:
    """Return frames that move over a drawing and come nearer, or go away."""
    first, last = sorted(chosen.uniform(0.7, 1.0) for _ in range(2))
    if chosen.random() < 0.5:
        first, last = last, first
    frames = []
    for number in range(count):
        part = number / max(1, count - 1)
        side = (first + (last - first) * part) * min(drawn.size)
        left, top = part * (drawn.width - side), (drawn.height - side) / 2
        box = (left, top, left + side, top + side)
        square = drawn.resize((size[1], size[1]), Image.Resampling.BILINEAR, box)
        frame = Image.new("RGB", size, "white")
        frame.paste(square, ((size[0] - size[1]) // 2, 0))
        frames.append(np.asarray(frame))
    return frames


def write(path: Path, frames: Any, fps: int, gop: int) -> None:
    """Write frames as H.264."""
    with av.open(str(path), "w") as container:
        options = {"g": str(gop), "preset": "veryfast"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.pix_fmt = "yuv420p"
        for number, frame in enumerate(frames):
            if number == 0:
                stream.height, stream.width = frame.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def hd_frames() -> Any:
    """Yield a minute of 1080p: a slow pan over a wall of drawings, with a cut every ten seconds."""
    chosen = random.Random(1)
    for _ in range(6):
        wall = Image.new("RGB", (FULL_HD[0] + 320, FULL_HD[1] + 180), "white")
        for number, (_, drawn) in enumerate(chosen.sample(drawings(), 28)):
            wall.paste(drawn.resize((310, 310)), (number % 7 * 320, number // 7 * 315))
        pixels = np.asarray(wall)
        for number in range(10 * HD_FPS):
            left, top = number, number // 2
            part = pixels[top : top + FULL_HD[1], left : left + FULL_HD[0]]
            yield np.ascontiguousarray(part)


def minute(folder: Path, keyframes: str, gop: int) -> dict[str, Any]:
    """Measure decoding and embedding of a minute."""
    path = folder / f"{gop}.mp4"
    write(path, hd_frames(), HD_FPS, gop)
    decoder = VideoDecoder()
    list(decoder.sample(path, min_side=96))  # starts the child
    figures: dict[str, Any] = {
        "keyframe_every": keyframes,
        "megabytes": round(path.stat().st_size / 1e6, 1),
    }
    for name in SPEED_MODELS:
        model = open_model(name)
        side = 2 * model.processor.image_size
        decoding = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            frames = list(decoder.sample(path, min_side=side))
            decoding.append(time.perf_counter() - started)
        pixels = [model.processor(one.pixels, input_color_format="rgb") for one in frames]
        figures["frames"] = len(frames)
        figures[name] = {
            "backend": model.backend.name,
            "decode_seconds": round(statistics.median(decoding), 2),
            "embed_seconds": round(embedding(model, np.stack(pixels)), 2),
        }
    decoder.close()
    return figures


def long_file(folder: Path, hours: float) -> dict[str, Any]:
    """Measure the time and the memory that sampling a long file takes."""
    path, part = folder / "long.mp4", 10 * LONG_FPS
    write(folder / "part.mp4", pan_and_zoom(drawings()[0][1], part, random.Random(2)), LONG_FPS, 50)
    with av.open(str(folder / "part.mp4")) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [
            (bytes(one), one.pts, one.dts, one.is_keyframe)
            for one in source.demux(video=0)
            if one.size
        ]
        base = source.streams.video[0].time_base
        length = round(10 / base)
        for number in range(round(hours * 360)):
            for content, pts, dts, is_keyframe in packets:
                packet = av.Packet(content)
                packet.pts, packet.dts = pts + number * length, dts + number * length
                packet.time_base, packet.stream, packet.is_keyframe = base, stream, is_keyframe
                target.mux(packet)
    decoder = VideoDecoder()
    started = time.perf_counter()
    num_frames = sum(1 for _ in decoder.sample(path, min_side=96))
    seconds = time.perf_counter() - started
    decoder.close()
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {
        "hours": hours,
        "megabytes": round(path.stat().st_size / 1e6, 1),
        "frames": num_frames,
        "decode_seconds": round(seconds, 1),
        "peak_megabytes_of_the_child": round(peak * 1024 / 1e6),
    }


def open_model(name: str) -> EmbeddingModel:
    """Return pe-nano, or another model with random weights."""
    if name == "pe-nano":
        return AutoModel.from_pretrained(name)
    config = find(name).config
    backend = open_random_backend(config, ComputeOptions(device="cpu", backend="torch"))
    processor = ImageProcessor(config.image, config.vision.image_size)
    return EmbeddingModel(config, backend, processor, None)


def embedding(model: EmbeddingModel, pixels: NDArray[np.uint8]) -> float:
    """Return the seconds in the model, in batches of 32."""
    took = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        for start in range(0, len(pixels), 32):
            model.embed_pixels(pixels[start : start + 32])
        took.append(time.perf_counter() - started)
    return statistics.median(took)


if __name__ == "__main__":
    main()
