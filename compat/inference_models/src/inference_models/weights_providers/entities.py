"""What a provider of weights says of a model: its packages and their files."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from inference_models.models.auto_loaders.entities import BackendType


class Quantization(str, Enum):  # noqa: UP042  str() of it is as in the original
    """Precisions of a package's weights."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class FileDownloadSpecs:
    """One file of a package: where it is, its name in the folder, and its MD5 in hex."""

    download_url: str
    file_handle: str
    md5_hash: str | None = None


@dataclass(frozen=True)
class ModelPackageMetadata:
    """One way to get a model: a backend, a precision and files."""

    package_id: str
    backend: BackendType
    package_artefacts: list[FileDownloadSpecs]
    quantization: Quantization | None = None
    dynamic_batch_size_supported: bool | None = None
    static_batch_size: int | None = None
    trusted_source: bool = False
    model_features: dict[str, Any] | None = None


@dataclass(frozen=True)
class ModelDependency:
    """Another model that a model needs; Perception Encoder needs none."""

    name: str
    model_id: str
    model_package_id: str | None = None


@dataclass(frozen=True)
class ModelMetadata:
    """A model and its packages."""

    model_id: str
    model_architecture: str
    model_packages: list[ModelPackageMetadata]
    task_type: str | None = None
    model_variant: str | None = None
    model_dependencies: list[ModelDependency] | None = field(default=None)
