"""The drawings of the iconify packages: (source, key, name, concept, svg).

Each package holds SVG bodies by key; `chars.json` maps code points to keys where it exists.
OpenMoji is read with the same code, for evaluation only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from training.pe_nano.concepts import Concept, Vocabulary, normalize, plain_hex
from training.pe_nano.wordlists import WORDS

EMOJI_SETS = ("noto", "noto-v1", "twemoji", "fluent-emoji", "fluent-emoji-flat", "fxemoji",
              "fluent-emoji-high-contrast")  # fmt: skip
FLAG_SETS = ("circle-flags", "flag", "cif", "flagpack")
ICON_SETS = ("flat-color-icons", "fluent-color", "ph", "tabler", "mdi")
HELD_OUT = "openmoji"
MONOCHROME = frozenset({"ph", "tabler", "mdi", "fluent-emoji-high-contrast"})
MAX_BYTES = 300_000

# Keys of fxemoji that no public name of the emoji spells, or that spell another one.
_FXEMOJI: dict[str, str] = WORDS["fxemoji_keys"]


@dataclass(frozen=True)
class Drawing:
    """One drawing and what it is of."""

    source: str
    key: str
    name: str
    concept: Concept | None
    svg: str
    aspect: float
    keywords: tuple[str, ...] = field(default=())


class IconSet:
    """One iconify package."""

    def __init__(self, packages: Path, name: str) -> None:
        self.name, self.folder = name, packages / "@iconify-json" / name
        data = json.loads((self.folder / "icons.json").read_text("utf-8"))
        self.icons, self.aliases = data["icons"], data.get("aliases", {})
        self.size = (data.get("width", 16), data.get("height", 16))
        chars = self.folder / "chars.json"
        self.chars: dict[str, str] = json.loads(chars.read_text("utf-8")) if chars.is_file() else {}

    def svg(self, key: str) -> tuple[str, float] | None:
        """Markup and aspect of an icon, with the flips of an alias; None if there is none."""
        chain: list[dict] = []
        while key in self.aliases and len(chain) < 5:
            chain.append(self.aliases[key])
            key = self.aliases[key]["parent"]
        icon = self.icons.get(key)
        if icon is None or icon.get("hidden") or len(icon["body"]) > MAX_BYTES:
            return None
        x, y = icon.get("left", 0), icon.get("top", 0)
        w, h = icon.get("width", self.size[0]), icon.get("height", self.size[1])
        body = icon["body"].replace("currentColor", "#000000")
        for step in [*reversed(chain), icon]:
            body = _turned(body, step, (x, y, w, h))
        head = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{x} {y} {w} {h}" width="{w}" height="{h}">'
        )
        return head + body + "</svg>", w / h


def _turned(body: str, step: dict, box: tuple[float, float, float, float]) -> str:
    x, y, w, h = box
    if step.get("hFlip"):
        body = f'<g transform="matrix(-1 0 0 1 {2 * x + w} 0)">{body}</g>'
    if step.get("vFlip"):
        body = f'<g transform="matrix(1 0 0 -1 0 {2 * y + h})">{body}</g>'
    if step.get("rotate"):
        body = f'<g transform="rotate({90 * step["rotate"]} {x + w / 2} {y + h / 2})">{body}</g>'
    return body


class Sources:
    """All iconify packages with the vocabulary they are mapped to."""

    def __init__(self, packages: Path, vocabulary: Vocabulary) -> None:
        self.packages, self.vocabulary = packages, vocabulary
        self.slugs: dict[str, str] = {}
        for name in ("noto", "twemoji", "fluent-emoji-flat"):
            for code, key in IconSet(packages, name).chars.items():
                self.slugs.setdefault(key, plain_hex(code))

    def concept_keys(self, icons: IconSet) -> dict[int, str]:
        """Concept index to the key of its drawing in an emoji set."""
        found: dict[int, str] = {}
        for code, key in sorted(icons.chars.items()):
            concept = self.vocabulary.from_hex(code)
            if concept is not None:
                found.setdefault(concept.index, key)
        for key in sorted([*icons.icons, *icons.aliases], key=lambda k: k not in _FXEMOJI):
            concept = self._concept_of_slug(icons.name, key)
            if concept is not None:
                found.setdefault(concept.index, key)
        return found

    def _concept_of_slug(self, source: str, key: str) -> Concept | None:
        if source == "fxemoji":
            if key in _FXEMOJI:
                return self.vocabulary.by_name.get(_FXEMOJI[key])
            return self.vocabulary.from_squashed(key)
        if key in self.slugs:
            return self.vocabulary.from_hex(self.slugs[key])
        name = normalize(re.sub(r"^flag-(for-)?", "flag of ", key))
        return self.vocabulary.by_name.get(name)

    def emoji(self, source: str) -> Iterator[Drawing]:
        """One drawing per concept of an emoji set."""
        icons = IconSet(self.packages, source)
        for index, key in sorted(self.concept_keys(icons).items()):
            made = icons.svg(key)
            if made is not None:
                concept = self.vocabulary.concepts[index]
                yield Drawing(source, key, concept.name, concept, *made)

    def flags(self, source: str) -> Iterator[Drawing]:
        """Country flags of a flag set; of two aspects only the wide one."""
        icons = IconSet(self.packages, source)
        for key in icons.icons:
            if key.endswith("-1x1"):
                continue
            concept = self.vocabulary.from_country(key.removesuffix("-4x3"))
            made = icons.svg(key)
            if concept is not None and made is not None:
                yield Drawing(source, key, concept.name, concept, *made)


def licenses(packages: Path, names: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """What each package states of itself."""
    out = {}
    for name in names:
        folder = packages / "@iconify-json" / name
        info = json.loads((folder / "info.json").read_text("utf-8"))
        version = json.loads((folder / "package.json").read_text("utf-8"))["version"]
        out[name] = {
            "package": f"@iconify-json/{name}",
            "version": version,
            "license": info["license"].get("spdx", info["license"]["title"]),
            "author": info["author"]["name"],
            "url": info["author"].get("url", ""),
        }
    return out
