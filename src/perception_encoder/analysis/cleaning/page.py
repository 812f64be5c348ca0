"""The HTML page of a cleaning report: one file with small images, no script and no network.

Its size is bounded by the number of images that it shows of each kind. All but the first ones of a
kind are folded away, and browsers decode images when they are scrolled to.
"""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final
from urllib.parse import quote

from PIL import Image

from perception_encoder.analysis.cleaning.report import CleaningReport, Finding, Kind
from perception_encoder.analysis.drawing import image_source_of, read_thumbnails
from perception_encoder.analysis.ranked_images import ReportStep, report_nothing
from perception_encoder.atomic import atomic_write
from perception_encoder.errors import ImageError, OutputError
from perception_encoder.index import Row

_SIDE: Final = 160  # pixels of an image
_FIRST: Final = 24  # images of a kind that are not folded away
_QUALITY: Final = 78
_MAX_NAME: Final = 300  # characters
_MAX_CLASSES: Final = 40
_MAX_SPLITS: Final = 20
_MAX_LISTED: Final = 50  # notes and unreadable images

_TITLES: Final[dict[Kind, tuple[str, str]]] = {
    "leak": (
        "Leaks",
        "Near-duplicates across splits. A model that is tested on what it was trained on looks "
        "better than it is. The image on the left is the one to take out.",
    ),
    "wrong label": (
        "Likely wrong labels",
        "A classifier that did not see the image and its nearest images prefer another label. The "
        "most certain come first.",
    ),
    "outlier": (
        "Outliers",
        "Unusually far from all other images: strays, rare things, broken files.",
    ),
    "blurry": ("Blurry", "Little fine detail even in the sharpest parts of the image."),
    "dark": ("Dark", "Hardly a pixel of medium brightness."),
    "bright": ("Bright", "Hardly a pixel that is not nearly white."),
    "blank": ("Blank", "One color only."),
    "low information": ("Low information", "Almost nothing that differs from its surroundings."),
    "odd aspect ratio": (
        "Odd aspect ratio",
        "Much longer than wide, or wider than long. The model squeezes an image to a square.",
    ),
}


def save_page(
    found: CleaningReport,
    path: str | os.PathLike[str],
    *,
    title: str | None,
    limit: int,
    report: ReportStep | None = None,
) -> None:
    """Write the page; see `CleaningReport.save`."""
    if limit < 1:
        raise ValueError(f"a page shows at least 1 image of a kind, got {limit}")
    with atomic_write(path, OutputError) as partial, partial.open("w", encoding="utf-8") as file:
        for part in _iter_parts(found, title, limit, report or report_nothing):
            file.write(part)


def _iter_parts(
    found: CleaningReport, title: str | None, limit: int, report: ReportStep
) -> Iterator[str]:
    shown = {kind: list(islice(each, limit)) for kind, each in found.findings.items() if each}
    rows = [
        row
        for each in shown.values()
        for one in each
        for row in ((one.row,) if one.other is None else (one.row, one.other))
    ]
    thumbnails = _iter_images(rows, report)
    yield _HEAD
    yield _header(found, title or found.index_path)
    for kind, each in shown.items():
        yield from _section(kind, each, len(found.findings[kind]), thumbnails)
    yield _balance(found)
    yield _listed("Notes", found.notes, len(found.notes))
    unreadable = [f"{row.name}: {why}" for row, why in found.unreadable[:_MAX_LISTED]]
    yield _listed("Unreadable images", unreadable, found.num_unreadable)
    damaged = [row.name for row in found.damaged[:_MAX_LISTED]]
    yield _listed("Damaged embeddings, left out", damaged, len(found.damaged))
    yield "</main>\n"


def _iter_images(rows: Sequence[Row], report: ReportStep) -> Iterator[str]:
    """Yield the HTML of each row's image."""
    sources = ((image_source_of(row), row.name) for row in rows)
    for place, (row, image) in enumerate(zip(rows, read_thumbnails(sources, _SIDE), strict=True)):
        report("drawing the report", place, len(rows))
        yield _link(row, _thumbnail(image))


def _thumbnail(image: Image.Image | ImageError | OSError) -> str:
    if not isinstance(image, Image.Image):
        return "<span class=gone>cannot be read</span>"
    file = io.BytesIO()
    image.save(file, "WEBP", quality=_QUALITY)
    data = base64.b64encode(file.getvalue()).decode()
    size = f"width={image.width} height={image.height}"
    return f'<img src="data:image/webp;base64,{data}" {size} alt="" loading=lazy>'


