"""The vocabulary of drawing names.

Reads emojibase-data (MIT) and gives one concept per emoji that has no skin tone: a canonical
lower-case name, its code points, its tags and whether mirroring a drawing of it would make the
drawing wrong. Also answers which concept a vendor's key, an ISO country code or a word means.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from training.pe_nano.wordlists import WORDS

GROUPS = {
    0: "smileys-emotion",
    1: "people-body",
    2: "component",
    3: "animals-nature",
    4: "food-drink",
    5: "travel-places",
    6: "activities",
    7: "objects",
    8: "symbols",
    9: "flags",
}
GEOMETRIC = 96  # emojibase's subgroup of circles, squares and diamonds
SHORTCODE_SETS = ("cldr", "emojibase", "github", "iamcal", "joypixels")
SUBDIVISIONS = {"gb-eng": "england", "gb-sct": "scotland", "gb-wls": "wales"}

_KEYCAPS = {"keycap: #": "keycap hash", "keycap: *": "keycap asterisk"}
_DIRECTED = re.compile(
    r"\b(left|right|leftwards|rightwards|arrow|oclock|thirty|clock|keycap|button|sign|letters?|"
    r"text|facing|moon|quarter|globe|map|calendar|newspaper|musical?|note|notes|score|chart|"
    r"banknote|dollar|euro|pound|yen|question|mark|points|email|e mail|books?|card|cards|"
    r"mahjong|ticket|tickets|numbers?|input|abc|speech|anger|page|memo|writing|bookmark|"
    r"magnifying|zzz|receipt|scroll|placard|atm|pager|computer mouse|keyboard|ruler)\b"
)

# Shortcodes that mean something else as the name of an icon or a clip art title, and words that
# are no shortcode but mean a concept.
_NOT_ALIASES = frozenset(WORDS["concepts_not_meant_by_word"])
_EXTRA_ALIASES: dict[str, str] = WORDS["words_for_concepts"]


@dataclass(frozen=True)
class Concept:
    """One name of the vocabulary."""

    index: int
    name: str
    hexcode: str
    tags: tuple[str, ...]
    group: str
    directional: bool

    def as_json(self) -> dict[str, object]:
        """The entry of `concepts.json`."""
        return {
            "name": self.name,
            "hexcode": self.hexcode,
            "tags": list(self.tags),
            "group": self.group,
            "directional": self.directional,
        }


def normalize(text: str) -> str:
    """Lower case ASCII words separated by single spaces."""
    text = text.replace("&", " and ").replace("’", "").replace("'", "")
    text = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    text = text.encode("ascii", "ignore").decode().lower()
    return " ".join(re.findall(r"[a-z0-9]+", text))


def squash(text: str) -> str:
    """A name without anything between its letters, for keys written in one word."""
    return normalize(text).replace(" ", "")


def plain_hex(code: str) -> str:
    """Code points as lower case hexadecimal, without variation selectors."""
    return "-".join(p for p in code.lower().split("-") if p != "fe0f")


def canonical_name(label: str) -> str:
    """The concept's name for an emojibase label."""
    if label in _KEYCAPS:
        return _KEYCAPS[label]
    if label.startswith("flag: "):
        label = "flag of " + label[len("flag: ") :]
    return normalize(label)


def _is_directional(name: str, group: int, subgroup: int | None) -> bool:
    if group == 9:
        return True
    if group == 8 and subgroup != GEOMETRIC:
        return True
    return bool(_DIRECTED.search(name))


class Vocabulary:
    """All concepts and the ways to find them."""

    def __init__(self, emojibase: Path) -> None:
        entries = json.loads((emojibase / "en" / "data.json").read_text("utf-8"))
        self.concepts: list[Concept] = []
        for e in sorted(entries, key=lambda e: e.get("order", 0)):
            group = e.get("group")
            if group is None or group == 2:
                continue
            name = canonical_name(e["label"])
            directional = _is_directional(name, group, e.get("subgroup"))
            tags = tuple(dict.fromkeys(filter(None, map(normalize, e.get("tags", [])))))
            self.concepts.append(
                Concept(len(self.concepts), name, e["hexcode"], tags, GROUPS[group], directional)
            )
        self.by_hex = {plain_hex(c.hexcode): c for c in self.concepts}
        self.by_name = {c.name: c for c in self.concepts}
        if len(self.by_name) != len(self.concepts):
            raise ValueError("two concepts have the same name")
        self._shortcodes = self._read_shortcodes(emojibase)
        self._squashed = self._squash_names()

    def _read_shortcodes(self, emojibase: Path) -> dict[str, Concept]:
        """Shortcodes that mean exactly one concept."""
        found: dict[str, set[int]] = {}
        for kind in SHORTCODE_SETS:
            path = emojibase / "en" / "shortcodes" / f"{kind}.json"
            for code, names in json.loads(path.read_text("utf-8")).items():
                concept = self.by_hex.get(plain_hex(code))
                for name in [names] if isinstance(names, str) else names:
                    if concept is not None and len(name) > 2:
                        words = normalize(name.replace("_", " "))
                        found.setdefault(words, set()).add(concept.index)
        return {n: self.concepts[next(iter(s))] for n, s in found.items() if len(s) == 1}

    def _squash_names(self) -> dict[str, Concept]:
        table = {squash(n): c for n, c in self._shortcodes.items()}
        for c in self.concepts:
            if "-" not in plain_hex(c.hexcode):
                old = unicodedata.name(chr(int(plain_hex(c.hexcode), 16)), "")
                table.setdefault(squash(old), c)
        table.update({squash(c.name): c for c in self.concepts})
        return table

    def from_hex(self, code: str) -> Concept | None:
        """The concept of a code point sequence."""
        return self.by_hex.get(plain_hex(code))

    def from_country(self, code: str) -> Concept | None:
        """The flag of an ISO 3166 country code."""
        code = code.lower()
        if code in SUBDIVISIONS:
            return self.by_name.get(f"flag of {SUBDIVISIONS[code]}")
        if not re.fullmatch(r"[a-z]{2}", code):
            return None
        return self.from_hex("-".join(f"{0x1F1E6 + ord(ch) - ord('a'):x}" for ch in code))

    def from_squashed(self, key: str) -> Concept | None:
        """The concept of a key written in one word, by any of its known names."""
        return self._squashed.get(squash(key))

    def from_word(self, name: str) -> Concept | None:
        """The concept an icon's or a clip art's name means; None unless it is unambiguous."""
        name = normalize(name)
        if name in _EXTRA_ALIASES:
            return self.by_name.get(_EXTRA_ALIASES[name])
        if name in _NOT_ALIASES:
            return None
        return self.by_name.get(name) or self._shortcodes.get(name)
