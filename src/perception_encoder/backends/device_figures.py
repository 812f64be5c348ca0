"""What a device can do and what was used of it: its rate of matrix products, its memory.

The rate is the ceiling that a model's speed is compared with. It is measured through torch, which
calls the makers' own kernels, as the other engines do.
"""

import statistics
import time

import torch

from perception_encoder.backends.torch_devices import DTYPES, choose_device
from perception_encoder.types import Precision

_DTYPES: dict[Precision, torch.dtype] = {**DTYPES, "int8": torch.int8}


def matrix_rate(
    precision: Precision, *, device: str = "auto", rounds: int = 5, size: int | None = None
) -> float | None:
    """Return operations a second of a product of two square matrices, the median of some rounds.

    Args:
        precision: of the factors; int8 products are summed in 32 bits.
        device: as in `AutoModel.from_pretrained`.
        rounds: products that are timed, after one that is not.
        size: rows of a matrix; None is 2048 on the CPU and 8192 elsewhere.

    Returns:
        Operations a second, or None where this device does not multiply such numbers itself.

    Raises:
        BackendUnavailableError: there is no such device here.
    """
    place = choose_device(device)
    if place.type == "cpu" and precision == "fp16" and not _multiplies_fp16():
        return None  # torch would emulate it, a thousand times slower
    size = size or (2048 if place.type == "cpu" else 8192)
    # Of all lengths: a GPU multiplies numbers of few bits faster, as it then draws less power.
    values = (
        torch.randint(-127, 128, (size, size)) if precision == "int8" else torch.randn(size, size)
    )
    factor = values.to(place, _DTYPES[precision])
    multiply = torch._int_mm if precision == "int8" else torch.mm
    with torch.inference_mode():
        try:
            multiply(factor, factor.T)
        except RuntimeError:  # what torch raises for a product it has no kernel for
            return None
        seconds = []
        for _ in range(rounds):
            _wait_for(place)
            started = time.perf_counter()
            multiply(factor, factor.T)
            _wait_for(place)
            seconds.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(seconds)


def peak_device_bytes(device: str) -> int | None:
    """Return the most memory that torch has held on CUDA devices so far; None for others.

    Args:
        device: of a torch backend; of several devices, as "cuda:0,cuda:1", the sum is returned.
    """
    places = [torch.device(name) for name in device.split(",")]
    if places[0].type != "cuda":
        return None
    return sum(torch.cuda.max_memory_reserved(place) for place in places)


def _multiplies_fp16() -> bool:
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_fp16") or capabilities.get("amx_fp16"))


def _wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was given; the CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
