"""Batches from a prepared folder, which is made here from discs and squares."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from training.pe_nano.batches import BatchMaker, Drawings

CONCEPTS = ("red circle", "dog", "cat", "house", "tree", "car", "fish", "sun")


def image(color: tuple[int, int, int], *, side: int = 72, ink: int = 40) -> np.ndarray:
    rgba = np.zeros((side, side, 4), np.uint8)
    start = (side - ink) // 2
    rgba[start : start + ink, start : start + ink] = (*color, 255)
    return rgba


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets with two variants of each concept, three clip arts, one empty drawing."""
    folder = tmp_path_factory.mktemp("prepared")
    items, images = [], []
    for index, name in enumerate(CONCEPTS):
        for source in ("noto", "twemoji"):
            for variant in ("v0", "v3"):
                images.append(image((200, 30 * index, 90)))
                items.append(
                    {"source": source, "variant": variant, "concept": index, "name": name,
                     "key": name}
                )  # fmt: skip
    for key in ("windmill", "lighthouse", "well"):
        images.append(image((60, 60, 200)))
        items.append(
            {"source": "openclipart", "variant": "v0", "concept": -1, "name": key, "key": key,
             "keywords": ["farm"]}
        )  # fmt: skip
    images.append(image((0, 0, 0), ink=2))
    items.append({"source": "mdi", "variant": "v0", "concept": -1, "name": "dust", "key": "dust"})
    np.save(folder / "train_images.npy", np.stack(images))
    lines = [json.dumps({"row": row, **item}) for row, item in enumerate(items)]
    (folder / "train_items.jsonl").write_text("\n".join(lines) + "\n")
    concepts = [{"name": name, "tags": [], "directional": False} for name in CONCEPTS]
    (folder / "concepts.json").write_text(json.dumps(concepts))
    return folder


def test_line_art_of_a_colored_thing_and_nearly_empty_drawings_are_left_out(
    prepared: Path,
) -> None:
    drawings = Drawings(prepared)
    used = {row for vendors in drawings.by_concept.values() for rows in vendors for row in rows}
    styles = {(drawings.items[row]["name"], drawings.items[row]["variant"]) for row in used}

    assert ("red circle", "v0") in styles
    assert ("red circle", "v3") not in styles
    assert ("dog", "v3") in styles
    assert len(drawings.others) == 3


@pytest.mark.parametrize(("batch_size", "side"), [(9, 48), (5, 32)])
def test_a_batch_holds_different_concepts_and_the_asked_side(
    prepared: Path, batch_size: int, side: int
) -> None:
    maker = BatchMaker(Drawings(prepared), batch_size, side, seed=0)
    for _ in range(10):
        images, captions, concepts = maker()
        known = concepts[concepts >= 0].tolist()

        assert images.shape == (batch_size, side, side, 3)
        assert images.dtype == np.uint8
        assert len(captions) == batch_size
        assert concepts.dtype == np.int64
        assert len(known) == len(set(known)) <= int(0.85 * batch_size)
        for caption, concept in zip(captions, concepts.tolist(), strict=True):
            assert concept < 0 or CONCEPTS[concept] in caption


def test_the_side_may_grow_between_batches(prepared: Path) -> None:
    maker = BatchMaker(Drawings(prepared), 4, 32, seed=0)
    maker()
    maker.size = 48

    assert maker().images.shape == (4, 48, 48, 3)


def test_the_same_seed_makes_the_same_batches_also_ahead_of_time(prepared: Path) -> None:
    # In a process of its own, as training is: workers are forked, and other tests start threads.
    code = """
import sys
from pathlib import Path
import numpy as np, torch
from training.pe_nano.batches import BatchMaker, Drawings, batches_ahead

drawings = Drawings(Path(sys.argv[1]))
now = BatchMaker(drawings, 6, 32, seed=11)
side = torch.tensor(32).share_memory_()
ahead = batches_ahead(drawings, 6, side, seed=11, num_workers=1)
for _ in range(3):
    expected, made = now(), next(ahead)
    np.testing.assert_array_equal(expected.images, made.images)
    assert expected.captions == made.captions
side.fill_(48)
assert any(next(ahead).images.shape == (6, 48, 48, 3) for _ in range(20))
"""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", code, str(prepared)]
    subprocess.run(command, cwd=root, check=True, timeout=200)
