"""Names of choices, and what a model that was opened by its id says of itself."""

from dataclasses import dataclass
from typing import Literal

ColorFormat = Literal["rgb", "bgr"]


@dataclass(frozen=True)
class ResolvedModelMetadata:
    """Which package of which model was opened."""

    model_id: str
    model_package_id: str
    backend: str
    quantization: str
