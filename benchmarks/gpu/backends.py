"""What is measured: this package, open_clip and timm, all in this process and on one device.

Weights are made up and drawn on the device itself. Peers' images are normalized and lie there
before the time is taken; ours begin as uint8 in this machine's memory. All give vectors back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor, nn

from perception_encoder.backends.torch_backend import TorchBackend
from perception_encoder.backends.torch_devices import DTYPES
from perception_encoder.checkpoints.hub import bundled_folder
from perception_encoder.checkpoints.load import logit_scale_of, random_model
from perception_encoder.checkpoints.locate import find_tokenizer
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.preprocess import ImageProcessor
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.registry import find
from perception_encoder.types import Precision


@dataclass(frozen=True)
class Peer:
    """A model's names elsewhere."""

    open_clip: str
    timm: str


PEERS = {
    "PE-Core-T16-384": Peer("PE-Core-T-16-384", "vit_pe_core_tiny_patch16_384"),
    "PE-Core-B16-224": Peer("PE-Core-B-16", "vit_pe_core_base_patch16_224"),
    "PE-Core-L14-336": Peer("PE-Core-L-14-336", "vit_pe_core_large_patch14_336"),
    "PE-Core-G14-448": Peer("PE-Core-bigG-14-448", "vit_pe_core_gigantic_patch14_448"),
}


@dataclass(frozen=True)
class Inputs:
    """What every backend of a model is given: images, (N, S, S, 3) uint8, and captions."""

    pixels: np.ndarray
    captions: list[str]


@dataclass(frozen=True)
class Backend:
    """One way to compute a model; each call computes so many items and waits for their vectors."""

    images: Callable[[int], object]
    texts: Callable[[int], object] | None = None


def inputs(model: str, num_images: int, num_texts: int) -> Inputs:
    """Noise, and ordinary captions, repeated."""
    side = find(model).config.vision.image_size
    rng = np.random.default_rng(0)
    captions = files("perception_encoder").joinpath("data/captions.txt")
    lines = captions.read_text(encoding="utf-8").splitlines()
    repeated = lines * (num_texts // len(lines) + 1)
    pixels = rng.integers(0, 256, (num_images, side, side, 3), np.uint8)
    return Inputs(pixels, repeated[:num_texts])


def open_ours(
    model: str, device: str, precision: Precision, *, is_compiled: bool = False
) -> EmbeddingModel:
    """This package's torch backend, as `AutoModel` makes it but for where weights are drawn."""
    entry = find(model)
    config = entry.config
    towers = random_model(config, device=device)
    backend = TorchBackend(
        towers.to(DTYPES[precision]),
        torch.device(device),
        precision,
        fingerprint="made up",
        logit_scale=logit_scale_of(towers),
        is_compiled=is_compiled,
    )
    vocabulary = find_tokenizer(config, bundled_folder(entry), local_files_only=True)
    if config.text is None or vocabulary is None:
        raise FileNotFoundError("CLIP's vocabulary: pip install --no-deps open_clip_torch")
    tokenizer = Tokenizer.from_file(vocabulary, config.text.context_length)
    processor = ImageProcessor(config.image, config.vision.image_size)
    return EmbeddingModel(config, backend, processor, tokenizer)


def ours(
    model: str, device: str, given: Inputs, precision: Precision, *, is_compiled: bool = False
) -> Backend:
    """This package, called as its users call it."""
    opened = open_ours(model, device, precision, is_compiled=is_compiled)
    return Backend(
        lambda count: opened.backend.encode_image(given.pixels[:count]),
        lambda count: opened.embed_text(
            given.captions[:count], batch_size=count, show_progress=False
        ),
    )


def open_clip(
    model: str,
    device: str,
    given: Inputs,
    precision: str,
    *,
    is_autocast: bool = False,
    is_compiled: bool = False,
) -> Backend:
    """open_clip as its README uses it; "pure_bf16" has all weights in bf16."""
    import open_clip as library

    torch.manual_seed(0)
    name = PEERS[model].open_clip
    with torch.device(device):  # its weights are drawn there
        clip = library.create_model(name, precision=precision, device=device).eval()
    tokenizer = library.get_tokenizer(name)
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    pixels = normalized(given.pixels, device, dtype)
    autocast = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=is_autocast)
    encode_image = torch.compile(clip.encode_image) if is_compiled else clip.encode_image

    @torch.inference_mode()
    def images(count: int) -> Tensor:
        with autocast:
            return encode_image(pixels[:count]).cpu()

    @torch.inference_mode()
    def texts(count: int) -> Tensor:
        with autocast:
            return clip.encode_text(tokenizer(given.captions[:count]).to(device)).cpu()

    return Backend(images, None if is_compiled else texts)


def timm(model: str, device: str, given: Inputs, *, is_compiled: bool = False) -> Backend:
    """The vision tower of timm in bf16, which open_clip's is made of."""
    import timm as library

    torch.manual_seed(0)
    with torch.device(device):
        made: nn.Module = library.create_model(PEERS[model].timm, pretrained=False)
    tower = made.eval().to(device, torch.bfloat16)
    pixels = normalized(given.pixels, device, torch.bfloat16)
    encode_image = torch.compile(tower) if is_compiled else tower

    @torch.inference_mode()
    def images(count: int) -> Tensor:
        return encode_image(pixels[:count]).cpu()

    return Backend(images)


def normalized(pixels: np.ndarray, device: str, dtype: torch.dtype) -> Tensor:
    """(B, 3, S, S) in [-1, 1], on the device."""
    levels = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).contiguous()
    return ((levels.float() / 255 - 0.5) / 0.5).to(dtype)
