"""Any model as Chroma's `EmbeddingFunction`, and a loader of image files; needs `chromadb`.

    import chromadb
    from perception_encoder.integrations import chroma

    collection = chromadb.PersistentClient("db").create_collection(
        "images",
        embedding_function=chroma.PerceptionEncoderEmbeddingFunction("pe-nano"),
        data_loader=chroma.ImageFileLoader(),
    )
    collection.add(ids=["cat"], uris=["cat.webp"])

A collection keeps the function's configuration, so it is opened again by its name alone, after
this module was imported.
"""

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
from chromadb.api.types import DataLoader, Embeddable, EmbeddingFunction, Embeddings, Space
from chromadb.utils.embedding_functions import register_embedding_function
from numpy.typing import NDArray

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.errors import IndexMismatchError
from perception_encoder.integrations.opening import (
    ModelLike,
    OpenOptions,
    check_weights,
    embed_mixed,
    open_shared,
)
from perception_encoder.preprocess.decode import decode_image
from perception_encoder.preprocess.transforms import to_rgb, turn_upright


@register_embedding_function
class PerceptionEncoderEmbeddingFunction(EmbeddingFunction[Embeddable]):  # type: ignore[misc]
    """Documents and images to vectors of unit length; the model is opened when it is needed.

    Args:
        model: a name, a path, or a model that is open. Of an open one the id is what a collection
            keeps.
        **options: see `OpenOptions`; a collection keeps them.
    """

    def __init__(self, model: ModelLike, **options: Unpack[OpenOptions]) -> None:
        self._source = model
        self._options = options
        self._fingerprint: str | None = None

    def __call__(self, input: Embeddable) -> Embeddings:
        """Embed documents, which are strings, and images, which are (H, W[, 1|3|4]) RGB arrays.

        Returns:
            A float32 vector of E numbers for each.

        Raises:
            ImageError: an image cannot be used.
            IndexMismatchError: the model is not the one that the collection was made with.
        """
        is_text = [isinstance(item, str) for item in input]
        return list(embed_mixed(self._model(), input, is_text))

    @staticmethod
    def name() -> str:
        """Return the name under which a collection finds this class."""
        return "perception-encoder"

    def default_space(self) -> Space:
        """Return what scores are made for."""
        return "cosine"

    def get_config(self) -> dict[str, Any]:
        """Return what a collection keeps: the model, its options, and its weights' fingerprint."""
        model, source = self._model(), self._source
        return {
            "model": source.config.id if isinstance(source, EmbeddingModel) else str(source),
            "options": {**self._options, "preprocess": model.processor.name},
            "fingerprint": model.identity.fingerprint,
        }

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> "PerceptionEncoderEmbeddingFunction":
        """Make the function of a collection; the weights are compared at its first use."""
        function = PerceptionEncoderEmbeddingFunction(config["model"], **config["options"])
        function._fingerprint = config["fingerprint"]
        return function

    def validate_config_update(
        self, old_config: dict[str, Any], new_config: dict[str, Any]
    ) -> None:
        """Refuse a function whose vectors do not compare with those of the collection.

        Raises:
            IndexMismatchError: other weights, or another preprocessing.
        """
        old, new = _decides(old_config), _decides(new_config)
        if old != new:
            raise IndexMismatchError(
                f"the collection's vectors were made with {old}, not with {new}; make a collection "
                "of another name for them"
            )

    def _model(self) -> EmbeddingModel:
        model = open_shared(self._source, **self._options)
        check_weights(model, self._fingerprint)
        return model


class ImageFileLoader(DataLoader[list[NDArray[np.uint8] | None]]):  # type: ignore[misc]
    """Reads image files for `collection.add(uris=...)`.

    Unlike Chroma's own loader it turns images by EXIF, puts transparency over white and converts
    palettes, as this package does with every file.
    """

    def __call__(self, uris: Sequence[str | None]) -> list[NDArray[np.uint8] | None]:
        """Return an (H, W, 3) RGB array for each path, None for each None.

        Raises:
            ImageError: a file cannot be used; names it.
        """
        return [None if uri is None else _read(uri) for uri in uris]


def _read(path: str) -> NDArray[np.uint8]:
    return np.asarray(to_rgb(turn_upright(decode_image(path)), item=path))


def _decides(config: dict[str, Any]) -> tuple[str, str]:
    return config["fingerprint"], config["options"]["preprocess"]
