"""The steps of a run: backends as they open, what is asked of ours, and what has to be compiled."""

import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch

from benchmarks.gpu.backends import Backend, Inputs, inputs, open_clip, ours, timm
from benchmarks.gpu.probes import (
    attention,
    callers,
    drift,
    kernels,
    matrix_rates,
    peak_memory,
    rate,
    with_cudnn,
)
from perception_encoder.registry import find
from perception_encoder.registry.config import image_operations

ROUNDS = 5
_LONG_SECONDS = 2  # backends that need longer for a batch gain nothing from a larger one
_SAME = 1.02  # a smaller batch that is so near to the best one is taken
_MANY = 128

Figures = dict[str, Any]
Openers = Mapping[str, Callable[[], Backend]]


@dataclass(frozen=True)
class Job:
    """A model on a device, with the batches of images and of texts that are tried."""

    model: str
    device: str
    batches: Sequence[int]
    text_batches: Sequence[int]
    seconds: float = 0.3
    """How long a figure is measured; twice as long where two callers are."""

    def inputs(self) -> Inputs:
        """What its backends are given."""
        return inputs(self.model, max(self.batches), max(self.text_batches))

    @property
    def num_blocks(self) -> int:
        """Blocks of its towers, which compiling takes its time for."""
        config = find(self.model).config
        return config.vision.depth + (config.text.depth if config.text else 0)


class Kind(NamedTuple):
    """A kind of step: what it runs, and its time where none was measured yet."""

    name: str
    run: Callable[[Job], Iterator[Figures]]
    units: Callable[[Job], float]
    seconds_of_a_unit: float


def eager(job: Job) -> Iterator[Figures]:
    """Every backend as it opens, at its best batch of images and of texts."""
    given = job.inputs()
    common = (job.model, job.device, given)
    openers: Openers = {
        "ours bf16": partial(ours, *common, "bf16"),
        "open_clip bf16": partial(open_clip, *common, "pure_bf16"),
        "open_clip fp32": partial(open_clip, *common, "fp32"),
        "open_clip autocast bf16": partial(open_clip, *common, "fp32", is_autocast=True),
        "timm bf16": partial(timm, *common),
    }
    opened: dict[str, Backend] = {}
    yield from _open(openers, opened)
    images = {label: backend.images for label, backend in opened.items()}
    texts = {label: backend.texts for label, backend in opened.items() if backend.texts}
    for figures in _in_turns(images, job.batches, job.seconds):
        yield {"images": figures}
    yield _shares(job, figures)
    for figures in _in_turns(texts, job.text_batches, job.seconds):
        yield {"texts": figures}
    yield {"peak_bytes_of_all": peak_memory(job.device)}


def probes(job: Job) -> Iterator[Figures]:
    """What this package's backend does there in bf16, and how near its vectors are to fp32."""
    given = job.inputs()
    backend = ours(job.model, job.device, given, "bf16")
    many = min(_MANY, max(job.batches))
    many_texts = min(_MANY, max(job.text_batches))
    assert backend.texts is not None
    yield {"kernels": kernels(backend, job.device, many, many_texts)}
    yield {"callers": {"images": callers(backend.images, (1, many), 2 * job.seconds)}}
    yield {"callers": {"texts": callers(backend.texts, (1, many_texts), 2 * job.seconds)}}
    yield {"cudnn_attention": {"images": with_cudnn(backend.images, many, job.seconds)}}
    yield {"cudnn_attention": {"texts": with_cudnn(backend.texts, many_texts, job.seconds)}}
    vision = find(job.model).config.vision
    yield {"attention": attention(vision, job.device, min(16, many), job.seconds)}
    yield {"drift": drift(job.model, job.device, given.captions[:_MANY])}


def compiled(job: Job) -> Iterator[Figures]:
    """Ours and open_clip compiled, beside ours as it opens, all at the largest batch."""
    given = job.inputs()
    common = (job.model, job.device, given)
    yield from _compiled(
        job,
        {
            "ours bf16": partial(ours, *common, "bf16"),
            "ours compiled bf16": partial(ours, *common, "bf16", is_compiled=True),
            "open_clip compiled bf16": partial(open_clip, *common, "pure_bf16", is_compiled=True),
        },
    )


