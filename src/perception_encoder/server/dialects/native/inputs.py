"""What native requests call a picture or a text, wherever either may stand."""

from collections.abc import Sequence
from typing import Final, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from perception_encoder.errors import PerceptionEncoderError
from perception_encoder.server.core.engine import Engine
from perception_encoder.server.problems import items_error
from perception_encoder.server.services import Services
from perception_encoder.types import Embeddings

PICTURE: Final = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
"""In examples: a picture of one pixel."""


class Input(BaseModel):
    """A picture or a text."""

    model_config = ConfigDict(extra="forbid")

    text: str | None = Field(default=None, description="Words.")
    image: str | None = Field(
        default=None, description="Base64, a data URI, or a URL where enabled."
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.text is None) == (self.image is None):
            raise ValueError("give either text or image")
        return self


async def embed_inputs(services: Services, engine: Engine, inputs: Sequence[Input]) -> Embeddings:
    """Return (N, E) float32 of unit length, in the order of the inputs.

    Raises:
        ApiError: 400, pictures cannot be used; `items` names each by its place among the inputs.
    """
    vectors = np.zeros((len(inputs), engine.embed_dim), np.float32)
    texts = [n for n, one in enumerate(inputs) if one.text is not None]
    images = [n for n, one in enumerate(inputs) if one.image is not None]
    if images:
        loaded = await services.load_images([inputs[n].image or "" for n in images])
        embedded = await engine.embed_images(loaded)
        if embedded.errors:
            failed: dict[int, PerceptionEncoderError] = {
                images[place]: err for place, err in embedded.errors.items()
            }
            raise items_error(failed, len(inputs))
        vectors[images] = embedded.vectors
    if texts:
        vectors[texts] = await engine.embed_texts([inputs[n].text or "" for n in texts])
    return vectors
