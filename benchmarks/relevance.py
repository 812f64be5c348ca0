"""How often a relevance map points at what its text names, in scenes of two drawings.

    python -m benchmarks.relevance --packages NODE_MODULES

Each scene has two drawings of different things on a generated background, in known boxes that do
not overlap; the text names one of them. A map is enlarged to the scene bilinearly. Counted are the
pointing game (its highest pixel is in the box of the named drawing) and the share of its positive
sum that is in the box. Drawings of the gallery are cut from their plain backgrounds; OpenMoji's,
which pe-nano was not trained on, are those of the same 275 things (NODE_MODULES is that of
`training.pe_nano.fetch`; it needs the extra `training`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.report import write_report
from perception_encoder import AutoModel, EmbeddingModel
from perception_encoder.analysis.evaluation import Share, estimate_difference, estimate_share
from perception_encoder.checkpoints import locate
from perception_encoder.checkpoints.load import load_model
from perception_encoder.model.vision import VisionTower
from training.pe_nano.concepts import Vocabulary
from training.pe_nano.render import content_box, raster, resize_rgba
from training.pe_nano.sources import HELD_OUT, Sources

GALLERY = Path(__file__).parent.parent / "src/perception_encoder/data/gallery"
SIDE = 240  # of a scene, pixels
SHARES = (0.34, 0.5)  # of the side that a drawing takes

OURS = "relevance"
OTHERS = ("gradient x attention", "patch cosine")

Rgba = NDArray[np.uint8]
Floats = NDArray[np.float32]
Box = tuple[int, int, int, int]  # left, top, right, bottom, pixels


@dataclass(frozen=True)
class Scene:
    """An image and the box of the drawing that the text names."""

    image: Image.Image
    text: str
    box: Box
    other: Box


def gallery_drawings() -> dict[str, Rgba]:
    """The gallery's single drawings, by name, without their backgrounds."""
    listed = json.loads((GALLERY / "sources.json").read_text("utf-8"))["images"]
    found = {}
    for file, drawings in listed.items():
        if len(drawings) == 1:
            name = drawings[0].split("/")[1].replace("-", " ")
            found[name] = cut_out(np.asarray(Image.open(GALLERY / file).convert("RGB")))
    return found


def cut_out(image: NDArray[np.uint8]) -> Rgba:
    """A drawing without the plain background that its corners have, trimmed."""
    filled = image.copy()
    mask = np.zeros((image.shape[0] + 2, image.shape[1] + 2), np.uint8)
    height, width = image.shape[:2]
    for corner in ((0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)):
        flags = 4 | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE | (255 << 8)
        cv2.floodFill(filled, mask, corner, 0, (6, 6, 6), (6, 6, 6), flags)
    rgba = np.dstack([image, 255 - mask[1:-1, 1:-1]])
    box = content_box(rgba)
    assert box is not None
    return rgba[box[1] : box[3], box[0] : box[2]]


def openmoji_drawings(packages: Path, names: set[str]) -> dict[str, Rgba]:
    """OpenMoji's drawings of those things, trimmed."""
    found = {}
    for drawing in Sources(packages, Vocabulary(packages / "emojibase-data")).emoji(HELD_OUT):
        if drawing.name in names:
            rgba = raster(drawing.svg, SIDE, drawing.aspect)
            box = content_box(rgba)
            assert box is not None
            found[drawing.name] = rgba[box[1] : box[3], box[0] : box[2]]
    return found


def background(generator: np.random.Generator) -> NDArray[np.uint8]:
    """One of: a plain color, a gradient, soft blots, stripes."""
    first, second = generator.integers(90, 256, (2, 3)).astype(np.float32)
    kind = generator.integers(4)
    if kind == 0:
        share = np.zeros((SIDE, SIDE), np.float32)
    elif kind == 1:
        angle = generator.uniform(0, 2 * np.pi)
        rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
        share = 0.5 + 0.7 * (np.cos(angle) * columns + np.sin(angle) * rows)
    elif kind == 2:
        coarse = generator.random((6, 6)).astype(np.float32)
        share = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    else:
        angle, period = generator.uniform(0, np.pi), generator.uniform(20, 60)
        rows, columns = np.mgrid[:SIDE, :SIDE]
        share = np.sin((np.cos(angle) * columns + np.sin(angle) * rows) * 2 * np.pi / period) > 0
        share = 0.35 * share.astype(np.float32)
    share = share.clip(0, 1)[..., None]
    return (first * (1 - share) + second * share).astype(np.uint8)


