"""Names of backends, as packages and callers give them."""

from enum import Enum


class BackendType(str, Enum):  # noqa: UP042  str() of it is as in the original
    """Backends the original knows. Packages of Perception Encoder are all of TORCH."""

    TORCH = "torch"
    TORCH_SCRIPT = "torch-script"
    ONNX = "onnx"
    TRT = "trt"
    HF = "hugging-face"
    ULTRALYTICS = "ultralytics"
    CUSTOM = "custom"
    VLLM = "vllm"
    COREML = "coreml"
