"""What programs that bring their own models or providers import from the original."""

from typing import NoReturn

from inference_models._absent import explain_absence
from inference_models.models.common.model_packages import get_model_package_contents
from inference_models.runtime_introspection.core import (
    RuntimeXRayResult,
    x_ray_runtime_environment,
)
from inference_models.utils.download import download_files_to_directory
from inference_models.weights_providers.core import (
    get_model_from_provider,
    register_model_provider,
)
from inference_models.weights_providers.entities import (
    FileDownloadSpecs,
    ModelDependency,
    ModelMetadata,
    ModelPackageMetadata,
    Quantization,
)

__all__ = [
    "FileDownloadSpecs",
    "ModelDependency",
    "ModelMetadata",
    "ModelPackageMetadata",
    "Quantization",
    "RuntimeXRayResult",
    "download_files_to_directory",
    "get_model_from_provider",
    "get_model_package_contents",
    "register_model_provider",
    "x_ray_runtime_environment",
]

# Packages and sessions of ONNX, TensorRT and TorchScript: PE's packages are none of these.
_ABSENT = {
    "JetsonEnvironmentRequirements",
    "ONNXPackageDetails",
    "ServerEnvironmentRequirements",
    "TRTCudaGraphCache",
    "TRTPackageDetails",
    "TorchScriptPackageDetails",
    "align_device_with_onnx_session",
    "establish_trt_cuda_graph_cache",
    "generate_batch_chunks",
    "get_selected_onnx_execution_providers",
    "get_trt_engine_inputs_and_outputs",
    "infer_from_trt_engine",
    "load_trt_model",
    "run_onnx_session_via_iobinding",
    "run_onnx_session_with_batch_size_limit",
    "set_onnx_execution_provider_defaults",
    "use_cuda_context",
    "use_primary_cuda_context",
}


def __getattr__(name: str) -> NoReturn:
    explain_absence(__name__, name, _ABSENT)
