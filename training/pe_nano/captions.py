"""Sentences for drawings: names, keywords and what stands where. Knows nothing about pixels."""

import random
from typing import Any

TEMPLATES = (
    "{}",
    "{}",
    "{}",
    "a {}",
    "the {}",
    "a drawing of {}",
    "a picture of {}",
    "an icon of {}",
    "{} icon",
    "a cartoon of a {}",
)
PLACES = (
    ("a {} left of a {}", False),
    ("{} and {}", False),
    ("a {} above a {}", True),
    ("a {} next to a {}", False),
)


class Captioner:
    """Writes a caption for a row of `train_items.jsonl`."""

    def __init__(self, concepts: list[dict[str, Any]], seed: int) -> None:
        self.concepts = concepts
        self.random = random.Random(seed)

    def describe(self, item: dict[str, Any], background: str | None) -> str:
        """A sentence for one drawing; the background's color is named where one is given."""
        caption = self._subject(item)
        if background is not None and self.random.random() < 0.5:
            caption = f"{caption} on a {background} background"
        return caption

    def _subject(self, item: dict[str, Any]) -> str:
        name: str = item["name"]
        if item["concept"] >= 0:
            words: list[str] = self.concepts[item["concept"]]["tags"]
        else:
            words = item.get("keywords", [])
        roll = self.random.random()
        if words and roll < 0.15:
            return ", ".join([name, *self.random.sample(words, min(len(words), 2))])
        if words and roll < 0.22:
            return ", ".join(self.random.sample(words, min(len(words), 4)))
        return self.random.choice(TEMPLATES).format(name)

    def scene(self, first: str, second: str) -> tuple[str, bool]:
        """A sentence for two drawings, and whether the first stands above the second."""
        template, is_vertical = self.random.choice(PLACES)
        if "and" in template or "next" in template:
            is_vertical = self.random.random() < 0.3
        return template.format(first, second), is_vertical


def all_texts(concepts: list[dict[str, Any]], items: list[dict[str, Any]]) -> list[str]:
    """What the vocabulary is learned from: every name, keyword, template and color."""
    texts = [c["name"] for c in concepts for _ in range(4)]
    texts += [tag for c in concepts for tag in c["tags"]]
    texts += [item["name"] for item in items if item["concept"] < 0]
    texts += [word for item in items for word in item.get("keywords", [])]
    texts += [t.format("picture") for t in TEMPLATES for _ in range(20)]
    texts += [t.format("one", "other") for t, _ in PLACES for _ in range(20)]
    texts += [f"{name} on a {name} background" for name in COLORS for _ in range(20)]
    return texts


COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 48, 49),
    "orange": (240, 147, 43),
    "yellow": (246, 215, 76),
    "green": (64, 160, 80),
    "blue": (52, 110, 210),
    "purple": (128, 70, 170),
    "pink": (244, 160, 190),
    "brown": (130, 88, 56),
    "black": (20, 20, 22),
    "grey": (140, 140, 144),
}
