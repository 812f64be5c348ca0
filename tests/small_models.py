"""Tiny models with random weights, and images, for tests of what stands on the towers."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from perception_encoder import AutoModel
from perception_encoder.backends import Backend, ComputeOptions, open_random_backend
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.preprocess import ImageProcessor
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.preprocess.vocabulary import build
from perception_encoder.registry import ImageConfig, ModelConfig, TextConfig, VisionConfig
from perception_encoder.types import Embeddings, Pixels, TokenIds

FP32_ON_CPU = ComputeOptions(device="cpu", backend="torch", precision="fp32")

CONTEXT_LENGTH = 12
TOKENIZER = Tokenizer(build([("c", "a"), ("ca", "t</w>")]), CONTEXT_LENGTH)

CORE = ModelConfig(
    id="tiny/core",
    vision=VisionConfig(
        image_size=32, patch_size=8, width=32, depth=2, num_heads=2, mlp_width=64, pool_num_heads=4
    ),
    text=TextConfig(
        context_length=CONTEXT_LENGTH,
        vocab_size=TOKENIZER.vocab_size,
        width=32,
        depth=2,
        num_heads=2,
        mlp_width=64,
    ),
    embed_dim=24,
)
WITHOUT_TEXT = ModelConfig(id="tiny/images", vision=CORE.vision, embed_dim=40)
WITHOUT_POOLING = ModelConfig(
    id="tiny/patches",
    vision=VisionConfig(
        image_size=42,
        patch_size=14,
        width=48,
        depth=3,
        num_heads=3,
        mlp_width=96,
        has_class_token=False,
        layer_scale=0.1,
        pooling="none",
    ),
)
CLIP = ModelConfig(
    id="tiny/clip",
    vision=VisionConfig(
        image_size=24,
        patch_size=12,
        width=32,
        depth=2,
        num_heads=2,
        mlp_width=64,
        activation="quick_gelu",
        has_rope=False,
        pooling="class_token",
    ),
    text=CORE.text,
    embed_dim=16,
    image=ImageConfig(resize="center_crop", interpolation="bicubic"),
)


def open_tiny(
    config: ModelConfig = CORE,
    *,
    backend: Backend | None = None,
    processor: ImageProcessor | None = None,
    tokenizer: Tokenizer | None = TOKENIZER,
    cache: Path | None = None,
) -> EmbeddingModel:
    return EmbeddingModel(
        config,
        backend or open_random_backend(config, FP32_ON_CPU),
        processor or ImageProcessor(config.image, config.vision.image_size),
        tokenizer,
        cache=cache,
    )


def reopen_tiny(folder: Path, config: ModelConfig = CORE) -> EmbeddingModel:
    """Save a tiny model and open it from its file of weights, which explanations read."""
    path = open_tiny(config).save_pretrained(folder)
    return AutoModel.from_pretrained(path, device="cpu", backend="torch", precision="fp32")


class CountingBackend:
    """Another backend, and how many images and texts it was asked to compute."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.name = backend.name
        self.device = backend.device
        self.precision = backend.precision
        self.fingerprint = backend.fingerprint
        self.logit_scale = backend.logit_scale
        self.concurrency = backend.concurrency
        self.num_images = 0
        self.num_texts = 0

    def encode_image(self, pixels: Pixels) -> Embeddings:
        self.num_images += len(pixels)
        return self._backend.encode_image(pixels)

    def encode_text(self, token_ids: TokenIds) -> Embeddings:
        self.num_texts += len(token_ids)
        return self._backend.encode_text(token_ids)

    def features(self, pixels: Pixels, *, layer: int = -1) -> NDArray[np.float32]:
        return self._backend.features(pixels, layer=layer)

    def pool_inputs(self, pixels: Pixels) -> NDArray[np.float32]:
        self.num_images += len(pixels)
        return self._backend.pool_inputs(pixels)

    def close(self) -> None:
        self._backend.close()


def drawing(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    """An image unlike those of other seeds: a few colored rectangles on a colored ground."""
    generator = np.random.default_rng(seed)
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = generator.integers(0, 256, 3)
    for _ in range(4):
        top, left = generator.integers(0, height - 4), generator.integers(0, width - 4)
        bottom, right = generator.integers(top + 2, height), generator.integers(left + 2, width)
        pixels[top:bottom, left:right] = generator.integers(0, 256, 3)
    return Image.fromarray(pixels)


def save_drawings(folder: Path, count: int, suffix: str = ".png") -> list[Path]:
    """Write drawings of different sizes and return their paths in order."""
    paths = []
    for seed in range(count):
        paths.append(folder / f"drawing{seed}{suffix}")
        drawing(seed, width=30 + 7 * seed % 50, height=25 + 11 * seed % 40).save(paths[-1])
    return paths


def as_bgr(image: Image.Image) -> NDArray[np.uint8]:
    """What cv2.imread would give."""
    return np.ascontiguousarray(np.asarray(image)[:, :, ::-1])
