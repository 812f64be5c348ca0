"""The name `inference_models`, answered by perception-encoder.

    from inference_models import AutoModel

    model = AutoModel.from_pretrained("perception-encoder/PE-Core-B16-224")
    embedding = model.embed_image(cv2.imread("cat.jpg"))  # (1, E) CPU tensor of unit length

Code written for Roboflow's `inference-models` package runs unchanged as far as it embeds pictures
and words. Pictures, weights and errors are perception-encoder's business; nothing of that is here.
"""

from inference_models.auto_model import AutoModel
from inference_models.text_image import TextImageEmbeddingModel

__all__ = ["AutoModel", "TextImageEmbeddingModel"]
