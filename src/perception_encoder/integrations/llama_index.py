"""Any model as LlamaIndex's `MultiModalEmbedding`; needs `llama-index-core`.

from llama_index.core.indices import MultiModalVectorStoreIndex
from perception_encoder.integrations.llama_index import PerceptionEncoderEmbedding

embedding = PerceptionEncoderEmbedding("pe-nano")
index = MultiModalVectorStoreIndex(nodes, embed_model=embedding, image_embed_model=embedding)
"""

import asyncio
import os
from collections.abc import Sequence
from io import BytesIO
from typing import Any, Literal

from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.embeddings import MultiModalEmbedding

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.integrations.opening import ModelLike, open_shared
from perception_encoder.types import BackendName, Precision, PreprocessName


class PerceptionEncoderEmbedding(MultiModalEmbedding):  # type: ignore[misc]
    """Words and images to lists of floats, of unit length.

    Args:
        model_name: a name, a path, or a model that is open. Of an open one the id is kept here,
            so that a copy made with `from_dict` opens that.
        **fields: `device`, `backend`, `precision` and `preprocess` as for
            `AutoModel.from_pretrained`, and LlamaIndex's own, such as `embed_batch_size`.

    Raises:
        UnknownModelError, CheckpointError, DownloadError, BackendUnavailableError: as for
            `AutoModel.from_pretrained`.
    """

    device: str = "auto"
    backend: BackendName | Literal["auto"] = "auto"
    precision: Precision | Literal["auto"] = "auto"
    preprocess: PreprocessName | None = None
    _model: EmbeddingModel = PrivateAttr()

    def __init__(self, model_name: ModelLike, **fields: Any) -> None:
        if isinstance(model_name, EmbeddingModel):
            super().__init__(model_name=model_name.config.id, **fields)
            self._model = model_name
        else:
            super().__init__(model_name=os.fspath(model_name), **fields)
            self._model = open_shared(
                self.model_name,
                device=self.device,
                backend=self.backend,
                precision=self.precision,
                preprocess=self.preprocess,
            )

    @classmethod
    def class_name(cls) -> str:
        """Return the name in LlamaIndex's records."""
        return "PerceptionEncoderEmbedding"

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        rows: list[list[float]] = self._model.embed_text(
            texts, batch_size=self.embed_batch_size
        ).tolist()
        return rows

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    def _get_image_embeddings(self, img_file_paths: Sequence[Any]) -> list[list[float]]:
        images = [
            image.getvalue() if isinstance(image, BytesIO) else image for image in img_file_paths
        ]
        rows: list[list[float]] = self._model.embed_images(
            images, batch_size=self.embed_batch_size
        ).tolist()
        return rows

    def _get_image_embedding(self, img_file_path: Any) -> list[float]:
        return self._get_image_embeddings([img_file_path])[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    async def _aget_image_embedding(self, img_file_path: Any) -> list[float]:
        return await asyncio.to_thread(self._get_image_embedding, img_file_path)

    async def _aget_image_embeddings(self, img_file_paths: Sequence[Any]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_image_embeddings, img_file_paths)
