"""Records the way from a file's bytes, or a text, to a vector, with the originals' preprocessing.

Pixels are recorded as a hash (equal only if every bit is) and as samples (to say how far off a
mismatch is). Knows nothing about our own package.
"""

import hashlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path

import images
import numpy as np
import open_clip
import originals
import torch
from open_clip.pretrained import get_pretrained_cfg
from open_clip.transform import image_transform
from PIL import Image, UnidentifiedImageError
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms import Compose

Arrays = dict[str, np.ndarray]

HEAD = 128  # leading dimensions of a vector that are kept: enough to compare, an eighth of the size
FILES = ("images", "photos", "texts")  # written here, as .npz
SAMPLES = 97  # prime, so that samples do not all fall into one column of the image
PIPELINES = {"pe": ("PE-Core-B-16", "meta"), "clip": ("ViT-B-32-quickgelu", "openai")}
TEXTS = (
    "a",
    "a photo of a dog",
    "",
    "  Two   cats,\tone SOFA \n",
    "naïve café — “quoted” … ½ ﬁne",
    "ÃƒÂ© mojibake Ã©tÃ©",
    "&lt;b&gt; &amp;amp; tom &amp; jerry",
    "日本語のテキスト и русский 한국어",
    "👩‍👩‍👧‍👦 family 🏳️‍🌈 emoji",
    "it's we'll they've 12345 3.14 a_b #tag @user",
    "<|startoftext|> spelled <|endoftext|> special",
    " ".join(f"word{number}" for number in range(200)),
)

logger = logging.getLogger("parity")


def record(out: Path, photos: Path | None) -> None:
    """Record `images.npz` (made by code), `photos.npz` (a folder, if given) and `texts.npz`."""
    images.write(out / "images")
    models = {key: open_clip_model(*pipeline) for key, pipeline in PIPELINES.items()}
    save_images(out / "images.npz", sorted((out / "images").iterdir()), models)
    if photos is not None:
        save_images(out / "photos.npz", sorted(photos.iterdir()), models)
    save_texts(out / "texts.npz", models)


def open_clip_model(name: str, tag: str) -> tuple[nn.Module, Compose]:
    """Build a formula-filled model with the preprocessing its pretrained tag asks for."""
    model = originals.build_clip(name)
    wanted = get_pretrained_cfg(name, tag)
    options = {key: wanted[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    return model, image_transform(model.visual.image_size, is_train=False, **options)


def save_images(
    path: Path, files: Iterable[Path], models: dict[str, tuple[nn.Module, Compose]]
) -> None:
    """Embed every file in both pipelines."""
    rows: list[dict[str, object]] = []
    arrays: dict[str, list[np.ndarray]] = {}
    for file in files:
        try:
            image = Image.open(file)
        except UnidentifiedImageError:
            continue
        row: dict[str, object] = {
            "file": file.name,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "mode": image.mode,
            "size": image.size,
        }
        for key, (model, transform) in models.items():
            row[f"{key}_pixels_sha256"] = pixels_hash(image, transform)
            for name, array in one_image(model, transform(image)).items():
                arrays.setdefault(f"{key}/{name}", []).append(array)
        rows.append(row)
        logger.info("embedded %s", file.name)
    save(path, rows, arrays)


@torch.inference_mode()
def one_image(model: nn.Module, pixels: Tensor) -> Arrays:
    """Embed one prepared image; keep samples of its pixels and the head of its vector."""
    vector = functional.normalize(model.encode_image(pixels[None]), dim=-1)[0]
    flat = pixels.reshape(-1)
    return {
        "pixel_samples": flat[:: flat.numel() // SAMPLES][:SAMPLES].numpy(),
        "pixel_mean": pixels.double().mean(dim=(1, 2)).float().numpy(),
        "embedding_head": vector[:HEAD].numpy(),
    }


def pixels_hash(image: Image.Image, transform: Compose) -> str:
    """Hash the uint8 RGB image as it is just before it becomes a tensor."""
    *geometry, _to_tensor, _normalize = transform.transforms
    prepared = Compose(geometry)(image)
    return hashlib.sha256(prepared.tobytes()).hexdigest()


@torch.inference_mode()
def save_texts(path: Path, models: dict[str, tuple[nn.Module, Compose]]) -> None:
    """Tokenize and embed the texts in both pipelines."""
    arrays: dict[str, list[np.ndarray]] = {}
    for key, (model, _) in models.items():
        ids = open_clip.get_tokenizer(PIPELINES[key][0])(list(TEXTS))
        vectors = functional.normalize(model.encode_text(ids), dim=-1)
        arrays[f"{key}/token_ids"] = list(ids.to(torch.int32).numpy())
        arrays[f"{key}/embedding_head"] = list(vectors[:, :HEAD].numpy())
    save(path, [{"text": text} for text in TEXTS], arrays)


def save(path: Path, rows: list[dict[str, object]], arrays: dict[str, list[np.ndarray]]) -> None:
    """Write rows as a JSON header and the arrays stacked, one line per row."""
    header = json.dumps({"pipelines": {k: v[0] for k, v in PIPELINES.items()}, "rows": rows})
    stacked = {name: np.stack(parts) for name, parts in arrays.items()}
    np.savez_compressed(path, header=np.array(header), **stacked)
