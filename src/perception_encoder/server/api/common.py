"""What several APIs share: images and texts of requests, embeddings and rows of replies."""

from __future__ import annotations

import base64
import datetime
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, model_validator
from typing_extensions import TypeAliasType

from perception_encoder.errors import PerceptionEncoderError, TextTooLargeError
from perception_encoder.index import Hit, Row
from perception_encoder.preprocess.image_strings import image_in_text
from perception_encoder.preprocess.tokenizer import check_text_size
from perception_encoder.server.api.base import Services
from perception_encoder.server.core.model_worker import ModelWorker
from perception_encoder.server.http.errors import ApiError, ItemError, build_items_error
from perception_encoder.server.http.requests import RequestBody
from perception_encoder.types import Embeddings
from perception_encoder.vectors import normalize_rows

ItemT = TypeVar("ItemT")

IMAGE: Final = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
"""In examples: an image of one pixel."""

MOST_HITS: Final = 1000
# Named types are schemas of their own in the OpenAPI document, and so types of generated clients.
Dtype = TypeAliasType("Dtype", Literal["float32", "float16", "int8"])
Encoding = TypeAliasType("Encoding", Literal["float", "base64", "npy"])
Modality = TypeAliasType("Modality", Literal["image", "text"])
Fit = TypeAliasType("Fit", Literal["strong", "weak", "none"])

_INT8: Final = 127


class Input(RequestBody):
    """An image or a text."""

    model_config = ConfigDict(extra="forbid")

    text: str | None = Field(default=None, description="A text.")
    image: str | None = Field(
        default=None, description="Base64, a data URI, or a URL where enabled."
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.text is None) == (self.image is None):
            raise ValueError("give either text or image")
        return self


@dataclass(frozen=True)
class EmbeddedInputs:
    """The images and texts of a request, embedded.

    Attributes:
        vectors: (N, E) float32 of unit length, in the order of the inputs.
        token_counts: of each text, by its position, the tokens with start and end; more than the
            context length for a text that was cut.
    """

    vectors: Embeddings
    token_counts: dict[int, int]

    def num_tokens(self, worker: ModelWorker) -> int:
        """Return how many tokens of the texts the model has read."""
        if not self.token_counts:
            return 0
        most = worker.model.tokenizer.context_length
        return sum(min(count, most) for count in self.token_counts.values())

    def find_cut(self, worker: ModelWorker) -> int | None:
        """Return the position of the first text that was cut; None where none was."""
        if not self.token_counts:
            return None
        most = worker.model.tokenizer.context_length
        return next((n for n, count in self.token_counts.items() if count > most), None)


async def embed_inputs(
    services: Services, worker: ModelWorker, inputs: Sequence[Input], names: Sequence[str]
) -> EmbeddedInputs:
    """Embed images and texts.

    Args:
        services: of the server.
        worker: the model.
        inputs: images and texts.
        names: what errors call each of them.

    Raises:
        ApiError: 400, some cannot be used; `items` names each by its place among the inputs.
    """
    texts = [n for n, one in enumerate(inputs) if one.text is not None]
    images = [n for n, one in enumerate(inputs) if one.image is not None]
    check_texts((n, inputs[n].text or "", names[n]) for n in texts)
    vectors = np.zeros((len(inputs), worker.embed_dim), np.float32)
    if images:
        image_names = [names[n] for n in images]
        loaded = await services.load_images([inputs[n].image or "" for n in images], image_names)
        embedded = await worker.embed_images(loaded, image_names)
        if embedded.errors:
            failed: dict[int, PerceptionEncoderError] = {
                images[place]: err for place, err in embedded.errors.items()
            }
            raise build_items_error(failed, len(inputs))
        vectors[images] = embedded.vectors
    token_counts: list[int] = []
    if texts:
        vectors[texts], token_counts = await worker.embed_and_count(
            [inputs[n].text or "" for n in texts]
        )
    return EmbeddedInputs(vectors, dict(zip(texts, token_counts, strict=True)))


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
            problem = ItemError(position, "text_too_large", str(err), name)
            raise ApiError(400, problem.code, problem.message, items=(problem,)) from err
        if (kind := image_in_text(text)) is not None:
            message = f"{name}: this is the {kind} of an image, not a text; send it as an image"
            problem = ItemError(position, "image_as_text", message, name)
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


@dataclass(frozen=True)
class VectorForm:
    """How a request wants its vectors.

    Attributes:
        dimensions: keep this many numbers of each, then normalize; None keeps all.
        dtype: of the numbers. int8: each vector times 127 over its largest magnitude, rounded; its
            cosine with others is the same as before within rounding, whatever that factor was.
    """

    dimensions: int | None = None
    dtype: Dtype = "float32"


def shape_embeddings(vectors: Embeddings, form: VectorForm) -> NDArray[Any]:
    """Return (N, dimensions) vectors in the wanted form, from (N, E) float32 of unit length.

    Raises:
        ApiError: 400, more dimensions than the model gives.
    """
    embed_dim = vectors.shape[1]
    if form.dimensions is not None and form.dimensions > embed_dim:
        raise ApiError(
            400,
            "too_many_dimensions",
            f"the model gives {embed_dim} dimensions; {form.dimensions} cannot be had",
        )
    if form.dimensions is not None and form.dimensions < embed_dim:
        vectors = normalize_rows(vectors[:, : form.dimensions])
    vectors = np.ascontiguousarray(vectors)
    if form.dtype == "float32":
        return vectors
    if form.dtype == "float16":
        return vectors.astype(np.float16)
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
    return np.rint(vectors * (_INT8 / np.where(largest > 0, largest, 1))).astype(np.int8)


def encode_base64(vector: NDArray[Any]) -> str:
    """Return one vector's bytes, little endian, as base64."""
    little = vector.astype(vector.dtype.newbyteorder("<"), copy=False)
    return base64.b64encode(little.tobytes()).decode("ascii")


def encode_npy(vectors: NDArray[Any]) -> bytes:
    """Return a `.npy` file of the vectors."""
    out = io.BytesIO()
    np.save(out, vectors, allow_pickle=False)
    return out.getvalue()


def encode_for_json(vector: NDArray[Any], encoding: Encoding) -> object:
    """Return one vector for a JSON reply: numbers, or their bytes as base64."""
    if encoding == "base64":
        return encode_base64(vector)
    return vector.astype(np.float32) if vector.dtype == np.float16 else vector


def describe_row(item: Row | Hit) -> dict[str, Any]:
    """Return a row as JSON, without its vector."""
    return {
        "id": item.id,
        "name": item.name,
        "uri": item.uri,
        "member": item.member,
        "width": item.width,
        "height": item.height,
        "bytes": item.bytes,
        "modified": None if item.mtime is None else _iso_time(item.mtime),
        "sha256": item.sha256,
        "moment": None if item.moment is None else item.moment._asdict(),
        "metadata": {name: _plain(value) for name, value in item.metadata.items()},
    }


def _iso_time(nanoseconds: int) -> str | None:
    try:
        moment = datetime.datetime.fromtimestamp(nanoseconds / 1e9, datetime.UTC)
    except (OverflowError, ValueError, OSError):  # a wild file time
        return None
    return moment.isoformat(timespec="seconds")


def _plain(value: Any) -> Any:
    """Return what JSON can hold: metadata of other programs' indexes may be anything."""
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    return value if isinstance(value, str | int | float | bool | None) else str(value)
