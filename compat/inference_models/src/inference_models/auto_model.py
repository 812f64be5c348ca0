"""`AutoModel.from_pretrained` with the parameters that `inference-models` has."""

import os
from typing import TYPE_CHECKING, Any

import perception_encoder
from inference_models.text_image import TextImageEmbeddingModel

if TYPE_CHECKING:
    import torch


class AutoModel:
    """Opens models. Never instantiated; `from_pretrained` returns the model."""

    @classmethod
    def from_pretrained(  # noqa: PLR0913  the original's parameters, in its order
        cls,
        model_id_or_path: str | os.PathLike[str],
        weights_provider: str = "roboflow",  # noqa: ARG003
        api_key: str | None = None,  # noqa: ARG003
        model_package_id: str | None = None,  # noqa: ARG003
        backend: Any = None,  # noqa: ARG003
        batch_size: Any = None,  # noqa: ARG003
        quantization: Any = None,  # noqa: ARG003
        onnx_execution_providers: Any = None,  # noqa: ARG003
        device: "torch.device | str | None" = None,
        **_: Any,
    ) -> TextImageEmbeddingModel:
        """Open a model by id, file or folder, as `perception_encoder.AutoModel` does.

        Args:
            model_id_or_path: "perception-encoder/PE-Core-B16-224", or a path, which wins where
                both exist.
            weights_provider: ignored, as every parameter here but the device: weights come from
                the Hugging Face hub, without a key, and there is one package of each model.
            api_key: ignored.
            model_package_id: ignored.
            backend: ignored; the engine is torch.
            batch_size: ignored.
            quantization: ignored.
            onnx_execution_providers: ignored.
            device: "cpu", "cuda", "cuda:1", "mps", or such a torch.device; None takes CUDA where
                there is one.
            **_: whatever else the original takes; ignored.

        Raises:
            perception_encoder.errors.UnknownModelError: no such model.
            perception_encoder.errors.CheckpointError: damaged weights, or of another model.
            perception_encoder.errors.DownloadError: the weights could not be fetched.
            perception_encoder.errors.BackendUnavailableError: the device is not to be had here.
        """
        model = perception_encoder.AutoModel.from_pretrained(
            model_id_or_path,
            device="auto" if device is None else str(device),
            backend="torch",
            precision="fp32",  # as the original's weights
        )
        return TextImageEmbeddingModel(model)
