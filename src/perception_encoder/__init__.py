"""Meta's Perception Encoder: image and text embeddings in one shared space.

    from perception_encoder import AutoModel, ImageIndex

    model = AutoModel.from_pretrained("pe-nano")
    images = model.embed_images(["cat.png", "dog.png"])  # (2, E), unit length
    model.similarity(images, model.embed_text("a dog"))  # (2, 1), cosine

    index = ImageIndex("photos.lance", model="PE-Core-S16-384")
    index.add("~/Photos")
    index.search("a dog on the beach", k=5)

Importing this package loads neither torch nor anything else heavy; names are imported when they are
used.
"""

from typing import TYPE_CHECKING

from perception_encoder._lazy import lazily
from perception_encoder._version import __version__
from perception_encoder.errors import (
    BackendUnavailableError,
    CacheError,
    CheckpointError,
    CheckpointWriteError,
    ClassifierError,
    ClusterError,
    DownloadError,
    ExchangeError,
    ImageDecodeError,
    ImageEmptyError,
    ImageError,
    ImageFetchError,
    ImageIndexError,
    ImageNotFoundError,
    ImageReferenceError,
    ImagesMissingError,
    ImageTooLargeError,
    ImageTruncatedError,
    ImageUnreadableError,
    ImageValueError,
    ImageWriteError,
    IndexBusyError,
    IndexExistsError,
    IndexMismatchError,
    IndexNotFoundError,
    IndexStorageError,
    ModelUnavailableError,
    OfflineError,
    OutputError,
    PerceptionEncoderError,
    QueryError,
    QueueFullError,
    RemoteError,
    ServingError,
    SourceError,
    SourceNotFoundError,
    TextError,
    TextTooLargeError,
    TokenizerNotFoundError,
    UnknownModelError,
    UnsupportedOperationError,
    VideoDecodeError,
    WorkerCrashedError,
)

if TYPE_CHECKING:
    from perception_encoder.analysis.classifiers import ZeroShotClassifier
    from perception_encoder.analysis.few_shot import FewShotClassifier
    from perception_encoder.auto import AutoModel, list_models
    from perception_encoder.embedder import EmbeddingModel
    from perception_encoder.image_index import ImageIndex

__getattr__ = lazily(
    __name__,
    {
        "AutoModel": "perception_encoder.auto",
        "EmbeddingModel": "perception_encoder.embedder",
        "FewShotClassifier": "perception_encoder.analysis.few_shot",
        "ImageIndex": "perception_encoder.image_index",
        "ZeroShotClassifier": "perception_encoder.analysis.classifiers",
        "list_models": "perception_encoder.auto",
    },
)

__all__ = [
    "AutoModel",
    "BackendUnavailableError",
    "CacheError",
    "CheckpointError",
    "CheckpointWriteError",
    "ClassifierError",
    "ClusterError",
    "DownloadError",
    "EmbeddingModel",
    "ExchangeError",
    "FewShotClassifier",
    "ImageDecodeError",
    "ImageEmptyError",
    "ImageError",
    "ImageFetchError",
    "ImageIndex",
    "ImageIndexError",
    "ImageNotFoundError",
    "ImageReferenceError",
    "ImageTooLargeError",
    "ImageTruncatedError",
    "ImageUnreadableError",
    "ImageValueError",
    "ImageWriteError",
    "ImagesMissingError",
    "IndexBusyError",
    "IndexExistsError",
    "IndexMismatchError",
    "IndexNotFoundError",
    "IndexStorageError",
    "ModelUnavailableError",
    "OfflineError",
    "OutputError",
    "PerceptionEncoderError",
    "QueryError",
    "QueueFullError",
    "RemoteError",
    "ServingError",
    "SourceError",
    "SourceNotFoundError",
    "TextError",
    "TextTooLargeError",
    "TokenizerNotFoundError",
    "UnknownModelError",
    "UnsupportedOperationError",
    "VideoDecodeError",
    "WorkerCrashedError",
    "ZeroShotClassifier",
    "__version__",
    "list_models",
]


def __dir__() -> list[str]:
    return __all__
