"""The drawings of Debian's openclipart-svg: public domain clip art with titles and keywords."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from training.pe_nano.concepts import Concept, Vocabulary, normalize
from training.pe_nano.sources import Drawing
from training.pe_nano.svgshape import number
from training.pe_nano.wordlists import WORDS

MAX_BYTES = 300_000
SAME_TITLE = 10
_SKIP_FOLDERS: list[str] = WORDS["clip_art_folders_to_skip"]
_BAD = re.compile(r"nazi|swastika|nude|naked|sex|porn|hitler|penis|breast|erotic|kkk", re.I)
_JUNK = frozenset(WORDS["clip_art_junk"])
_FILLER = frozenset(WORDS["clip_art_filler"])
_CATEGORIES = frozenset(WORDS["clip_art_categories"])
_KEEP_WORDS = frozenset(WORDS["clip_art_keep"])
_OTHER_MEANING = frozenset(WORDS["clip_art_other_meaning"])
_ENTITY = re.compile(r"<!ENTITY\s+(\w+)\s+[\"']([^\"']*)[\"']\s*>")


def _field(text: str, tag: str) -> str:
    found = re.search(rf"<dc:{tag}>(.*?)</dc:{tag}>", text, re.S)
    return re.sub(r"<[^>]+>", " ", found.group(1)).strip() if found else ""


def _keywords(text: str) -> list[str]:
    subject = re.search(r"<dc:subject>(.*?)</dc:subject>", text, re.S)
    items = re.findall(r"<rdf:li>(.*?)</rdf:li>", subject.group(1), re.S) if subject else []
    words = (normalize(i) for i in items)
    return [w for w in dict.fromkeys(words) if w and w not in _JUNK and not w.isdigit()]


def clean_svg(text: str) -> tuple[str, float] | None:
    """Markup that renders on its own (no DTD, its name spaces, a view box), and its aspect."""
    entities = dict(_ENTITY.findall(text))
    text = re.sub(r"<\?xml[^>]*\?>|<!DOCTYPE[^\[>]*(\[.*?\])?\s*>|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r"<metadata.*?</metadata>", "", text, flags=re.S)
    for name, value in entities.items():
        text = text.replace(f"&{name};", value)
    head = re.search(r"<svg\b[^>]*>", text)
    if head is None or "<image" in text:
        return None
    tag = head.group()
    if not re.search(r"\sxmlns=", tag):
        tag = tag.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    if "xmlns:xlink" not in tag and "xlink:" in text:
        tag = tag.replace("<svg", '<svg xmlns:xlink="http://www.w3.org/1999/xlink"', 1)
    size = _page(tag)
    if size is None:
        return None
    tag = re.sub(r"\s(width|height)\s*=\s*([\"']).*?\2", "", tag)
    if "viewBox" not in tag:
        tag = tag.replace("<svg", f'<svg viewBox="0 0 {size[0]} {size[1]}"', 1)
    tag = tag.replace("<svg", f'<svg width="{size[0]}" height="{size[1]}"', 1)
    return text[: head.start()].strip() + tag + text[head.end() :], size[0] / size[1]


def _page(tag: str) -> tuple[float, float] | None:
    box = re.search(r"viewBox\s*=\s*[\"']([^\"']+)", tag)
    values = [number(v) for v in re.split(r"[\s,]+", box.group(1).strip())] if box else []
    if len(values) == 4 and values[2] > 0 and values[3] > 0:
        return values[2], values[3]
    sides = []
    for name in ("width", "height"):
        found = re.search(rf"\s{name}\s*=\s*[\"']([\d.eE+-]+)\s*([a-z%]*)", tag)
        if found is None or found.group(2) == "%":
            return None
        unit = {"pt": 1.25, "mm": 3.543307, "cm": 35.43307, "in": 90.0, "pc": 15.0}
        sides.append(number(found.group(1)) * unit.get(found.group(2), 1.0))
    return (sides[0], sides[1]) if min(sides) > 0 else None


def clean_title(title: str, stem: str, creator: str, words: frozenset[str]) -> str:
    """A caption from the title, or from the file's name; empty when neither says anything."""
    authors = {t for t in normalize(creator).split() if len(t) > 1}
    for text in (title, stem):
        text = re.sub(r"([a-z])([A-Z])", r"\1 \2", text)
        text = re.sub(r"\.(svg|png|jpe?g)$", "", text)
        tokens = [t for t in normalize(text).split() if t.isalpha()]
        tokens = [t for t in tokens if not any(a.startswith(t) and len(t) > 2 for a in authors)]
        known = [t for t in tokens if t in words and t not in _JUNK]
        kept = [t for t in tokens if (t in words and t not in _JUNK) or t in _KEEP_WORDS]
        while kept and kept[0] in _KEEP_WORDS - {"black", "white"}:
            kept.pop(0)
        while kept and kept[-1] in _KEEP_WORDS:
            kept.pop()
        told = sum(t not in _JUNK for t in tokens)
        if known and 2 * len(known) >= told and len(kept) <= 6:
            return " ".join(kept)
    return ""


