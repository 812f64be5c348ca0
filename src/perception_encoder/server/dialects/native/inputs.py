"""What native requests call an image or a text, wherever either may stand."""

from collections.abc import Iterable, Sequence
from typing import Final, Self, TypeVar

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from perception_encoder.errors import PerceptionEncoderError, TextTooLargeError
from perception_encoder.preprocess.clean import check_text_size
from perception_encoder.preprocess.image_strings import image_in_text
from perception_encoder.server.bodies import RequestBody
from perception_encoder.server.core.engine import Engine
from perception_encoder.server.problems import ApiError, ItemProblem, items_error
from perception_encoder.server.services import Services
from perception_encoder.types import Embeddings

ItemT = TypeVar("ItemT")

PICTURE: Final = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
"""In examples: a picture of one pixel."""


class Input(RequestBody):
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


async def embed_inputs(
    services: Services, engine: Engine, inputs: Sequence[Input], names: Sequence[str]
) -> Embeddings:
    """Return (N, E) float32 of unit length, in the order of the inputs.

    Args:
        services: of the server.
        engine: the model.
        inputs: images and texts.
        names: what errors call each of them.

    Raises:
        ApiError: 400, some cannot be used; `items` names each by its place among the inputs.
    """
    texts = [n for n, one in enumerate(inputs) if one.text is not None]
    images = [n for n, one in enumerate(inputs) if one.image is not None]
    check_texts((n, inputs[n].text or "", names[n]) for n in texts)
    vectors = np.zeros((len(inputs), engine.embed_dim), np.float32)
    if images:
        image_names = [names[n] for n in images]
        loaded = await services.load_images([inputs[n].image or "" for n in images], image_names)
        embedded = await engine.embed_images(loaded, image_names)
        if embedded.errors:
            failed: dict[int, PerceptionEncoderError] = {
                images[place]: err for place, err in embedded.errors.items()
            }
            raise items_error(failed, len(inputs))
        vectors[images] = embedded.vectors
    if texts:
        vectors[texts] = await engine.embed_texts([inputs[n].text or "" for n in texts])
    return vectors


def check_texts(texts: Iterable[tuple[int, str, str]]) -> None:
    """Refuse texts that are too large, and encoded images, whose characters mean nothing.

    Args:
        texts: each with its position among the request's items, and what errors call it.

    Raises:
        ApiError: 400 that names the first.
    """
    for position, text, name in texts:
        try:
            check_text_size(text, name, position)
        except TextTooLargeError as err:
            problem = ItemProblem(position, "text_too_large", str(err), name)
            raise ApiError(400, problem.code, problem.message, items=(problem,)) from err
        if (kind := image_in_text(text)) is not None:
            message = f"{name}: this is the {kind} of an image, not a text; send it as an image"
            problem = ItemProblem(position, "image_as_text", message, name)
            raise ApiError(400, problem.code, message, items=(problem,))


def items_of(field: str, value: ItemT | list[ItemT]) -> tuple[list[ItemT], list[str]]:
    """Return the items of a field that holds one or a list, and what errors call each."""
    if isinstance(value, list):
        return value, names_of(field, len(value))
    return [value], [field]


def names_of(field: str, count: int) -> list[str]:
    """Return what errors call the items of a list: "input[0]", "input[1]", …."""
    return [f"{field}[{position}]" for position in range(count)]


def check_field(field: str, texts: Sequence[str]) -> None:
    """Refuse a list of texts; raises as `check_texts`."""
    check_texts((n, text, f"{field}[{n}]") for n, text in enumerate(texts))