def _link(row: Row, content: str) -> str:
    """Return the content as a link to a local file or a web page; other places have no link."""
    title = _text(row.shown_name)
    if row.member is None and row.uri.startswith(("http://", "https://")):
        target = row.uri
    elif row.member is None and os.path.isabs(row.uri):
        target = f"file://{quote(Path(row.uri).as_posix())}"
    else:
        return f'<span class=frame title="{title}">{content}</span>'
    return f'<a class=frame title="{title}" href="{html.escape(target, quote=True)}">{content}</a>'


def _header(found: CleaningReport, title: str) -> str:
    images = "1 image" if found.num_images == 1 else f"{found.num_images:,} images"
    tiles = []
    for kind, each in found.findings.items():
        content = f"<b>{len(each):,}</b> {_TITLES[kind][0]}"
        tiles.append(
            f'<li><a href="#{_anchor(kind)}">{content}</a>' if each else f"<li class=none>{content}"
        )
    lines = [
        f"<main>\n<header>\n<h1>{images}</h1>",
        f"<p class=path>{_text(title)}</p>",
        f"<ul class=counts>{''.join(tiles)}</ul>",
    ]
    if found.duplicates is not None:
        copies, near = found.duplicates
        text = "No duplicates."
        if copies or near:
            text = (
                f"<b>{copies + near:,}</b> redundant images ({copies:,} with identical bytes, "
                f"{near:,} nearly identical): <code>pe duplicates --index "
                f"{_text(found.index_path)} --sheet groups.html</code>"
            )
        lines.append(f"<p>{text}</p>")
    if found.sizes_of_splits:
        sizes = ", ".join(
            f"{_text(n)} {c:,}" for n, c in islice(found.sizes_of_splits.items(), _MAX_SPLITS)
        )
        lines.append(f"<p>Splits: {sizes}</p>")
    return "\n".join([*lines, "</header>\n"])


def _section(
    kind: Kind, shown: Sequence[Finding], total: int, thumbnails: Iterator[str]
) -> Iterator[str]:
    title, explanation = _TITLES[kind]
    yield f'<section id="{_anchor(kind)}">\n<h2>{title} <small>{total:,}</small></h2>\n'
    yield f"<p>{explanation}</p>\n<div class=cards>\n"
    for one in shown[:_FIRST]:
        yield _card(one, thumbnails)
    yield "</div>\n"
    if rest := shown[_FIRST:]:
        yield f"<details><summary>{len(rest):,} more</summary>\n<div class=cards>\n"
        for one in rest:
            yield _card(one, thumbnails)
        yield "</div></details>\n"
    if total > len(shown):
        yield f"<p class=more>{total - len(shown):,} further images are in the JSON output.</p>\n"
    yield "</section>\n"


def _card(one: Finding, thumbnails: Iterator[str]) -> str:
    image, name = next(thumbnails), _file_name(one.row)
    if one.other is not None:
        splits = f"{_text(one.split or '')} ↔ {_text(one.other_split or '')}"
        score = _text(one.detail.partition(" in ")[0])
        return (
            f"<figure class=pair>{image}{next(thumbnails)}<figcaption><b>{splits}</b> "
            f"<i>{score}</i><br>{name} ↔ {_file_name(one.other)}</figcaption></figure>\n"
        )
    if one.suggested is not None:
        about = (
            f"<span class='tag old'>{_text(one.label or '')}</span> → "
            f"<span class='tag new'>{_text(one.suggested)}</span>"
        )
    else:
        tag = "" if one.label is None else f" <span class=tag>{_text(one.label)}</span>"
        about = f"<i>{_text(one.detail)}</i>{tag}"
    return f"<figure>{image}<figcaption>{about}<br>{name}</figcaption></figure>\n"


def _file_name(row: Row) -> str:
    return _text(os.path.basename(row.shown_name))


