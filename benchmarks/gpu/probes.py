"""What is asked of a device, and of this package's backend there beyond its speed."""

import gc
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from importlib.resources import as_file, files
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.autograd import DeviceType
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.backends import Backend, open_ours
from perception_encoder.backends import torch_devices as cuda_streams
from perception_encoder.backends.torch_devices import matrix_rate
from perception_encoder.registry import VisionConfig

ATTENTION = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
_NUM_KERNELS = 15
_NUM_DRAWINGS = 64


def rate(call: Callable[[int], object], size: int, seconds: float) -> float:
    """Items a second of calls one after the other, for so long at least."""
    started = time.perf_counter()
    count, passed = 0, 0.0
    while passed < seconds:
        call(size)
        count, passed = count + 1, time.perf_counter() - started
    return size * count / passed


def device_name(device: str) -> str:
    """What torch calls the device."""
    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    return device


def peak_memory(device: str) -> int | None:
    """The most memory that torch has held on a GPU since it was last asked, in bytes."""
    if not device.startswith("cuda"):
        return None
    found = torch.cuda.max_memory_reserved(device)
    torch.cuda.reset_peak_memory_stats(device)
    return found


def free_memory() -> None:
    """Forget what backends that are gone have left: memory, and what was compiled for them."""
    gc.collect()
    torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def matrix_rates(device: str) -> dict[str, float | None]:
    """The device's own rates, which shares refer to: operations a second."""
    rounds = 20 if device.startswith("cuda") else 1  # a card takes a while to reach its clock
    return {name: matrix_rate(name, device=device, rounds=rounds) for name in ("bf16", "fp32")}


def copy_rate(device: str) -> float:
    """Bytes a second, read and written, of copies from the device's memory into itself."""
    block = torch.ones(1 << (30 if device.startswith("cuda") else 24), device=device)
    target = torch.empty_like(block)

    def copy(_: int) -> None:
        target.copy_(block)
        if block.is_cuda:
            torch.cuda.synchronize(block.device)

    copy(1)
    return 2 * block.nbytes * rate(copy, 1, 0.1)


def kernels(backend: Backend, device: str, num_images: int, num_texts: int) -> dict[str, Any]:
    """Which kernels run, and their shares of the device's time."""
    assert backend.texts is not None
    return {
        "images": profiled(backend.images, device, num_images),
        "texts": profiled(backend.texts, device, num_texts),
    }


def profiled(call: Callable[[int], object], device: str, size: int) -> dict[str, Any]:
    """The kernels of one call by name, and whether attention took its plain path among them."""
    is_cuda = device.startswith("cuda")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]
    kind = DeviceType.CUDA if is_cuda else DeviceType.CPU
    call(size)
    with profile(activities=activities) as seen:
        call(size)
    spent = {
        event.key: event.self_device_time_total if is_cuda else event.self_cpu_time_total
        for event in seen.key_averages()
        if event.device_type == kind
    }
    total = sum(spent.values()) or 1
    largest = sorted(spent, key=spent.__getitem__, reverse=True)[:_NUM_KERNELS]
    return {
        "size": size,
        "microseconds": total,
        "shares": {name: spent[name] / total for name in largest},
        "has_softmax": any("softmax" in name.lower() for name in spent),
    }


def attention(vision: VisionConfig, device: str, batch: int, seconds: float) -> dict[str, Any]:
    """How fast each kernel of attention is at the shape of the vision tower, in bf16.

    The first calls are of batches that the kernel has not seen: what it prepares for a shape.
    """
    num_tokens = vision.grid_size**2 + int(vision.has_class_token)
    shape = (batch, vision.num_heads, num_tokens, vision.width // vision.num_heads)
    found: dict[str, Any] = {"shape": shape}
    for name, kernel in ATTENTION.items():
        with warnings.catch_warnings(), sdpa_kernel(kernel):
            warnings.simplefilter("ignore")
            try:
                found[name] = _attention_rate(shape, device, seconds)
            except RuntimeError as err:  # it does not run here
                found[name] = str(err).strip().partition("\n")[0]
    return found


@torch.inference_mode()
def _attention_rate(shape: tuple[int, ...], device: str, seconds: float) -> dict[str, Any]:
    queries = torch.randn(shape, device=device, dtype=torch.bfloat16)

    def attend(count: int) -> None:
        some = queries[:count]
        scaled_dot_product_attention(some, some, some)
        if queries.is_cuda:
            torch.cuda.synchronize(queries.device)

    attend(shape[0])
    first_ms = []
    for count in range(1, min(4, shape[0])):
        started = time.perf_counter()
        attend(count)
        first_ms.append((time.perf_counter() - started) * 1000)
    _, heads, tokens, head_dim = shape
    operations = 4 * heads * tokens**2 * head_dim
    reached = operations * rate(attend, shape[0], seconds)
    return {"operations_a_second": reached, "first_ms": first_ms}


def with_cudnn(call: Callable[[int], object], size: int, seconds: float) -> dict[str, float]:
    """Items a second with cuDNN's attention switched off, as our backend has it, and allowed."""
    off = rate(call, size, seconds)
    with mock.patch.object(cuda_streams, "disable_cudnn_attention", nullcontext):
        call(size)
        on = rate(call, size, seconds)
    return {"size": size, "off": off, "on": on}


def callers(
    call: Callable[[int], object], sizes: Sequence[int], seconds: float
) -> dict[str, dict[str, float]]:
    """Items a second of one caller, and of two at once, whose calls lie on different streams."""
    return {
        str(size): {str(count): _rate_of(count, call, size, seconds) for count in (1, 2)}
        for size in sizes
    }


def _rate_of(count: int, call: Callable[[int], object], size: int, seconds: float) -> float:
    with ThreadPoolExecutor(count) as pool:
        return sum(pool.map(lambda _: rate(call, size, seconds), range(count)))


def drift(model: str, device: str, captions: Sequence[str]) -> dict[str, Any]:
    """Cosine of bf16 vectors with those in fp32, of the bundled drawings and of captions."""
    vectors: dict[str, dict[str, np.ndarray]] = {}
    with as_file(files("perception_encoder").joinpath("data/gallery")) as gallery:
        drawings = sorted(gallery.glob("*.webp"))[:_NUM_DRAWINGS]
        for precision in ("fp32", "bf16"):
            with open_ours(model, device, precision) as opened:
                vectors[precision] = {
                    "images": opened.embed_images(drawings, batch_size=16, show_progress=False),
                    "texts": opened.embed_text(captions, show_progress=False),
                }
    exact, rounded = vectors["fp32"], vectors["bf16"]
    return {kind: _agreement(exact[kind], rounded[kind]) for kind in exact}


def _agreement(exact: np.ndarray, rounded: np.ndarray) -> dict[str, float]:
    cosines = (exact.astype(np.float64) * rounded).sum(axis=1)
    return {"lowest": float(cosines.min()), "mean": float(cosines.mean()), "count": len(cosines)}