def paste(
    scene: NDArray[np.uint8], rgba: Rgba, generator: np.random.Generator, taken: Box | None
) -> Box | None:
    """Put a drawing where it does not overlap `taken`; returns its box, None without a place."""
    height, width = rgba.shape[:2]
    scale = SIDE * generator.uniform(*SHARES) / max(height, width)
    height, width = max(8, round(height * scale)), max(8, round(width * scale))
    small = resize_rgba(rgba, width, height).astype(np.float32)
    for _ in range(200):
        left = int(generator.integers(0, SIDE - width + 1))
        top = int(generator.integers(0, SIDE - height + 1))
        box = (left, top, left + width, top + height)
        if taken is None or not _overlap(box, taken):
            alpha = small[..., 3:] / 255
            part = scene[top : top + height, left : left + width]
            part[:] = (small[..., :3] * alpha + part * (1 - alpha)).round().astype(np.uint8)
            return box
    return None


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def scenes(drawings: dict[str, Rgba], count: int, seed: int) -> Iterator[Scene]:
    """Yield scenes; the same seed gives the same ones."""
    generator = np.random.default_rng(seed)
    names = sorted(drawings)
    made = 0
    while made < count:
        named, other = generator.choice(names, 2, replace=False)
        canvas = background(generator)
        first = paste(canvas, drawings[named], generator, None)
        second = paste(canvas, drawings[other], generator, first)
        if first is None or second is None:
            continue
        made += 1
        yield Scene(Image.fromarray(canvas), named, first, second)


class Variants:
    """What other methods make of the tokens that pooling reads, with torch.

    "patch cosine": each patch's final token through the projection, and its cosine with the text.
    Y. Li et al., "CLIP Surgery" (2023), show that it often points at the opposite.

    "gradient x attention": the weights of the pooling attention times their gradient of the cosine,
    without negative products, mean over heads: H. Chefer, S. Gur, L. Wolf, "Generic Attention-model
    Explainability" (ICCV 2021), at the attention that pools.

    "true gradient": our contributions with the derivatives of norm and activation in the place of
    held factors.
    """

    def __init__(self, tower: VisionTower) -> None:
        self._tower = tower

    def maps(self, tokens: Floats, text: Floats) -> dict[str, Floats]:
        """(h, w) maps by the method's name, of (N, D) tokens and an (E,) text."""
        pool, x, target = self._tower.pool, torch.from_numpy(tokens), torch.from_numpy(text)
        q = pool.q(pool.probe).unflatten(-1, (pool.num_heads, -1))
        k, v = (part.unflatten(-1, (pool.num_heads, -1)) for part in pool.kv(x).chunk(2, dim=-1))
        weights = torch.einsum("mc,nmc->mn", q, k).div(q.shape[-1] ** 0.5).softmax(dim=-1)
        weights = weights.detach().requires_grad_(True)
        parts = torch.einsum("mn,nmc->nmc", weights, v).flatten(1) @ pool.out.weight.T
        u = parts.sum(0) + pool.out.bias
        e = self._tower.projection(u + pool.mlp(pool.norm(u)))
        cosine = e @ target / e.norm()
        at_weights, at_u = torch.autograd.grad(cosine, [weights, u])
        projected = self._tower.projection(x[1:])
        found = {
            "patch cosine": projected @ target / projected.norm(dim=-1),
            "gradient x attention": (weights * at_weights).clamp(min=0).mean(0)[1:],
            "true gradient": (parts @ at_u)[1:],
        }
        grid = self._tower.config.grid_size
        return {name: one.detach().numpy().reshape(grid, grid) for name, one in found.items()}


@dataclass(frozen=True)
class Verdict:
    """Where the highest pixel of a map is, and the share of its positive sum in the box."""

    is_in_box: bool
    is_in_other: bool
    energy: float


