"""Measure one model with one backend, or one export on an edge device, in this process."""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from perception_encoder.auto import AutoModel
from perception_encoder.backends.samples import load_captions, load_drawings
from perception_encoder.bench.figures import Drift, Figures
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.errors import BackendUnavailableError, TokenizerNotFoundError
from perception_encoder.types import BackendKind, BackendName, Pixels, Precision
from perception_encoder.vectors import normalize_rows

_IMAGE_BATCHES: Final = (1, 4, 8, 16, 32)
_GPU_IMAGE_BATCHES: Final = (1, 8, 32, 128)
_TEXT_BATCHES: Final = (8, 32, 64)
_VECTORS: Final = (4, 64)  # that are compared, at least and at most; `BenchJob.seconds` decides
_BATCHES: Final = (1, 4)  # larger ones take more memory, and win little on one core


@dataclass(frozen=True)
class Effort:
    """How long a figure is measured.

    Attributes:
        rounds: how often at most.
        seconds: no further round is begun when so many have passed.
    """

    rounds: int
    seconds: float


def median_seconds(work: Callable[[], object], effort: Effort) -> float:
    """Return the median time of a call, after one that is not counted."""
    work()
    measured: list[float] = []
    while len(measured) < effort.rounds and sum(measured) < effort.seconds:
        started = time.perf_counter()
        work()
        measured.append(time.perf_counter() - started)
    return statistics.median(measured)


@dataclass(frozen=True, kw_only=True)
class BenchJob:
    """What to open and measure.

    Attributes:
        model: a name or path for `AutoModel.from_pretrained`.
        camera_image: a JPEG file of 12 megapixels.
        vectors: the file that the vectors are written to, for `drift`.
        rounds: see `Effort`.
        seconds: see `Effort`.
        is_timed: whether there are figures, or only vectors.
    """

    model: str
    backend: BackendName | Literal["auto"]
    precision: Precision | Literal["auto"]
    device: str
    camera_image: str
    vectors: str
    rounds: int
    seconds: float
    is_timed: bool = True


def measure(job: BenchJob) -> Figures | None:
    """Open the model, time it, and write its vectors; None where nothing was to be timed."""
    started = time.perf_counter()
    model = AutoModel.from_pretrained(
        job.model,
        backend=job.backend,
        precision=job.precision,
        device=job.device,
        local_files_only=True,
    )
    with model:
        open_seconds = time.perf_counter() - started
        effort = Effort(job.rounds, job.seconds)
        figures = _timed(model, job, open_seconds, effort) if job.is_timed else None
        _write_vectors(model, Path(job.vectors), 4 * job.seconds)
    return figures


def _timed(model: EmbeddingModel, job: BenchJob, open_seconds: float, effort: Effort) -> Figures:
    pixels = prepared(model, _VECTORS[1])
    encode = encoder_of(model)
    one = median_seconds(lambda: encode(pixels[:1]), effort)
    is_cpu = model.backend.device.lower() == "cpu"
    batches = _IMAGE_BATCHES if is_cpu else _GPU_IMAGE_BATCHES
    image_rate, image_batch = best_rate(
        lambda size: partial(encode, np.resize(pixels, (size, *pixels.shape[1:]))),
        batches,
        one,
        effort,
    )
    text_ms = text_rate = text_batch = None
    if reads_text(model):
        texts = load_captions()
        one_text = median_seconds(lambda: model.embed_text(texts[0]), effort)
        text_ms = 1000 * one_text
        text_rate, text_batch = best_rate(
            lambda size: partial(
                model.embed_text, texts[:size], batch_size=size, show_progress=False
            ),
            _TEXT_BATCHES,
            one_text,
            effort,
        )
    peak = peak_bytes()  # before the large image below
    camera_image = Path(job.camera_image).read_bytes()
    decode = median_seconds(lambda: model.processor(camera_image), effort)
    return Figures(
        backend=model.backend.name,
        device=model.backend.device,
        precision=model.backend.precision,
        open_seconds=open_seconds,
        image_ms=1000 * one,
        images_per_second=image_rate,
        image_batch=image_batch,
        text_ms=text_ms,
        texts_per_second=text_rate,
        text_batch=text_batch,
        decode_ms=1000 * decode,
        peak_bytes=peak,
        peak_device_bytes=_peak_device_bytes(model),
        instructions=_name_instructions(model),
    )


def best_rate(
    work_of: Callable[[int], Callable[[], object]],
    batches: Sequence[int],
    seconds_of_one: float,
    effort: Effort,
) -> tuple[float, int]:
    """Return the most items a second, and at which batch size; batches that take long are left out.

    "Long" is four times what one figure may take: a batch of 32 in the largest model would take
    minutes on a small machine, and be no faster than a smaller one.

    Args:
        work_of: makes what computes a batch of so many.
        batches: sizes that are tried, the smallest first.
        seconds_of_one: what a single item takes.
        effort: of each size.
    """
    rates: list[tuple[float, int]] = []
    for size in batches:
        if rates and size * seconds_of_one > 4 * effort.seconds:
            break
        rates.append((size / median_seconds(work_of(size), effort), size))
    return max(rates)


def prepared(model: EmbeddingModel, count: int) -> Pixels:
    """(count, S, S, 3) uint8 of the gallery."""
    return np.stack([model.processor(data) for data in load_drawings(count)])


def encoder_of(model: EmbeddingModel) -> Callable[[Pixels], NDArray[np.float32]]:
    """What turns pixels into rows: vectors, or patch features where the model has no others."""
    return model.backend.features if model.embed_dim is None else model.backend.encode_image


