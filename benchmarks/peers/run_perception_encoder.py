"""This package, as its users call it."""

from importlib.metadata import version
from pathlib import Path

import numpy as np
from serving import serve

from perception_encoder import AutoModel
from perception_encoder.backends.torch_devices import matrix_rate

_PACKAGES = {"torch": "torch", "openvino": "openvino", "onnx": "onnxruntime"}


class PerceptionEncoder:
    """One model with one backend; `model` is a folder, or a name whose weights are made up."""

    def __init__(self, model, pixels="", captions="", **options):
        is_folder = Path(model).exists()
        self.model = AutoModel.from_pretrained(
            model, random_weights=not is_folder, device="cpu", **options
        )
        self.backend = self.model.backend
        if pixels:
            self.pixels = np.load(pixels)
        if captions:
            self.captions = Path(captions).read_text(encoding="utf-8").splitlines()
            self.tokens = self.model.tokenizer(self.captions, trim=False)

    def versions(self):
        """Packages that decide the speed."""
        package = _PACKAGES[self.backend.name]
        return {"perception-encoder": version("perception-encoder"), package: version(package)}

    def images(self, count):
        """Prepared images to vectors; normalizing them is part of it."""
        self.backend.encode_image(self.pixels[:count])

    def texts(self, count):
        """Captions to vectors."""
        self.model.embed_text(self.captions[:count], batch_size=count, show_progress=False)

    def padded_texts(self, count):
        """Token ids in all columns of the context to vectors."""
        self.backend.encode_text(self.tokens[:count])

    def files(self, batch_size, paths):
        """Image files to vectors."""
        self.model.embed_images(paths, batch_size=batch_size, show_progress=False)

    def vectors(self, path):
        """Write vectors, so that they can be compared with other backends'."""
        np.savez(
            path,
            images=self.backend.encode_image(self.pixels[:8]),
            texts=self.backend.encode_text(self.tokens[:8]),
        )

    def matrix_rate(self, precision):
        """Operations a second of torch's own matrix product."""
        return matrix_rate(precision, device="cpu", rounds=3)


if __name__ == "__main__":
    serve(PerceptionEncoder)