def _read(path: Path) -> str | None:
    if path.stat().st_size > MAX_BYTES:
        return None
    text = path.read_text("utf-8", "replace")
    return text if "PublicDomain" in text or "publicdomain" in text else None


def known_words(folder: Path, vocabulary: Vocabulary) -> frozenset[str]:
    """Words that name things: those of the vocabulary, and keywords of at least two clip arts."""
    counts: Counter[str] = Counter()
    for path in sorted(folder.rglob("*.svg")):
        counts.update({t for k in _keywords(path.read_text("utf-8", "replace")) for t in k.split()})
    words = {w for w, n in counts.items() if n >= 2}
    for c in vocabulary.concepts:
        words.update(c.name.split())
        words.update(t for tag in c.tags for t in tag.split())
    return frozenset(w for w in words if len(w) > 2)


def drawings(folder: Path, vocabulary: Vocabulary, words: frozenset[str]) -> Iterator[Drawing]:
    """Clip art with a usable caption."""
    titles: Counter[str] = Counter()
    for path in sorted(folder.rglob("*.svg")):
        inner = path.relative_to(folder).as_posix()
        text = None if any(s in inner for s in _SKIP_FOLDERS) else _read(path)
        if text is None:
            continue
        keywords = _keywords(text)
        creator = re.search(r"<dc:creator>(.*?)</dc:creator>", text, re.S)
        title = _field(text, "title")
        if _BAD.search(title + inner + " ".join(keywords)):
            continue
        author = re.sub(r"<[^>]+>", " ", creator.group(1)) if creator else ""
        name = clean_title(title, path.stem, author, words)
        usable = [k for k in keywords if all(t in words for t in k.split())]
        usable = [k for k in usable if k not in _CATEGORIES and not k.startswith("hash")]
        if "flags/" in inner:
            name = name if _concept("", inner, vocabulary) else ""
        else:
            name = name or (usable[-1] if usable else "")
        titles[name] += 1
        made = clean_svg(text) if name and titles[name] <= SAME_TITLE else None
        if made is None:
            continue
        concept = _concept(title, inner, vocabulary) or _concept(name, inner, vocabulary)
        caption = concept.name if concept else name
        yield Drawing("openclipart", inner, caption, concept, *made, keywords=tuple(usable))


def _concept(title: str, inner: str, vocabulary: Vocabulary) -> Concept | None:
    """The concept a clip art shows, if its title says so and its file name agrees."""
    stem = normalize(inner.rsplit("/", 1)[-1].removesuffix(".svg"))
    if "flags/" in inner:
        country = re.sub(r"\b(flag|of|the|\d+)\b", "", stem).strip()
        return vocabulary.by_name.get(f"flag of {country}")
    name = " ".join(t for t in normalize(title).split() if t not in _FILLER and not t.isdigit())
    concept = vocabulary.from_word(name)
    if concept is None and name.endswith("s"):
        concept = vocabulary.from_word(name[:-1])
    agrees = any(t[:4] in stem for t in name.split())
    return concept if agrees and name not in _OTHER_MEANING else None