def _balance(found: CleaningReport) -> str:
    if found.classes is None:
        return ""
    sizes = found.classes.sizes
    shown = list(sizes.items())
    if len(shown) > _MAX_CLASSES:  # both ends
        shown = shown[: _MAX_CLASSES // 2] + shown[-_MAX_CLASSES // 2 :]
    largest, rare = max(sizes.values()), set(found.classes.rare)
    bars = [
        f"<li{' class=rare' if name in rare else ''}><span>{_text(name)}</span>"
        f'<span class=bar style="--part:{size / largest:.3f}"></span><span>{size:,}</span>'
        for name, size in shown
    ]
    text = f"{len(sizes):,} classes; the largest is {found.classes.ratio:,.1f} × the smallest."
    if rare:
        text += f" {len(rare):,} have less than a tenth of the largest."
    if found.classes.num_unlabeled:
        text += f" {found.classes.num_unlabeled:,} images have no label."
    if len(sizes) > len(shown):
        text += f" The {len(shown) // 2} largest and smallest:"
    return (
        f"<section id=classes>\n<h2>Class balance</h2>\n<p>{text}</p>\n"
        f"<ul class=bars>{''.join(bars)}</ul>\n</section>\n"
    )


def _listed(title: str, lines: Sequence[str], total: int) -> str:
    if not total:
        return ""
    items = "".join(f"<li>{_text(line)}" for line in lines[:_MAX_LISTED])
    rest = total - min(len(lines), _MAX_LISTED)
    more = f"<li>… and {rest:,} more" if rest > 0 else ""
    return (
        f"<section>\n<h2>{title} <small>{total:,}</small></h2>\n<ul>{items}{more}</ul></section>\n"
    )


def _anchor(kind: Kind) -> str:
    return kind.replace(" ", "-")


def _text(text: str) -> str:
    """Escape a text, cut it to a bounded length, and replace what cannot be printed.

    Signs that turn the direction of writing could make a name look like another one.
    """
    short = text if len(text) <= _MAX_NAME else f"{text[:_MAX_NAME]}…"
    printable = "".join(sign if sign.isprintable() else "\ufffd" for sign in short)
    return html.escape(printable, quote=True)


_HEAD: Final = """<!doctype html>
<html lang=en>
<meta charset=utf-8>
<meta name=viewport content="width=device-width">
<meta http-equiv=Content-Security-Policy
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Cleaning report</title>
<style>
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #626b76; --paper: #fff; --tile: #f3f5f7;
  --line: #e1e5ea; --accent: #0b6bcb; --warm: #b3430b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a0a8b3; --paper: #15181c;
  --tile: #22272e; --line: #333a43; --accent: #6cb2ff; --warm: #ff9b63; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; font: 15px/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--paper); }
main { max-width: 1180px; margin: 0 auto; padding: 2rem 1.5rem 4rem; }
h1 { margin: 0; font-size: 1.75rem; letter-spacing: -.01em; }
h2 { margin: 0 0 .25rem; font-size: 1.2rem; }
h2 small { color: var(--soft); font-weight: 400; }
p { margin: .25rem 0 .75rem; color: var(--soft); max-width: 75ch; }
p b { color: var(--ink); }
.path, code { overflow-wrap: anywhere; }
code { font: .85em ui-monospace, monospace; background: var(--tile); padding: .15em .4em;
  border-radius: 5px; }
ul { padding-left: 1.2rem; color: var(--soft); overflow-wrap: anywhere; }
.counts { display: grid; grid-template-columns: repeat(auto-fill, minmax(158px, 1fr)); gap: .6rem;
  list-style: none; padding: 0; margin: 1.25rem 0; }
.counts li { background: var(--tile); border-radius: 10px; }
.counts a, .counts .none { display: block; padding: .7rem .9rem; color: var(--ink);
  text-decoration: none; font-size: .9rem; }
.counts a:hover { outline: 2px solid var(--accent); border-radius: 10px; }
.counts b { display: block; font-size: 1.5rem; line-height: 1.2; color: var(--accent); }
.counts .none, .counts .none b { color: var(--soft); font-weight: 400; }
section { margin-top: 2rem; padding-top: 1.5rem; border-top: 1px solid var(--line); }
.cards { display: flex; flex-wrap: wrap; gap: 1rem; margin-top: .75rem; }
figure { width: 160px; margin: 0; content-visibility: auto; contain-intrinsic-size: 160px 215px; }
figure.pair { width: 324px; display: flex; flex-wrap: wrap; gap: 4px; }
.frame { display: flex; align-items: center; justify-content: center; width: 160px; height: 160px;
  border-radius: 9px; background: var(--tile); overflow: hidden; }
a.frame:focus-visible, summary:focus-visible { outline: 2px solid var(--accent); }
.gone { color: var(--soft); font-size: .85rem; }
figcaption { margin-top: .35rem; font-size: .8rem; line-height: 1.4; overflow-wrap: anywhere;
  color: var(--soft); }
figcaption i, figcaption b { font-style: normal; color: var(--ink); font-weight: 500; }
.tag { display: inline-block; padding: 0 .4em; border-radius: 5px; background: var(--tile);
  color: var(--ink); }
.old { text-decoration: line-through; color: var(--warm); }
.new { color: var(--accent); font-weight: 600; }
details { margin-top: 1rem; }
summary { cursor: pointer; color: var(--accent); }
.more { margin-top: 1rem; }
.bars { list-style: none; padding: 0; display: grid; gap: .2rem; max-width: 640px; }
.bars li { display: grid; grid-template-columns: 11rem 1fr 4rem; gap: .75rem; align-items: center; }
.bars span:last-child { text-align: right; font-variant-numeric: tabular-nums; }
.bar { height: .8rem; width: calc(100% * var(--part)); min-width: 2px; border-radius: 3px;
  background: var(--accent); }
.bars .rare .bar { background: var(--warm); }
.bars .rare span { color: var(--warm); }
</style>
"""
