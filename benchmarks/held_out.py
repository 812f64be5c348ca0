"""Embedded drawings of a style that pe-nano has never seen: OpenMoji, by kind.

The kinds are emojibase's subgroups ("animal-bird"), those with enough drawings to measure with.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

STYLE = "openmoji"


@dataclass(frozen=True)
class HeldOut:
    """Drawings and their kinds.

    Attributes:
        model: its id and fingerprint.
        embeddings: (N, E) float32 of unit length.
        numbers: (N,) the number of each drawing's kind; -1 for a kind of too few drawings.
        kinds: K names.
        texts: (K, E) float32 of unit length, embeddings of the names.
    """

    model: str
    embeddings: np.ndarray
    numbers: np.ndarray
    kinds: list[str]
    texts: np.ndarray


def parse_arguments(about: str) -> argparse.Namespace:
    """Read where the packages of `training.pe_nano.fetch` and the rendered drawings are."""
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("--packages", type=Path, required=True, help="node_modules folder")
    parser.add_argument("--cache", type=Path, required=True, help="for rendered drawings")
    return parser.parse_args()


def load_held_out(
    packages: Path, cache: Path, fewest: int, *, keep_others: bool = False
) -> HeldOut:
    """Render and embed the drawings of all kinds that have at least `fewest`, or all drawings."""
    from perception_encoder import AutoModel
    from training.pe_nano.concepts import Vocabulary
    from training.pe_nano.sources import Sources

    vocabulary = Vocabulary(packages / "emojibase-data")
    rendered = _render(Sources(packages, vocabulary), cache)
    entries = json.loads((packages / "emojibase-data" / "en" / "data.json").read_text("utf-8"))
    groups = json.loads((packages / "emojibase-data" / "meta" / "groups.json").read_text("utf-8"))
    subgroup = {
        one["hexcode"]: groups["subgroups"].get(str(one.get("subgroup"))) for one in entries
    }
    kind_of = {index: subgroup.get(vocabulary.concepts[index].hexcode) for index in rendered}
    names, counts = np.unique([kind for kind in kind_of.values() if kind], return_counts=True)
    kinds = [str(name) for name, count in zip(names, counts, strict=True) if count >= fewest]
    chosen = [index for index, kind in kind_of.items() if keep_others or kind in kinds]
    number_of = {kind: number for number, kind in enumerate(kinds)}
    model = AutoModel.from_pretrained("pe-nano", device="cpu", precision="fp32")
    images = [Image.fromarray(rendered[index]) for index in chosen]
    return HeldOut(
        model=f"{model.identity.model_id} {model.identity.fingerprint}",
        embeddings=model.embed_images(images, show_progress=False),
        numbers=np.array([number_of.get(kind_of[index], -1) for index in chosen]),
        kinds=kinds,
        texts=model.embed_text([kind.replace("-", " ") for kind in kinds], show_progress=False),
    )


def _render(sources, cache: Path) -> dict[int, np.ndarray]:
    from training.pe_nano.prepare import render_drawing

    path = cache / f"{STYLE}.npz"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        made = {}
        for drawing in sources.emoji(STYLE):
            _, images = render_drawing(drawing)
            if "v0" in images:
                made[str(drawing.concept.index)] = images["v0"]
        np.savez(path, **made)
    with np.load(path) as stored:
        return {int(name): stored[name] for name in stored.files}
