"""Any model as LanceDB's embedding function "perception-encoder"; needs `lancedb`.

    from lancedb.embeddings import get_registry
    from lancedb.pydantic import LanceModel, Vector
    import perception_encoder.integrations.lancedb

    function = get_registry().get("perception-encoder").create(name="pe-nano")

    class Image(LanceModel):
        uri: str = function.SourceField()
        vector: Vector(function.ndims()) = function.VectorField()

A table keeps the function's settings, so it is opened again by its name alone, after this module
was imported.
"""

from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
from lancedb.embeddings import EmbeddingFunction, register
from lancedb.embeddings.utils import url_retrieve
from numpy.typing import NDArray
from pydantic import field_validator

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.integrations.opening import check_weights, open_shared
from perception_encoder.preprocess.image_strings import decode_data_uri, image_in_text
from perception_encoder.types import BackendName, Precision, PreprocessName


@register("perception-encoder")
class PerceptionEncoderFunction(EmbeddingFunction):  # type: ignore[misc]
    """Images of a column to vectors of unit length, and words or an image to a query.

    Made by `create(name=...)`, as all of LanceDB's.

    Attributes:
        name: model id, hub repository or path.
        device, backend, precision, preprocess: as for `AutoModel.from_pretrained`.
        source: what the source column holds: images, as paths, URLs or bytes; or texts.
        batch_size: images or texts computed at once.
        fingerprint: of the weights that a table was made with; written by the table.
    """

    name: str
    device: str = "auto"
    backend: BackendName | Literal["auto"] = "auto"
    precision: Precision | Literal["auto"] = "auto"
    preprocess: PreprocessName | None = None
    source: Literal["images", "texts"] = "images"
    batch_size: int = 32
    fingerprint: str | None = None

    @field_validator("source", mode="before")
    @classmethod
    def _read_old_name(cls, source: Any) -> Any:
        return "images" if source == "pictures" else source  # as tables of 0.1 store it

    def ndims(self) -> int:
        """Return E, the length of a vector."""
        return self._model().identity.embed_dim

    def compute_query_embeddings(self, query: Any, *_: Any, **__: Any) -> list[NDArray[np.float32]]:
        """Embed what is searched with: a text, or a PIL image or the bytes of an image file.

        Returns:
            One float32 vector of E numbers.

        Raises:
            ImageError: the image cannot be used.
            IndexMismatchError: the model is not the one that the table was made with.
        """
        if isinstance(query, str) and image_in_text(query) == "data URI":
            query = decode_data_uri(query, item="the query")
        if isinstance(query, str):
            return list(self._model().embed_text(query))
        return list(self._model().embed_image(query))

    def compute_source_embeddings(
        self, inputs: Any, *_: Any, **__: Any
    ) -> list[NDArray[np.float32] | None]:
        """Embed a column: texts, or paths, URLs (`file:`, `http:`, `https:`) or bytes of images.

        Returns:
            A float32 vector of E numbers for each; None where the column has no value.

        Raises:
            ImageError: an image cannot be used; names its path.
            ConnectionError: a URL could not be fetched.
            IndexMismatchError: the model is not the one that the table was made with.
        """
        items = self.sanitize_input(inputs)
        rows = [row for row, item in enumerate(items) if item is not None]
        known = [items[row] for row in rows]
        if self.source == "texts":
            embedded = self._model().embed_text(known, batch_size=self.batch_size)
        else:
            embedded = self._model().embed_images(
                [_image(item) for item in known], batch_size=self.batch_size
            )
        vectors: list[NDArray[np.float32] | None] = [None] * len(items)
        for row, vector in zip(rows, embedded, strict=True):
            vectors[row] = vector
        return vectors

    # LanceDB's own wait and try again, seven times, longer each time. What fails here fails again.

    def compute_query_embeddings_with_retry(
        self, *args: Any, **options: Any
    ) -> list[NDArray[np.float32]]:
        """Call `compute_query_embeddings`, once."""
        return self.compute_query_embeddings(*args, **options)

    def compute_source_embeddings_with_retry(
        self, *args: Any, **options: Any
    ) -> list[NDArray[np.float32] | None]:
        """Call `compute_source_embeddings`, once."""
        return self.compute_source_embeddings(*args, **options)

    def safe_model_dump(self) -> dict[str, Any]:
        """Return what a table keeps."""
        model = self._model()
        return {
            **super().safe_model_dump(),
            "preprocess": model.processor.name,
            "fingerprint": model.identity.fingerprint,
        }

    def _model(self) -> EmbeddingModel:
        model = open_shared(
            self.name,
            device=self.device,
            backend=self.backend,
            precision=self.precision,
            preprocess=self.preprocess,
        )
        check_weights(model, self.fingerprint)
        return model


def _image(value: str | bytes) -> Any:
    """Return what `embed_images` takes for a path, a URL or bytes."""
    if isinstance(value, str):
        url = urlsplit(value)
        if url.scheme in ("http", "https"):
            return url_retrieve(value)
        if url.scheme == "file":
            return url2pathname(url.path)
    return value
