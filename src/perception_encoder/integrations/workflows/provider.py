"""The stock block `roboflow_core/perception_encoder@v1` on this backend, in the same process.

    backend = ExecutionEngine.init(
        workflow_definition=...,
        init_parameters={
            "workflows_core.model_manager": PerceptionEncoderModels(),
            "workflows_core.api_key": None,
        },
    )

Needs `roboflow-workflows`; `inference` has its own model manager in that place.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from perception_encoder.errors import UnsupportedOperationError
from perception_encoder.integrations.workflows.models import Models, get_shared_models
from perception_encoder.types import ColorFormat

if TYPE_CHECKING:
    import torch

_PREFIX: Final = "perception_encoder/"
_REFUSAL: Final = (
    "{}: only Perception Encoder runs here; give PerceptionEncoderModels a provider of the other "
    "models as `others`"
)


class PerceptionEncoderModels:
    """What `roboflow-workflows` calls a `ModelsProvider`, as far as Perception Encoder goes.

    Args:
        models: opens models; None for those that this plugin's blocks share.
        names: what to open where a workflow names a model, such as
            `{"PE-Core-L14-336": "/models/mine"}`.
        others: a provider for all other models; without one they are refused.
    """

    content_addressed_artifact_cache: Any = None

    def __init__(
        self,
        models: Models | None = None,
        *,
        names: Mapping[str, str] | None = None,
        others: Any = None,
    ) -> None:
        self._models = models or get_shared_models()
        self._names = dict(names or {})
        self._others = others

    def add_model(
        self,
        model_id: str,
        api_key: str | None,
        model_id_alias: str | None = None,
        **options: Any,
    ) -> None:
        """Open a model, so that a wrong name shows before anything is computed.

        Raises:
            UnknownModelError, CheckpointError, DownloadError, BackendUnavailableError: as
                `AutoModel.from_pretrained`.
            UnsupportedOperationError: the model is of another family, and nobody else has it.
        """
        if _is_ours(model_id):
            self._models.get(self._name(model_id))
        else:
            self._other(model_id).add_model(model_id, api_key, model_id_alias, **options)

    def __contains__(self, model_id: str) -> bool:
        if _is_ours(model_id):
            return True
        return self._others is not None and model_id in self._others

    def run_perception_encoder_text_embedding(
        self, model_id: str, version_id: str, text: list[str], api_key: str | None = None
    ) -> list[list[float]]:
        """Return a vector of unit length for each text."""
        del version_id, api_key  # the model's id has the version; no key is needed
        model = self._models.get(self._name(model_id))
        vectors: list[list[float]] = model.embed_text(text, show_progress=False).tolist()
        return vectors

    def run_perception_encoder_image_embedding(
        self,
        model_id: str,
        version_id: str,
        images: Sequence[Mapping[str, Any]],
        api_key: str | None = None,
    ) -> list[list[float]]:
        """Return a vector of unit length for each image.

        Args:
            model_id: "perception_encoder/" and the model's name.
            version_id: the same name.
            images: `{"type": "numpy_object", "value": array}`, (H, W, 3) BGR or (H, W), uint8.
            api_key: not needed.
        """
        del version_id, api_key
        model = self._models.get(self._name(model_id))
        arrays = [image["value"] for image in images]
        vectors: list[list[float]] = model.embed_images(arrays, show_progress=False).tolist()
        return vectors

    def run_tensor_native_inference(
        self,
        model_id: str,
        *,
        action: Literal["embed-text", "embed-image"] | str | None = None,
        texts: list[str] | None = None,
        images: Sequence[Any] | None = None,
        input_color_format: ColorFormat | None = None,
        **options: Any,
    ) -> "torch.Tensor | Any":
        """Return (N, E) float32 on the CPU, in tensor mode.

        Args:
            model_id: "perception_encoder/" and the model's name.
            action: which of the two is meant.
            texts: for "embed-text".
            images: for "embed-image": (C, H, W) tensors, RGB, or (H, W, C) arrays.
            input_color_format: of arrays; None is "bgr".
            **options: for other models only.
        """
        if not _is_ours(model_id):
            given = {"texts": texts, "images": images, "input_color_format": input_color_format}
            options |= {name: value for name, value in given.items() if value is not None}
            if action is not None:
                options["action"] = action
            return self._other(model_id).run_tensor_native_inference(model_id, **options)
        model = self._models.get(self._name(model_id))
        if action == "embed-text":
            return model.embed_text(texts or [], show_progress=False, output="torch")
        if action == "embed-image":
            return model.embed_images(
                list(images or []),
                input_color_format=input_color_format or "bgr",
                show_progress=False,
                output="torch",
            )
        raise UnsupportedOperationError(f"{model_id} embeds texts and images, not {action!r}")

    def __getattr__(self, name: str) -> Any:
        """Hand calls for other models to the other provider."""
        if name.startswith("_") or self._others is None:
            raise AttributeError(_REFUSAL.format(name))
        return getattr(self._others, name)

    def _other(self, wanted: str) -> Any:
        if self._others is None:
            raise UnsupportedOperationError(_REFUSAL.format(wanted))
        return self._others

    def _name(self, model_id: str) -> str:
        name = model_id.removeprefix(_PREFIX)
        return self._names.get(name, name)


def _is_ours(model_id: str) -> bool:
    return model_id.startswith(_PREFIX)
