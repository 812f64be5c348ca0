"""Endless training batches: images, captions and concept numbers, made ahead of their use."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from training.pe_nano.augment import Augmenter
from training.pe_nano.captions import COLORS, Captioner

SCENE_SHARE = 0.08
CONCEPT_SHARE = 0.85
LEFT, RIGHT = (0.0, 0.2, 0.5, 0.6), (0.5, 0.2, 0.5, 0.6)
ABOVE, BELOW = (0.2, 0.0, 0.6, 0.5), (0.2, 0.5, 0.6, 0.5)
MIN_VISIBLE_PIXELS = 40
WHOLE = (0.0, 0.0, 1.0, 1.0)


class Batch(NamedTuple):
    """`images` (B, S, S, 3) uint8; `captions` B strings; `concepts` (B,) int64, -1 for others."""

    images: NDArray[np.uint8]
    captions: list[str]
    concepts: NDArray[np.int64]


class Drawings:
    """The prepared drawings, grouped so that each vendor of a concept is equally likely."""

    def __init__(self, folder: Path) -> None:
        self.images = np.load(folder / "train_images.npy", mmap_mode="r")
        lines = (folder / "train_items.jsonl").read_text(encoding="utf-8").splitlines()
        self.items: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self.concepts: list[dict[str, Any]] = json.loads((folder / "concepts.json").read_text())
        by_concept: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        others: dict[tuple[str, str], list[int]] = defaultdict(list)
        for row, item in enumerate(self.items):
            if not _is_usable(item, self.images[row]):
                continue
            if item["concept"] >= 0:
                by_concept[item["concept"]][item["source"]].append(row)
            else:
                others[item["source"], item["key"]].append(row)
        self.concept_ids = np.array(sorted(by_concept))
        self.by_concept = {c: list(vendors.values()) for c, vendors in by_concept.items()}
        self.others = list(others.values())

    def sample_concept(self, concept: int, rng: np.random.Generator) -> int:
        """A random row of a concept."""
        vendors = self.by_concept[concept]
        rows = vendors[rng.integers(len(vendors))]
        return rows[rng.integers(len(rows))]


def _is_usable(item: dict[str, Any], image: NDArray[np.uint8]) -> bool:
    """Line art of a "green heart" has lost its color, and a few drawings are nearly empty."""
    if item["variant"] == "v3" and not COLORS.keys().isdisjoint(item["name"].split()):
        return False
    return int((image[..., 3] > 0).sum()) >= MIN_VISIBLE_PIXELS


class BatchMaker:
    """Makes batches; `size` is the image's side and may be changed between batches."""

    def __init__(self, drawings: Drawings, batch_size: int, size: int, seed: int) -> None:
        self.drawings, self.batch_size, self.size = drawings, batch_size, size
        self.rng = np.random.default_rng(seed)
        self.augmenter = Augmenter(seed + 1)
        self.captioner = Captioner(drawings.concepts, seed + 2)

    def __call__(self) -> Batch:
        """Make one batch; no concept and no other drawing occurs twice, scenes aside."""
        num_concepts = int(self.batch_size * CONCEPT_SHARE)
        data, rng = self.drawings, self.rng
        concepts = rng.choice(data.concept_ids, num_concepts, replace=False)
        rows = [data.sample_concept(int(c), rng) for c in concepts]
        groups = rng.choice(len(data.others), self.batch_size - num_concepts, replace=False)
        rows += [data.others[g][rng.integers(len(data.others[g]))] for g in groups]
        made = [self._image(row) for row in rows]
        return Batch(
            np.stack([image for image, _, _ in made]),
            [caption for _, caption, _ in made],
            np.array([concept for _, _, concept in made]),
        )

    def _image(self, row: int) -> tuple[NDArray[np.uint8], str, int]:
        item, rng = self.drawings.items[row], self.rng
        if item["concept"] >= 0 and rng.random() < SCENE_SHARE:
            return self._scene(row)
        name = None
        if rng.random() < 0.2 and item["source"] not in ("ph", "tabler", "mdi"):
            name = list(COLORS)[rng.integers(len(COLORS))]
        background = self.augmenter.background(self.size, COLORS[name] if name else None)
        image = self.augmenter.compose([self._placed(row, WHOLE)], background)
        return image, self.captioner.describe(item, name), item["concept"]

    def _scene(self, row: int) -> tuple[NDArray[np.uint8], str, int]:
        data = self.drawings
        other = data.sample_concept(int(self.rng.choice(data.concept_ids)), self.rng)
        names = data.items[row]["name"], data.items[other]["name"]
        caption, is_vertical = self.captioner.scene(*names)
        boxes = (ABOVE, BELOW) if is_vertical else (LEFT, RIGHT)
        layers = [self._placed(row, boxes[0]), self._placed(other, boxes[1])]
        background = self.augmenter.background(self.size, None)
        return self.augmenter.compose(layers, background), caption, -1

    def _placed(self, row: int, box: tuple[float, float, float, float]) -> NDArray[np.float32]:
        item, data = self.drawings.items[row], self.drawings
        directional = item["concept"] < 0 or data.concepts[item["concept"]]["directional"]
        flip = not directional and self.rng.random() < 0.3
        return self.augmenter.place(np.asarray(data.images[row]), self.size, box, flip=flip)


class _BatchStream(IterableDataset[Batch]):
    """Batches without end; each worker process makes its own."""

    def __init__(self, drawings: Drawings, batch_size: int, side: Tensor, seed: int) -> None:
        self._drawings, self._batch_size, self._side, self._seed = drawings, batch_size, side, seed

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        number = worker.id if worker is not None else 0
        maker = BatchMaker(self._drawings, self._batch_size, 0, self._seed + 1000 * number)
        while True:
            maker.size = int(self._side)
            yield maker()


def batches_ahead(
    drawings: Drawings, batch_size: int, side: Tensor, *, seed: int, num_workers: int
) -> Iterator[Batch]:
    """Make batches on worker processes, a few ahead of their use.

    Args:
        drawings: what they show.
        batch_size: images in each.
        side: scalar int64 in shared memory: the images' side, which may change on the way.
        seed: worker 0 makes what `BatchMaker` makes from it.
        num_workers: one keeps two CPU cores busy; a GPU eats what a dozen make.
    """
    stream = _BatchStream(drawings, batch_size, side, seed)
    return iter(
        DataLoader(
            stream,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=num_workers,
            prefetch_factor=4,
        )
    )


def _as_it_is(batch: Batch) -> Batch:
    return batch
