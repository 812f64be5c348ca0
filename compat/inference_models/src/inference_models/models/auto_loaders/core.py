"""`AutoModel` with the parameters that `inference-models` has."""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference_models.entities import ResolvedModelMetadata
from inference_models.errors import DirectLocalStorageAccessError
from inference_models.models.auto_loaders import requests
from inference_models.models.auto_loaders.local_packages import check_package
from inference_models.models.auto_loaders.presentation_utils import (
    show_environment,
    show_model,
    show_package,
)
from inference_models.runtime_introspection.core import x_ray_runtime_environment
from inference_models.utils.download import download_files_to_directory
from inference_models.weights_providers.core import DEFAULT_PROVIDER, get_model_from_provider

if TYPE_CHECKING:
    import torch

    from perception_encoder.integrations.roboflow_model import PerceptionEncoderTorch


class AutoModel:
    """Opens models and tells about them. Never instantiated."""

    @classmethod
    def from_pretrained(  # noqa: PLR0913  the original's parameters, in its order
        cls,
        model_id_or_path: str | os.PathLike[str],
        weights_provider: str = DEFAULT_PROVIDER,
        api_key: str | None = None,
        model_package_id: str | None = None,
        backend: Any = None,
        batch_size: Any = None,  # noqa: ARG003
        quantization: Any = None,
        onnx_execution_providers: Any = None,  # noqa: ARG003
        device: "torch.device | str | None" = None,
        *,
        allow_direct_local_storage_loading: bool = True,
        allow_untrusted_packages: bool = False,
        verify_hash_while_download: bool = True,
        download_files_without_hash: bool = False,
        weights_provider_extra_query_params: list[tuple[str, str]] | None = None,
        weights_provider_extra_headers: dict[str, str] | None = None,
        **_: Any,
    ) -> "PerceptionEncoderTorch":
        """Open a model by id, file or folder, as `perception_encoder.AutoModel` does.

        Args:
            model_id_or_path: "perception-encoder/PE-Core-B16-224", or a path, which wins where
                both exist.
            weights_provider: "roboflow" stands for Meta's weights on the Hugging Face hub; another
                name must have been registered.
            api_key: for registered providers; "roboflow" needs none.
            model_package_id: for registered providers; "roboflow" has one package of each model.
            backend: must allow "torch", but for paths; the backend is the fastest for the device.
            batch_size: ignored; batches are of 32 images and 64 texts.
            quantization: must be a known name, else ignored; it is fp16 on CUDA, fp32 elsewhere.
            onnx_execution_providers: ignored.
            device: "cpu", "cuda", "cuda:1", "mps", or such a torch.device; None is
                `inference_models.configuration.DEFAULT_DEVICE`.
            allow_direct_local_storage_loading: False refuses paths.
            allow_untrusted_packages: for registered providers.
            verify_hash_while_download: likewise.
            download_files_without_hash: likewise.
            weights_provider_extra_query_params: likewise.
            weights_provider_extra_headers: likewise.
            **_: whatever else the original takes; ignored. It is listed in
                docs/guides/inference-models.md.

        Raises:
            InvalidParameterError: an empty id, or a device that torch does not know.
            ModelNotFoundError: no such model.
            UnknownBackendTypeError, UnknownQuantizationError: no such name.
            NoModelPackagesAvailableError: a backend other than torch, or no such package.
            DirectLocalStorageAccessError: a path, where paths were refused.
            CorruptedModelPackageError: damaged weights, of another model, or an incomplete folder.
            ModelImplementationNotFoundError: a folder of another architecture.
            RetryError, ModelRetrievalError: the weights could not be fetched.
            EnvironmentConfigurationError: no backend is installed, or the device is not here.
        """
        from perception_encoder.integrations.roboflow_model import PerceptionEncoderTorch

        parsed = requests.parsed_device(device)
        if not isinstance(model_id_or_path, os.PathLike):
            requests.checked_id(model_id_or_path)
        path = Path(model_id_or_path)
        if path.exists():
            if not allow_direct_local_storage_loading:
                raise DirectLocalStorageAccessError(
                    f"{path} is a path, and paths were refused by "
                    "allow_direct_local_storage_loading=False"
                )
            if path.is_dir():
                check_package(path)
            return PerceptionEncoderTorch.from_pretrained(path, parsed)
        requests.check_backend(backend)
        requests.check_quantization(quantization)
        model_id = requests.checked_id(os.fspath(model_id_or_path))
        if weights_provider == DEFAULT_PROVIDER:
            model = PerceptionEncoderTorch.from_pretrained(model_id, parsed)
            return _resolved(model, model_id, "meta-fp32")
        metadata = get_model_from_provider(
            model_id,
            weights_provider,
            api_key,
            weights_provider_extra_query_params=weights_provider_extra_query_params,
            weights_provider_extra_headers=weights_provider_extra_headers,
        )
        package = requests.chosen_package(
            metadata.model_packages, model_package_id, allow_untrusted=allow_untrusted_packages
        )
        folder = _cache_folder(weights_provider, metadata.model_id, package.package_id)
        download_files_to_directory(
            folder,
            [(f.file_handle, f.download_url, f.md5_hash) for f in package.package_artefacts],
            verify_hash_while_download=verify_hash_while_download,
            download_files_without_hash=download_files_without_hash,
        )
        model = PerceptionEncoderTorch.from_pretrained(folder, parsed)
        return _resolved(model, metadata.model_id, package.package_id)

    @classmethod
    def describe_model(
        cls,
        model_id: str,
        weights_provider: str = DEFAULT_PROVIDER,
        api_key: str | None = None,
        pull_artefacts_size: bool = False,
        weights_provider_extra_query_params: list[tuple[str, str]] | None = None,
        weights_provider_extra_headers: dict[str, str] | None = None,
    ) -> None:
        """Print what is known of a model and its packages.

        Raises:
            ModelNotFoundError: no such model.
            ModelRetrievalError: no such provider.
        """
        metadata = get_model_from_provider(
            model_id,
            weights_provider,
            api_key,
            weights_provider_extra_query_params=weights_provider_extra_query_params,
            weights_provider_extra_headers=weights_provider_extra_headers,
        )
        show_model(metadata, model_id, weights_provider, with_sizes=pull_artefacts_size)

    @classmethod
    def describe_model_package(
        cls,
        model_id: str,
        package_id: str,
        weights_provider: str = DEFAULT_PROVIDER,
        api_key: str | None = None,
        pull_artefacts_size: bool = True,
        weights_provider_extra_query_params: list[tuple[str, str]] | None = None,
        weights_provider_extra_headers: dict[str, str] | None = None,
    ) -> None:
        """Print what is known of one package of a model.

        Raises:
            ModelNotFoundError: no such model.
            ModelRetrievalError: no such provider.
            NoModelPackagesAvailableError: no such package.
        """
        metadata = get_model_from_provider(
            model_id,
            weights_provider,
            api_key,
            weights_provider_extra_query_params=weights_provider_extra_query_params,
            weights_provider_extra_headers=weights_provider_extra_headers,
        )
        package = requests.chosen_package(metadata.model_packages, package_id, allow_untrusted=True)
        show_package(metadata, package, model_id, with_sizes=pull_artefacts_size)

    @classmethod
    def describe_compute_environment(cls) -> None:
        """Print this machine's GPUs and the versions of what computes."""
        show_environment(x_ray_runtime_environment())


def _resolved(
    model: "PerceptionEncoderTorch", model_id: str, package_id: str
) -> "PerceptionEncoderTorch":
    model.resolved_model = ResolvedModelMetadata(
        model_id=model_id, model_package_id=package_id, backend="torch", quantization="fp32"
    )
    return model


def _cache_folder(*names: str) -> Path:
    """A folder for a provider's package; INFERENCE_HOME and MODEL_CACHE_DIR move it."""
    home = os.environ.get("INFERENCE_HOME") or os.environ.get("MODEL_CACHE_DIR")
    root = Path(home) if home else Path.home() / ".cache" / "inference-models"
    digest = hashlib.sha256("\0".join(names).encode()).hexdigest()[:16]
    readable = "".join(c if c.isalnum() or c in "-." else "-" for c in names[1])
    return root / "models-cache" / f"{readable}-{digest}"