def judge(values: Floats, scene: Scene) -> Verdict:
    """Enlarge a map to the scene and compare it with the boxes."""
    image = Image.fromarray(values).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    enlarged = np.asarray(image)
    y, x = (int(place) for place in np.unravel_index(enlarged.argmax(), enlarged.shape))
    positive = np.maximum(enlarged, 0)
    left, top, right, bottom = scene.box
    total = float(positive.sum())
    energy = float(positive[top:bottom, left:right].sum()) / total if total > 0 else 0.0
    return Verdict(_overlap(scene.box, (x, y, x + 1, y + 1)),
                   _overlap(scene.other, (x, y, x + 1, y + 1)), energy)  # fmt: skip


def measure(model: EmbeddingModel, tower: VisionTower, made: list[Scene]) -> dict[str, Any]:
    """Figures of each method over scenes, with 95 % intervals."""
    variants = Variants(tower)
    texts = model.embed_text([scene.text for scene in made], show_progress=False)
    images = model.embed_images([scene.image for scene in made], show_progress=False)
    verdicts: dict[str, list[Verdict]] = {}
    largest = 0.0
    for number, scene in enumerate(made):
        explained = model.explain(scene.image, [scene.text, ""])
        cosine = float(images[number] @ texts[number])
        largest = max(largest, abs(float(explained.scores[0]) - cosine))
        maps = {
            OURS: explained.maps[0],
            "minus the empty text's": explained.maps[0] - explained.maps[1],
        }
        tokens = model.backend.pool_inputs(model.processor(scene.image)[None])[0]
        maps |= variants.maps(tokens, texts[number])
        for name, values in maps.items():
            verdicts.setdefault(name, []).append(judge(values, scene))
    areas = [(s.box[2] - s.box[0]) * (s.box[3] - s.box[1]) / SIDE**2 for s in made]
    ours = verdicts[OURS]
    return {
        "scenes": len(made),
        "box_share": round(float(np.mean(areas)), 3),
        "largest_difference_from_cosine": float(f"{largest:.1e}"),
        "methods": {name: summarize(found) for name, found in verdicts.items()},
        "relevance_minus": {name: compare(ours, verdicts[name]) for name in OTHERS},
    }


def summarize(found: list[Verdict]) -> dict[str, Any]:
    """Shares of a method, each with the ends of its interval."""
    return {
        "pointing": written(estimate_share(sum(one.is_in_box for one in found), len(found))),
        "at_other": written(estimate_share(sum(one.is_in_other for one in found), len(found))),
        "energy": written(mean_of([one.energy for one in found])),
    }


def compare(ours: list[Verdict], others: list[Verdict]) -> dict[str, Any]:
    """Differences on the same scenes, each with the ends of its interval."""
    pairs = list(zip(ours, others, strict=True))
    only_ours = sum(a.is_in_box and not b.is_in_box for a, b in pairs)
    only_theirs = sum(b.is_in_box and not a.is_in_box for a, b in pairs)
    return {
        "pointing": written(estimate_difference(only_ours, only_theirs, len(pairs))),
        "energy": written(mean_of([a.energy - b.energy for a, b in pairs])),
    }


def mean_of(values: list[float]) -> Share:
    """A mean with a normal interval."""
    mean = float(np.mean(values))
    reach = 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return Share(mean, mean - reach, mean + reach)


def written(share: Share) -> list[float]:
    """The value and the ends of its interval."""
    return [round(one, 3) for one in (share.value, share.low, share.high)]


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--packages", type=Path, required=True, help="NODE_MODULES")
    parser.add_argument("--scenes", type=int, default=500)
    given = parser.parse_args()
    gallery = gallery_drawings()
    drawings = {"gallery": gallery, "openmoji": openmoji_drawings(given.packages, set(gallery))}
    model = AutoModel.from_pretrained("pe-nano", device="cpu", backend="torch", precision="fp32")
    tower = load_model(locate("pe-nano"), dtype=torch.float32).model.vision
    figures = {
        name: measure(model, tower, list(scenes(found, given.scenes, seed=0)))
        for name, found in drawings.items()
    }
    print(json.dumps(figures, indent=1))
    path = write_report(
        "relevance",
        "how often a relevance map points at what its text names, in scenes of two drawings",
        ["torch", "numpy"],
        {"model": model.identity.fingerprint, "sets": figures},
        "each figure with the ends of its 95 % interval; nothing is timed",
    )
    print(path)


if __name__ == "__main__":
    main()
