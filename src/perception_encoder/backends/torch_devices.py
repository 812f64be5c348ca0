"""Which devices and number formats torch can compute with here."""

import torch

from perception_encoder.errors import BackendUnavailableError
from perception_encoder.types import Precision

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def choose_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is CUDA where there is one, else the CPU.

    Raises:
        BackendUnavailableError: torch does not know the name, or the device is not here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as err:
        raise BackendUnavailableError(
            f"unknown device {name!r}; use 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'"
        ) from err
    available = {
        "cpu": True,
        "cuda": (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(device.type, False):
        raise BackendUnavailableError(
            f"device {name!r} is not available here: torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA device(s); use device='auto' or 'cpu'"
        )
    return device


def choose_precision(name: str, device: torch.device) -> Precision:
    """Return the precision of that name; "auto" is bf16 where the hardware multiplies it.

    Raises:
        BackendUnavailableError: this engine has no such precision.
    """
    if name == "auto":
        return "bf16" if _multiplies_bf16(device) else "fp32"
    for precision in DTYPES:
        if name == precision:
            return precision
    raise BackendUnavailableError(
        f"the torch backend has no precision {name!r}; use 'auto' or one of {', '.join(DTYPES)}"
    )


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # Older releases of torch cannot tell; fp32 is right everywhere.
        capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def devices() -> list[str]:
    """Name the devices that models can run on here, in words."""
    cpu = "cpu (bf16 in hardware)" if _multiplies_bf16(torch.device("cpu")) else "cpu"
    cuda = [
        f"cuda:{number} ({torch.cuda.get_device_name(number)})"
        for number in range(torch.cuda.device_count())
    ]
    return [cpu, *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]