def compiled_timm(job: Job) -> Iterator[Figures]:
    """The tower of timm compiled, which is open_clip's tower, beside ours as it opens."""
    given = job.inputs()
    common = (job.model, job.device, given)
    yield from _compiled(
        job,
        {
            "ours bf16": partial(ours, *common, "bf16"),
            "timm compiled bf16": partial(timm, *common, is_compiled=True),
        },
        "compiled_timm",
    )


KINDS = (
    Kind("eager", eager, lambda _: 1, 60),
    Kind("probes", probes, lambda _: 1, 30),
    Kind("compiled", compiled, lambda job: job.num_blocks, 1.5),
    Kind("compiled_timm", compiled_timm, lambda job: find(job.model).config.vision.depth, 1.5),
)


def _compiled(job: Job, openers: Openers, name: str = "compiled") -> Iterator[Figures]:
    opened: dict[str, Backend] = {}
    size = max(job.batches)
    for label, opener in openers.items():
        started = time.perf_counter()
        yield from ({name: figures} for figures in _open({label: opener}, opened, size))
        if label in opened:
            yield {name: {"first_seconds": {label: time.perf_counter() - started}}}
    images = {label: backend.images for label, backend in opened.items()}
    for figures in _in_turns(images, [size], job.seconds):
        yield {name: {"images": figures}}
    yield {name: _shares(job, figures)}
    texts = {label: backend.texts for label, backend in opened.items() if backend.texts}
    for figures in _in_turns(texts, [max(job.text_batches)], job.seconds):
        yield {name: {"texts": figures}}


def _open(openers: Openers, opened: dict[str, Backend], size: int = 1) -> Iterator[Figures]:
    """Open backends and compute so many images; those that cannot are named with why."""
    for label, opener in openers.items():
        try:
            backend = opener()
            backend.images(size)  # what is compiled is compiled now
            opened[label] = backend
        except Exception as err:  # noqa: BLE001  whatever a peer raises, the others are measured
            traceback.print_exc()
            yield {"unavailable": {label: f"{type(err).__name__}: {err}"}}


def _in_turns(
    calls: Mapping[str, Callable[[int], object]], sizes: Sequence[int], seconds: float
) -> Iterator[Figures]:
    """Find each backend's best size, then measure all in turns, forwards and backwards."""
    best: dict[str, int] = {}
    for label, call in calls.items():
        by_size = _by_size(call, sizes, seconds)
        most = max(by_size.values())
        best[label] = min(size for size, found in by_size.items() if found * _SAME >= most)
        yield {label: {"by_size": by_size, "size": best[label], "rate": most}}
    rates: dict[str, list[float]] = {label: [] for label in best}
    for number in range(ROUNDS):
        for label in list(best) if number % 2 == 0 else reversed(best):
            rates[label].append(rate(calls[label], best[label], seconds))
    yield {
        label: {
            "rates": found,
            "rate": statistics.median(found),
            "times": {
                other: statistics.median(a / b for a, b in zip(found, rates[other], strict=True))
                for other in rates
                if other != label and label.startswith("ours")
            },
        }
        for label, found in rates.items()
    }


def _shares(job: Job, measured: Figures) -> Figures:
    """What each backend reached of the device's rate of matrix products, taken right after it.

    Operations are those that an image needs.
    """
    config = find(job.model).config
    operations = image_operations(config.vision, config.embed_dim)
    machine = matrix_rates(job.device)
    shares = {
        label: {"share_of_matrix_rate": figures["rate"] * operations / rate_of_products}
        for label, figures in measured.items()
        if (rate_of_products := machine[label.rsplit(" ", 1)[-1]])
    }
    return {
        "operations_of_an_image": operations,
        "matrix_operations_a_second": machine,
        "images": shares,
    }


def _by_size(
    call: Callable[[int], object], sizes: Sequence[int], seconds: float
) -> dict[int, float]:
    found: dict[int, float] = {}
    for size in sizes:
        if found and size / max(found.values()) > _LONG_SECONDS:
            break
        try:
            call(size)  # the first call of a shape prepares more than it computes
            found[size] = rate(call, size, seconds)
        except torch.cuda.OutOfMemoryError:
            if not found:
                raise
            break
    return found
