"""The results of measurements, as plain data."""

from dataclasses import dataclass

from perception_encoder.types import BackendKind, Precision


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one backend did with one model, medians of several rounds.

    Attributes:
        backend: the backend that computed, and on which device, in which precision.
        open_seconds: from the call to a model that is ready.
        image_ms: one prepared image to its vector.
        images_per_second: prepared images, at the best batch size.
        image_batch: that batch size.
        text_ms: one caption, tokenizing included; None for models that read no text here.
        texts_per_second: captions of 6 to 10 words, at the best batch size.
        text_batch: that batch size.
        decode_ms: a JPEG file of 12 megapixels to the model's square, on one core.
        peak_bytes: the most memory the process held; None where the system does not tell.
        peak_device_bytes: the most memory held on a CUDA device.
    """

    backend: BackendKind
    device: str
    precision: Precision
    open_seconds: float
    image_ms: float
    images_per_second: float
    image_batch: int
    text_ms: float | None
    texts_per_second: float | None
    text_batch: int | None
    decode_ms: float
    peak_bytes: int | None
    peak_device_bytes: int | None


@dataclass(frozen=True)
class Drift:
    """Cosines of vectors with those of fp32 and the same weights; 1 is no drift."""

    worst: float
    mean: float


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """One model with one backend and precision.

    Attributes:
        model: its registered id, or the path that was given.
        has_random_weights: speed and memory do not depend on weights, but drift does.
        imagenet_accuracy: published zero-shot top-1, percent; see `registry.ModelEntry`.
        operations: of one image.
        ceiling: operations a second of the device's own matrix product in this precision.
        fraction: of the ceiling that was reached with images, 0 to 1.
        image_drift: over images of the bundled gallery.
        text_drift: over captions.
    """

    model: str
    has_random_weights: bool
    imagenet_accuracy: float | None
    figures: Figures
    operations: int
    ceiling: float | None
    fraction: float | None
    image_drift: Drift | None
    text_drift: Drift | None

    @property
    def label(self) -> str:
        """The model's name without its owner, for indexes and plots."""
        return self.model.removeprefix("perception-encoder/")


@dataclass(frozen=True)
class Memory:
    """What a process held.

    Attributes:
        peak_bytes: the most, mapped files that were read included. Where it did not run within the
            limit, what it held without one.
        fits: whether it ran within the limit, and held no more than that.
    """

    peak_bytes: int
    fits: bool


@dataclass(frozen=True, kw_only=True)
class EdgeRow:
    """One exported model within the limits of a small machine; None is what did not run in them.

    Attributes:
        model: its registered id, or the path that was given.
        has_random_weights: speed and memory do not depend on weights.
        backend: the backend.
        precision: that it ran in.
        image_file_bytes: the graph that reads images, on disk.
        text_file_bytes: the graph that reads texts; 0 for models without.
        image_ms: one prepared image to its vector.
        images_per_second: prepared images, at the best batch size.
        image_batch: that batch size.
        decode_ms: a JPEG file of 12 megapixels to the model's square.
        text_ms: one caption, tokenizing included.
        image_memory: of a process that embeds images only, decoding such a file included.
        both_memory: of a process that embeds images and texts; None for models without.
    """

    model: str
    has_random_weights: bool
    backend: BackendKind
    precision: Precision
    image_file_bytes: int
    text_file_bytes: int
    image_ms: float | None
    images_per_second: float | None
    image_batch: int | None
    decode_ms: float | None
    text_ms: float | None
    image_memory: Memory
    both_memory: Memory | None

    @property
    def label(self) -> str:
        """The model's name without its owner, for indexes."""
        return self.model.removeprefix("perception-encoder/")


@dataclass(frozen=True)
class SkippedCase:
    """What could not be measured, and why."""

    model: str
    backend: str
    precision: str
    reason: str
