"""Infinity's backend without its server: CLIP ViT-B-32 in torch."""

import asyncio
from importlib.metadata import version
from pathlib import Path

from infinity_emb import AsyncEmbeddingEngine, EngineArgs
from PIL import Image
from serving import serve


class Infinity:
    """fp32 on the CPU, its default there."""

    def __init__(self, folder, captions):
        self.captions = Path(captions).read_text(encoding="utf-8").splitlines()
        self.loop = asyncio.new_event_loop()
        self.backend = AsyncEmbeddingEngine.from_args(
            EngineArgs(
                model_name_or_path=folder,
                backend="torch",
                device="cpu",
                model_warmup=False,
                bettertransformer=False,
            )
        )
        self.loop.run_until_complete(self.backend.astart())

    def versions(self):
        """Packages that decide the speed."""
        return {name: version(name) for name in ("infinity_emb", "transformers", "torch")}

    def texts(self, count):
        """Captions to vectors."""
        self.loop.run_until_complete(self.backend.embed(self.captions[:count]))

    def files(self, batch_size, paths):
        """Image files to vectors; the backend makes its own batches."""
        del batch_size
        images = [Image.open(path) for path in paths]
        self.loop.run_until_complete(self.backend.image_embed(images=images))


if __name__ == "__main__":
    serve(Infinity)
