"""fastembed: CLIP ViT-B-32's vision tower in ONNX Runtime, from an exported folder."""

import fastembed
import onnxruntime
from serving import serve


class FastEmbed:
    """Its defaults: threads within one session, no worker processes."""

    def __init__(self, folder):
        self.model = fastembed.ImageEmbedding(
            "Qdrant/clip-ViT-B-32-vision", specific_model_path=folder
        )

    def versions(self):
        """Packages that decide the speed."""
        return {"fastembed": fastembed.__version__, "onnxruntime": onnxruntime.__version__}

    def files(self, batch_size, paths):
        """Image files to vectors."""
        list(self.model.embed(paths, batch_size=batch_size))


if __name__ == "__main__":
    serve(FastEmbed)
