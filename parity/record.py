"""Records golden outputs of the original implementations on formula weights: `make parity`.

Writes one `NAME.npz` per model, `images.npz`, `photos.npz` and `texts.npz` (end to end), and
`MANIFEST.json` into a folder. What each array is: `tests/golden/README.md`. Knows nothing about our
own package: the tests do the comparing.
"""

import argparse
import hashlib
import json
import logging
import os
import time
from pathlib import Path

import agree
import end_to_end
import formula
import numpy as np
import originals
import torch
from torch import Tensor, nn
from torch.nn import functional

Arrays = dict[str, np.ndarray]

END_TO_END = "end-to-end"

logger = logging.getLogger("parity")


def main() -> None:
    """Record everything, or the names given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=formula.GOLDEN)
    parser.add_argument("--photos", type=Path, default=os.environ.get("PARITY_PHOTOS"))
    parser.add_argument("only", nargs="*", help=f"models, or {END_TO_END!r}; default: everything")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only or [*originals.PE_MODELS, *originals.CLIP_MODELS, END_TO_END]:
        began = time.monotonic()
        if name == END_TO_END:
            end_to_end.record(options.out, Path(options.photos) if options.photos else None)
        else:
            record(name, options.out)
        logger.info("%s recorded in %.0f s", name, time.monotonic() - began)
    write_manifest(options.out, agreement=None if options.only else agree.measure())


def record(name: str, out: Path) -> None:
    """Record one model under every naming it exists in."""
    keys: dict[str, originals.Keys] = {}
    arrays: Arrays = {}
    if name in originals.CLIP_MODELS:
        config: dict[str, object] = {"open_clip": originals.CLIP_MODELS[name]}
        model = originals.build_clip(originals.CLIP_MODELS[name])
        keys["openclip"] = originals.keys_of(model)
        size, context = model.visual.image_size[0], model.context_length
        arrays |= named("openclip", both_towers(model, size, context))
    else:
        numbers = originals.PE_MODELS[name]
        config = {field: getattr(numbers, field) for field in numbers.__slots__ if field != "text"}
        config["text"] = numbers.text and {
            f: getattr(numbers.text, f) for f in numbers.text.__slots__
        }
        for naming, build, outputs in (
            ("openclip", originals.build_open_clip, open_clip_outputs),
            ("meta", originals.build_meta, meta_outputs),
        ):
            model = build(numbers)
            keys[naming] = originals.keys_of(model)
            arrays |= named(naming, outputs(model, numbers))
            del model  # two copies of L14 at once would need 6 GB
    header = json.dumps({"config": config, "keys": keys})
    np.savez_compressed(out / f"{name}.npz", header=np.array(header), **arrays)


@torch.inference_mode()
def both_towers(model: nn.Module, size: int, context: int) -> Arrays:
    """Embed two square images and the formula's texts."""
    images = model.encode_image(formula_pixels(size, size))
    texts = model.encode_text(torch.from_numpy(formula.token_ids(context)))
    return {**unit_and_norm("image", images), **unit_and_norm("text", texts)}


@torch.inference_mode()
def open_clip_outputs(model: nn.Module, numbers: originals.Pe) -> Arrays:
    """Outputs of open_clip, or of timm's tower alone.

    At the native grid only: for another, timm rescales rope to the pretraining grid
    (`ref_feat_shape`) and resizes positions bicubically. Meta's code does neither; we follow Meta.
    """
    pixels = formula_pixels(numbers.image_size, numbers.image_size)
    tower = model if numbers.text is None else model.visual.trunk
    tokens = tower.forward_features(pixels)[:, int(numbers.use_cls_token) :]
    arrays = summary("features", tokens)
    if numbers.text is not None:
        arrays |= both_towers(model, numbers.image_size, numbers.text.context_length)
    return arrays


@torch.inference_mode()
def meta_outputs(model: nn.Module, numbers: originals.Pe) -> Arrays:
    """Outputs of Meta's code: embeddings, patch features of three layers, and a non-square grid."""
    tower = model if numbers.text is None else model.visual
    size, patch = numbers.image_size, numbers.patch_size
    pixels, other = formula_pixels(size, size), formula_pixels(patch * 6, patch * 11)
    arrays: Arrays = {}
    for label, layer in (("features", -1), ("features_layer_-2", -2), ("features_layer_0", 0)):
        tokens = tower.forward_features(pixels, norm=True, layer_idx=layer, strip_cls_token=True)
        arrays |= summary(label, tokens)
    tokens = tower.forward_features(other, norm=True, strip_cls_token=True)
    arrays |= summary("grid_6x11/features", tokens)
    if numbers.text is not None:
        arrays |= both_towers(model, size, numbers.text.context_length)
        arrays |= unit_and_norm("grid_6x11/image", model.encode_image(other))
    return arrays


def formula_pixels(height: int, width: int) -> Tensor:
    """Two formula images, (2, 3, height, width) in [-1, 1]."""
    return torch.from_numpy(formula.pixels(2, height, width))


def unit_and_norm(label: str, vectors: Tensor) -> Arrays:
    """Unit rows and their lengths: together they are the unnormalised output, at half its size."""
    return {
        label: functional.normalize(vectors, dim=-1).numpy(),
        f"{label}_norm": vectors.norm(dim=-1).numpy(),
    }


def summary(label: str, tokens: Tensor) -> Arrays:
    """Cut (B, N, width) features down: 16 numbers of 3 patches, the mean patch, the spread."""
    return {
        f"{label}/patches": tokens[:, [0, 1, -1], :16].numpy(),
        f"{label}/mean": tokens.mean(dim=1)[:, :64].numpy(),
        f"{label}/std": tokens.std(dim=(1, 2)).numpy(),
    }


def named(prefix: str, arrays: Arrays) -> Arrays:
    """Put a naming in front of every array's name."""
    return {f"{prefix}/{name}": array for name, array in arrays.items()}


def write_manifest(out: Path, *, agreement: dict[str, object] | None) -> None:
    """Say what the numbers came from. A partial run keeps the agreement measured before."""
    path = out / "MANIFEST.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    probe = formula.fill("probe.weight", (1000, 7)).tobytes()
    manifest = {
        "versions": originals.versions(),
        "sources": originals.SOURCES,
        "formula_probe_sha256": hashlib.sha256(probe).hexdigest(),
        "agreement": agreement or before.get("agreement"),
        "files": {
            file.name: {
                "bytes": file.stat().st_size,
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            }
            for file in sorted(out.glob("*.npz"))
            if file.stem in (*originals.PE_MODELS, *originals.CLIP_MODELS, *end_to_end.FILES)
        },
    }
    path.write_text(json.dumps(manifest, indent=2) + "\n")


if __name__ == "__main__":
    main()
