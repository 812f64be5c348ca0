"""Drawings of the icon sets that are no emoji: which to take, and under which name."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from training.pe_nano.concepts import normalize
from training.pe_nano.sources import Drawing, IconSet, Sources
from training.pe_nano.wordlists import WORDS

OTHER_ICONS = 2500
_STYLE = re.compile(
    r"-(bold|fill|filled|outline|outlined|duotone|light|thin|regular|rounded|sharp|variant|simple|"
    r"color|multiple|\d+)$"
)
_SKIP = frozenset(WORDS["icon_words_to_skip"])
# Icons whose name means something else than the emoji of that name.
_WRONG = frozenset(WORDS["icons_with_another_meaning"])


def base_key(key: str) -> str:
    """A key without the suffixes that only say how it is drawn."""
    while (shorter := _STYLE.sub("", key)) != key:
        key = shorter
    return key


def _one_key_per_name(icons: IconSet) -> dict[str, str]:
    """Base key to the key to draw: outlines for line sets, the largest size otherwise."""
    groups: dict[str, list[str]] = {}
    for key in icons.icons:
        groups.setdefault(base_key(key), []).append(key)

    def rank(base: str, key: str) -> tuple:
        size = int(m.group(1)) if (m := re.search(r"-(\d+)$", key)) else 0
        return (key not in (f"{base}-outline", base), not key.endswith("-outline"), -size, len(key))

    return {b: min(keys, key=lambda k, b=b: rank(b, k)) for b, keys in groups.items()}


def _sensible(name: str, words: frozenset[str]) -> bool:
    tokens = name.split()
    return (
        1 <= len(tokens) <= 3
        and not any(t in _SKIP or len(t) < 3 or not t.isalpha() for t in tokens)
        and all(t in words for t in tokens)
    )


def icon_drawings(sources: Sources, source: str, words: frozenset[str]) -> Iterator[Drawing]:
    """Icons of one set: those that mean a concept, and others with a sensible name.

    `words` are words known to name things; an icon with another word in its name is left out.
    """
    icons = IconSet(sources.packages, source)
    for base, key in sorted(_one_key_per_name(icons).items()):
        name = normalize(re.sub(r"^(food|mood)-", "", base))
        concept = None if f"{source}/{key}" in _WRONG else sources.vocabulary.from_word(name)
        if concept is not None and base.startswith("mood-") and "face" not in concept.name:
            concept = None
        if concept is not None and concept.group == "symbols" and len(name) < 4:
            concept = None
        if concept is None and not _sensible(name, words):
            continue
        keys = [key, f"{base}-duotone"] if source == "ph" else [key]
        for k in (k for k in keys if k in icons.icons):
            made = icons.svg(k)
            if made is not None:
                yield Drawing(source, k, concept.name if concept else name, concept, *made)


def sample_others(drawings: list[Drawing], limit: int = OTHER_ICONS) -> list[Drawing]:
    """All drawings of concepts and at most `limit` of the rest, the same on every run."""
    others = [d for d in drawings if d.concept is None]
    random.Random(0).shuffle(others)
    return [d for d in drawings if d.concept is not None] + others[:limit]
