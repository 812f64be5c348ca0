"""Measures one exported model as a small machine would run it, in this process.

Knows nothing of limits: whoever starts the process has set them.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

from perception_encoder.auto import AutoModel
from perception_encoder.backends.samples import load_captions
from perception_encoder.bench.measure import (
    Effort,
    best_rate,
    encoder_of,
    median_seconds,
    peak_bytes,
    prepared,
    reads_text,
)
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.errors import BackendUnavailableError
from perception_encoder.types import BackendKind, Precision

_BATCHES: Final = (1, 4)  # larger ones take more memory, and win little on one core


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
