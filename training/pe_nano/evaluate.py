"""Retrieval scores of pe-nano on drawings: the held-out vendor and a training vendor.

    python -m training.pe_nano.evaluate --data DIR --model DIR --out scores.json

Every drawing has a name of its own. Text to image: is the drawing among the k nearest of its
name? Image to text: is the name among the k nearest of its drawing? The score is their mean.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from perception_encoder.model import DualEncoder
from perception_encoder.preprocess.tokenizer import Tokenizer


def on_white(rgba: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """(H, W, 4) drawing to (size, size, 3) on white, resized as the package does."""
    image = Image.fromarray(np.asarray(rgba))
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return np.asarray(white.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


def held_out(data: Path) -> tuple[list[NDArray[np.uint8]], list[str]]:
    """The evaluation vendor's drawings and their names."""
    images = np.load(data / "eval_images.npy", mmap_mode="r")
    lines = (data / "eval_items.jsonl").read_text(encoding="utf-8").splitlines()
    return list(images), [json.loads(line)["name"] for line in lines]


def trained_vendor(data: Path, source: str) -> tuple[list[NDArray[np.uint8]], list[str]]:
    """The unchanged drawings of a vendor that was trained on, one per concept."""
    images = np.load(data / "train_images.npy", mmap_mode="r")
    chosen: dict[str, int] = {}
    for line in (data / "train_items.jsonl").read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        if item["source"] == source and item["variant"] == "v0" and item["concept"] >= 0:
            chosen.setdefault(item["name"], item["row"])
    return [images[row] for row in chosen.values()], list(chosen)


@torch.inference_mode()
def retrieval(
    model: DualEncoder, tokenizer: Tokenizer, drawings: list[NDArray[np.uint8]], names: list[str]
) -> dict[str, Any]:
    """Top-1 and top-5 in both directions, their means, and the ranks of each name."""
    size = model.config.vision.image_size
    device = next(model.parameters()).device
    pixels = np.stack([on_white(d, size) for d in drawings]).transpose(0, 3, 1, 2)
    images = torch.cat(
        [
            model.encode_image((part.to(device).float() / 255 - 0.5) / 0.5)
            for part in torch.from_numpy(np.ascontiguousarray(pixels)).split(256)
        ]
    )
    token_ids = torch.from_numpy(tokenizer(names))
    texts = torch.cat([model.encode_text(part.to(device)) for part in token_ids.split(256)])
    scores = (F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T).float().cpu()
    own = scores.diagonal()
    ranks = {
        "image_to_text": (scores > own[:, None]).sum(1),
        "text_to_image": (scores > own[None, :]).sum(0),
    }
    result: dict[str, Any] = {"drawings": len(names)}
    for k in (1, 5):
        for direction, rank in ranks.items():
            result[f"{direction}_top{k}"] = round((rank < k).float().mean().item(), 4)
        result[f"top{k}"] = round(
            (result[f"image_to_text_top{k}"] + result[f"text_to_image_top{k}"]) / 2, 4
        )
    result["confusions"] = [
        {"drawing": names[row], "taken_for": names[int(scores[row].argmax())]}
        for row in (ranks["image_to_text"] > 0).nonzero().flatten().tolist()
    ]
    return result


def main() -> None:
    """Command line."""
    from perception_encoder.checkpoints import locate
    from perception_encoder.checkpoints.load import load_model

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True, help="a folder written by training, or pe-nano")
    parser.add_argument("--vendor", default="noto", help="the training vendor to score")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    checkpoint = locate(args.model)
    model = load_model(checkpoint).model.float()  # float16 scores would tie where none do
    assert checkpoint.tokenizer is not None, "a model that reads text has its vocabulary beside it"
    assert model.config.text is not None
    tokenizer = Tokenizer.from_file(checkpoint.tokenizer, model.config.text.context_length)
    scores = {
        "held_out_openmoji": retrieval(model, tokenizer, *held_out(args.data)),
        f"trained_{args.vendor}": retrieval(
            model, tokenizer, *trained_vendor(args.data, args.vendor)
        ),
    }
    args.out.write_text(json.dumps(scores, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, score in scores.items():
        print(name, {key: value for key, value in score.items() if key != "confusions"})


if __name__ == "__main__":
    main()