def reads_text(model: EmbeddingModel) -> bool:
    """Whether there are a text tower and a vocabulary for it."""
    if not model.reads_text:
        return False
    try:
        model.embed_text([])
    except TokenizerNotFoundError:
        return False
    return True


def _write_vectors(model: EmbeddingModel, path: Path, seconds: float) -> None:
    """Write the vectors of the captions, and of as many images as there is time for."""
    least, most = _VECTORS
    pixels, encode = prepared(model, most), encoder_of(model)
    started = time.perf_counter()
    images = [encode(pixels[:least])]
    per_image = (time.perf_counter() - started) / least
    count = int(min(most, max(least, seconds / per_image)))
    images += [encode(pixels[start : start + least]) for start in range(least, count, least)]
    texts = model.embed_text(load_captions()) if reads_text(model) else np.empty((0, 1), np.float32)
    rows = np.concatenate(images)
    np.savez(path, images=rows.reshape(len(rows), -1), texts=texts)


def peak_bytes() -> int | None:
    """Return the most memory that this process has held, mapped files that were read included."""
    if sys.platform == "linux":
        # Of this program alone: what getrusage tells begins with what the starting process held.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _peak_device_bytes(model: EmbeddingModel) -> int | None:
    if model.backend.name != "torch":
        return None
    from perception_encoder.backends.torch_devices import peak_device_bytes

    return peak_device_bytes(model.backend.device)


def _name_instructions(model: EmbeddingModel) -> str | None:
    backend = model.backend
    if backend.name == "torch" and backend.device == "cpu":
        from perception_encoder.backends.torch_devices import name_instructions

        return name_instructions(backend.precision)
    if backend.name == "openvino":
        from perception_encoder.backends.openvino_backend import OpenVinoBackend

        return backend.name_instructions() if isinstance(backend, OpenVinoBackend) else None
    return None


def drifts(path: Path, reference: Path) -> tuple[Drift | None, Drift | None]:
    """Compare two files of `measure`: images, then texts; None where there are none.

    A slow backend computes fewer vectors than a fast one; the first that both have are compared.
    """
    with np.load(path) as ours, np.load(reference) as theirs:
        images, texts = (_drift(ours[name], theirs[name]) for name in ("images", "texts"))
    return images, texts


def _drift(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> Drift | None:
    count = min(len(ours), len(theirs))
    if not count:
        return None
    # Summed in float64: a drift of bf16 is a few millionths.
    cosines = (normalize_rows(ours[:count]) * normalize_rows(theirs[:count])).sum(
        axis=1, dtype=np.float64
    )
    return Drift(worst=float(cosines.min()), mean=float(cosines.mean()))


@dataclass(frozen=True, kw_only=True)
class EdgeJob:
    """What to open and measure.

    Attributes:
        model: a folder that was exported.
        precision: to run it in.
        with_texts: whether both towers are opened, as for a search, or only the one for images.
        camera_image: a JPEG file of 12 megapixels.
        rounds: see `Effort`.
        seconds: see `Effort`.
    """

    model: str
    precision: Precision | Literal["auto"]
    with_texts: bool
    camera_image: str
    rounds: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class EdgeFigures:
    """What one process did. Figures of `figures.EdgeRow`, of those parts that it opened."""

    backend: BackendKind
    precision: Precision
    image_ms: float | None = None
    images_per_second: float | None = None
    image_batch: int | None = None
    decode_ms: float | None = None
    text_ms: float | None = None
    peak_bytes: int


def measure_edge(job: EdgeJob) -> EdgeFigures | None:
    """Open the folder and time it; None where texts were to be read and the model reads none."""
    with AutoModel.from_pretrained(
        job.model, precision=job.precision, device="cpu", local_files_only=True
    ) as model:
        effort = Effort(job.rounds, job.seconds)
        if not job.with_texts:
            return _with_images(model, job, effort)
        return _with_texts(model, job, effort) if reads_text(model) else None


def _with_images(model: EmbeddingModel, job: EdgeJob, effort: Effort) -> EdgeFigures:
    pixels, encode = prepared(model, max(_BATCHES)), encoder_of(model)
    one = median_seconds(lambda: encode(pixels[:1]), effort)
    rate, batch = best_rate(lambda size: partial(encode, pixels[:size]), _BATCHES, one, effort)
    image = Path(job.camera_image).read_bytes()
    decode = median_seconds(lambda: model.processor(image), effort)
    return EdgeFigures(
        backend=model.backend.name,
        precision=model.backend.precision,
        image_ms=1000 * one,
        images_per_second=rate,
        image_batch=batch,
        decode_ms=1000 * decode,
        peak_bytes=_peak(),
    )


def _with_texts(model: EmbeddingModel, job: EdgeJob, effort: Effort) -> EdgeFigures:
    """Both towers, as in a server: what takes memory for images is done once, before texts."""
    encoder_of(model)(prepared(model, max(_BATCHES)))
    model.processor(Path(job.camera_image).read_bytes())
    text = load_captions()[0]
    seconds = median_seconds(lambda: model.embed_text(text), effort)
    return EdgeFigures(
        backend=model.backend.name,
        precision=model.backend.precision,
        text_ms=1000 * seconds,
        peak_bytes=_peak(),
    )


def _peak() -> int:
    peak = peak_bytes()
    if peak is None:
        raise BackendUnavailableError("this system does not tell how much memory a process takes")
    return peak
