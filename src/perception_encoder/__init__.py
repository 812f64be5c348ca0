"""Meta's Perception Encoder as software people can use: images and words to vectors.

    from perception_encoder import AutoModel

    model = AutoModel.from_pretrained("pe-nano")
    vectors = model.embed_images(["cat.png", "dog.png"])  # (2, E), unit length
    scores = model.similarity(vectors, model.embed_text("a dog"))  # (2, 1), cosine

Importing this package loads neither torch nor anything else heavy; names below come when used.
"""

from typing import TYPE_CHECKING

from perception_encoder._lazy import lazily
from perception_encoder._version import __version__

if TYPE_CHECKING:
    from perception_encoder.auto import AutoModel
    from perception_encoder.embedder import EmbeddingModel

__getattr__ = lazily(
    __name__,
    {"AutoModel": "perception_encoder.auto", "EmbeddingModel": "perception_encoder.embedder"},
)

__all__ = ["AutoModel", "EmbeddingModel", "__version__"]
