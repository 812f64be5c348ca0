"""Any model as LangChain's `Embeddings`; needs `langchain-core`.

    from langchain_core.vectorstores import InMemoryVectorStore
    from perception_encoder.integrations.langchain import PerceptionEncoderEmbeddings

    store = InMemoryVectorStore(PerceptionEncoderEmbeddings("pe-nano"))

Stores that take images (`Chroma.add_images` of langchain-chroma) call `embed_image`.
"""

from typing import Unpack

from langchain_core.embeddings import Embeddings

from perception_encoder.integrations.opening import ModelLike, OpenOptions, open_shared


class PerceptionEncoderEmbeddings(Embeddings):  # type: ignore[misc]
    """Words and images to lists of floats, of unit length.

    May be shared between threads; the calls that are awaited run in LangChain's own.

    Args:
        model: a name, a path, or a model that is open.
        batch_size: texts or images computed at once.
        **options: see `OpenOptions`.

    Raises:
        UnknownModelError, CheckpointError, DownloadError, BackendUnavailableError: as for
            `AutoModel.from_pretrained`.
    """

    def __init__(
        self, model: ModelLike, *, batch_size: int = 32, **options: Unpack[OpenOptions]
    ) -> None:
        self.model = open_shared(model, **options)
        self.batch_size = batch_size

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed texts, each as far as the model's context goes.

        Returns:
            A vector of E floats for each text.
        """
        rows: list[list[float]] = self.model.embed_text(texts, batch_size=self.batch_size).tolist()
        return rows

    def embed_query(self, text: str) -> list[float]:
        """Embed one text; queries and documents are embedded alike."""
        return self.embed_documents([text])[0]

    def embed_image(self, uris: list[str]) -> list[list[float]]:
        """Embed image files.

        Args:
            uris: their paths.

        Returns:
            A vector of E floats for each.

        Raises:
            ImageError: a file cannot be used; names it.
        """
        rows: list[list[float]] = self.model.embed_images(uris, batch_size=self.batch_size).tolist()
        return rows
