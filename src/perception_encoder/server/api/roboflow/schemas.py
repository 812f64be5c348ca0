"""What replies look like, for the OpenAPI document; the routes write plain dicts."""

from typing import Any

from pydantic import BaseModel, ConfigDict


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
