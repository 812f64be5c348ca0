"""This machine's GPUs and the versions of what computes."""

import platform
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.version import Version


@dataclass(frozen=True)
class RuntimeXRayResult:
    """What was found; None and empty where there is nothing."""

    gpu_available: bool
    gpu_devices: list[str]
    gpu_devices_cc: "list[Version]"
    cuda_version: "Version | None"
    os_version: str
    torch_available: bool
    torch_version: "Version | None"
    openvino_version: "Version | None"
    onnxruntime_version: "Version | None"
    available_onnx_execution_providers: set[str] | None
    perception_encoder_version: "Version | None"


@cache
def x_ray_runtime_environment() -> RuntimeXRayResult:
    """Look at this machine; once, later calls return the same."""
    from packaging.version import Version

    try:
        import torch
    except ModuleNotFoundError:
        gpus, cuda = [], None
    else:
        gpus = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
        cuda = torch.version.cuda
    try:
        import onnxruntime
    except ModuleNotFoundError:
        providers = None
    else:
        providers = set(onnxruntime.get_available_providers())
    return RuntimeXRayResult(
        gpu_available=bool(gpus),
        gpu_devices=[gpu.name for gpu in gpus],
        gpu_devices_cc=[Version(f"{gpu.major}.{gpu.minor}") for gpu in gpus],
        cuda_version=Version(cuda) if cuda else None,
        os_version=platform.platform().lower(),
        torch_available=_version("torch") is not None,
        torch_version=_version("torch"),
        openvino_version=_version("openvino"),
        onnxruntime_version=_version("onnxruntime"),
        available_onnx_execution_providers=providers,
        perception_encoder_version=_version("perception-encoder"),
    )


def _version(distribution: str) -> "Version | None":
    from packaging.version import Version

    try:
        return Version(version(distribution))
    except PackageNotFoundError:
        return None
