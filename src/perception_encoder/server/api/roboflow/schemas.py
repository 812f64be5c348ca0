"""Bodies of requests, whose unknown fields are ignored, and the forms of replies."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from perception_encoder.server.api.common import IMAGE
from perception_encoder.server.http.requests import ListOf, OrAbsent, RequestBody

_EXAMPLE: dict[str, Any] = {"type": "base64", "value": IMAGE}


class ImageObject(RequestBody):
    """An image."""

    model_config = ConfigDict(json_schema_extra={"example": _EXAMPLE})

    type: str = Field(description="base64, or url where this server fetches them.")
    value: Any = Field(description="Base64 or a data URI; or the URL.")


class Body(RequestBody):
    """What every request of this API may hold."""

    id: str = Field(default="", description="Comes back as inference_id.")
    api_key: str | None = None
    model_id: OrAbsent[str] = Field(
        default=None, description="perception_encoder/VERSION, where no version field is given."
    )
    perception_encoder_version_id: OrAbsent[str] = Field(
        default=None, description="Such as PE-Core-L14-336; default: the server's first model."
    )
    clip_version_id: OrAbsent[str] = Field(
        default=None, description="For /clip: such as ViT-B-16, which is the default."
    )


class EmbedImageBody(Body):
    """Images to embed."""

    model_config = ConfigDict(json_schema_extra={"example": {"image": _EXAMPLE}})

    image: ImageObject | ListOf[ImageObject | str] | str


class EmbedTextBody(Body):
    """Texts to embed."""

    model_config = ConfigDict(json_schema_extra={"example": {"text": ["a cat", "a dog"]}})

    text: str | ListOf[str]


# Whatever has `type` and `value` is an image; any other object is a set of named prompts.
Prompt = Annotated[
    ImageObject | str | ListOf[ImageObject | str] | dict[str, ImageObject | str],
    Field(union_mode="left_to_right"),
]


class CompareBody(Body):
    """One thing to compare with others."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"subject": _EXAMPLE, "prompt": {"cat": "a cat", "dog": "a dog"}}
        }
    )

    subject: ImageObject | str
    subject_type: str = Field(default="image", description="image or text.")
    prompt: Prompt
    prompt_type: str = Field(default="text", description="image or text.")


class ModelBody(RequestBody):
    """A model to load or to unload."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"model_id": "perception_encoder/pe-nano"}}
    )

    model_id: str
    api_key: str | None = None


class ResolvedModel(BaseModel):
    """The model that answered."""

    model_config = ConfigDict(protected_namespaces=())

    model_id: str
    model_package_id: str
    backend: str
    quantization: str


class InferenceReply(BaseModel):
    """What all replies hold."""

    inference_id: str
    frame_id: str | None
    time: float
    resolved_model: ResolvedModel


class InferenceEmbeddings(InferenceReply):
    """Embeddings of unit length."""

    embeddings: list[list[float]]


class InferenceSimilarity(InferenceReply):
    """Cosines: in the order of the prompts, or one for each name."""

    similarity: list[float] | dict[str, float]
    parent_id: str | None


class RegisteredModel(BaseModel):
    """A model in memory."""

    model_config = ConfigDict(protected_namespaces=())

    model_id: str
    task_type: str
    batch_size: int | None
    input_height: int
    input_width: int
    vram_bytes: int | None


class ModelRegistry(BaseModel):
    """The models in memory."""

    models: list[RegisteredModel]


class RoboflowError(BaseModel):
    """The reply to a request that cannot be answered."""

    message: str
    status: int | None = None
    detail: list[dict[str, Any]] | None = None
