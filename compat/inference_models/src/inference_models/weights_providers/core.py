"""Who can be asked for a model: the registry of perception-encoder, and whom callers register.

The name "roboflow", which callers give or leave to the default, is answered by the registry: its
weights are Meta's, on the Hugging Face hub, and need no key.
"""

from collections.abc import Callable
from typing import Any

from inference_models.errors import ModelNotFoundError, ModelRetrievalError
from inference_models.models.auto_loaders.entities import BackendType
from inference_models.weights_providers.entities import (
    FileDownloadSpecs,
    ModelMetadata,
    ModelPackageMetadata,
    Quantization,
)
from perception_encoder.errors import UnknownModelError
from perception_encoder.registry import find

WeightsProvider = Callable[..., ModelMetadata]

DEFAULT_PROVIDER = "roboflow"
# Names that the original keeps for itself.
_RESERVED = (DEFAULT_PROVIDER, "roboflow-offline-weights")
_PACKAGE_ID = "meta-fp32"


def get_model_from_provider(
    model_id: str, provider: str, api_key: str | None = None, **kwargs: Any
) -> ModelMetadata:
    """Ask a provider for a model's packages; nothing is downloaded by this one.

    Args:
        model_id: as in `AutoModel.from_pretrained`.
        provider: "roboflow", or a name that was registered.
        api_key: handed to the provider; needless for "roboflow".
        **kwargs: handed to the provider.

    Raises:
        ModelRetrievalError: there is no such provider.
        ModelNotFoundError: "roboflow" has no such model.
    """
    if provider not in _PROVIDERS:
        raise ModelRetrievalError(
            f"Requested model to be retrieved using '{provider}' provider which is not "
            f"implemented. Known: {', '.join(_PROVIDERS)}; register_model_provider adds others"
        )
    return _PROVIDERS[provider](model_id, api_key, **kwargs)


def register_model_provider(provider_name: str, provider_handler: WeightsProvider) -> None:
    """Add somebody who can be asked by `weights_provider=provider_name`.

    Args:
        provider_name: any name but the original's own.
        provider_handler: called with (model_id, api_key, **kwargs), returns `ModelMetadata`.

    Raises:
        ValueError: the name is empty or reserved.
        TypeError: the handler cannot be called.
    """
    name = provider_name.strip().casefold() if isinstance(provider_name, str) else ""
    if not name or name in _RESERVED:
        raise ValueError(f"Weights provider name {provider_name!r} is empty or reserved.")
    if not callable(provider_handler):
        raise TypeError("Weights provider handler must be callable.")
    _PROVIDERS[provider_name] = provider_handler


def _from_registry(model_id: str, api_key: str | None, **_: Any) -> ModelMetadata:  # noqa: ARG001
    from huggingface_hub import hf_hub_url

    try:
        entry = find(model_id)
    except UnknownModelError as err:
        raise ModelNotFoundError(str(err)) from err
    files = [
        FileDownloadSpecs(hf_hub_url(source.repo, source.filename), source.filename)
        for source in entry.sources[:1]  # the others are copies
    ]
    package = ModelPackageMetadata(
        package_id=_PACKAGE_ID,
        backend=BackendType.TORCH,
        package_artefacts=files,
        quantization=Quantization.FP32,
        dynamic_batch_size_supported=True,
        trusted_source=True,
    )
    return ModelMetadata(
        model_id=entry.id,
        model_architecture="clip" if entry.family == "CLIP" else "perception-encoder",
        model_packages=[package],
        task_type="embedding",
        model_variant=entry.id.rpartition("/")[2],
    )


_PROVIDERS: dict[str, WeightsProvider] = {DEFAULT_PROVIDER: _from_registry}
