"""Style variants of colored drawings.

v0 is the drawing as it is; v1 gets dark strokes around its larger shapes, like an inked cartoon;
v2 is v1 with flat, coarser colors; v3 is line art: white fills and black strokes. Flags and
drawings built of many translucent layers get only a contour around the whole (v1) and a coarser
palette with a contour (v2).
"""

from __future__ import annotations

import random
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from training.pe_nano import svgshape as shape
from training.pe_nano.render import MARGIN, center, content_box, fit, ink_silhouette, raster

ET.register_namespace("", shape.SVG)
ET.register_namespace("xlink", shape.XLINK)

_SHAPES = {"path", "rect", "circle", "ellipse", "polygon"}
_HIDDEN = {"defs", "clipPath", "mask", "symbol", "pattern", "marker", "linearGradient",
           "radialGradient", "filter", "metadata"}  # fmt: skip
_INHERITED = ("fill", "stroke", "stroke-width")
PROBE = 96  # pixels of the rendering that tells where the drawing lies on its page
SOLID = 0.6  # below this opacity a shape is a shade or a highlight: it gets no outline


@dataclass(frozen=True)
class Ink:
    """How to restyle: stroke width over the drawing's extent, flat colors, line art."""

    width: float
    flat: bool = False
    lines: bool = False
    color: str = "#000000"


@dataclass
class _Part:
    elem: ET.Element
    props: dict[str, str]
    opacity: float
    scale: float


def _parts(
    elem: ET.Element, props: dict[str, str], opacity: float, scale: float
) -> Iterator[_Part]:
    for child in elem:
        tag = shape.local(child)
        if tag in _HIDDEN:
            continue
        own = dict(props)
        for name in _INHERITED:
            value = shape.prop(child, name)
            if value is not None and value != "inherit":
                own[name] = value
        alpha = opacity * shape.number(shape.prop(child, "opacity"), 1.0)
        size = scale * shape.transform_scale(child.get("transform"))
        if tag in _SHAPES:
            fill_alpha = shape.number(shape.prop(child, "fill-opacity"), 1.0)
            yield _Part(child, own, alpha * fill_alpha, size)
        else:
            yield from _parts(child, own, alpha, size)


def _fill(part: _Part, table: dict) -> tuple[tuple[int, int, int] | None, float]:
    """Flat color of a shape's fill and its opacity; None where it has no fill."""
    value = part.props.get("fill", "black")
    found = re.match(r"url\(['\"]?#([^)'\"]+)", value)
    if found:
        color, alpha = table.get(found.group(1), ((128, 128, 128), 1.0))
        return color, alpha * part.opacity
    return shape.parse_color(value), part.opacity


def _coarse(rgb: tuple[int, int, int]) -> str:
    return "#" + "".join(f"{round(round(c / 42.5) * 42.5):02x}" for c in rgb)


def _draw_lines(part: _Part, rgb: tuple[int, int, int], thin: bool) -> None:
    dark = shape.luminance(rgb) < (0.55 if thin else 0.22)
    shape.set_prop(part.elem, "fill", "#000000" if dark else "#ffffff")
    shape.set_prop(part.elem, "fill-opacity", "1")


def _set_stroke(part: _Part, ink: Ink, width: float) -> None:
    values = {
        "stroke": ink.color,
        "stroke-width": f"{width / max(part.scale, 1e-6):.5g}",
        "stroke-linejoin": "round",
        "stroke-linecap": "round",
        "stroke-opacity": "1",
    }
    for name, value in values.items():
        shape.set_prop(part.elem, name, value)


def _restyle_part(part: _Part, ink: Ink, length: float, table: dict, last: bool) -> None:
    rgb, alpha = _fill(part, table)
    has_stroke = part.props.get("stroke", "none") != "none"
    if has_stroke and ink.lines:
        shape.set_prop(part.elem, "stroke", ink.color)
    if rgb is None:
        return
    if alpha < SOLID:
        if ink.lines or (ink.flat and alpha < 0.3):
            shape.set_prop(part.elem, "fill", "none")
        elif ink.flat:
            shape.set_prop(part.elem, "fill", _coarse(rgb))
        return
    w, h = (v * part.scale / length for v in shape.extent(part.elem))
    thin = min(w, h) < 2.6 * ink.width or max(w, h) < 0.13
    if ink.lines:
        _draw_lines(part, rgb, thin)
    elif ink.flat:
        shape.set_prop(part.elem, "fill", _coarse(rgb))
    if last and not thin and not (has_stroke and not ink.lines):
        _set_stroke(part, ink, ink.width * length)


def restyle(root: ET.Element, ink: Ink, length: float) -> None:
    """Restyle a parsed SVG in place; `length` is the extent of what it draws."""
    table = shape.gradients(root)
    parts = list(_parts(root, {}, 1.0, 1.0))
    last = {p.elem.get("d", str(id(p.elem))): i for i, p in enumerate(parts)}
    for i, part in enumerate(parts):
        key = part.elem.get("d", str(id(part.elem)))
        _restyle_part(part, ink, length, table, last[key] == i)
    if ink.flat or ink.lines:
        for elem in root.iter():
            elem.attrib.pop("filter", None)


def _box_of(root: ET.Element) -> tuple[float, float, float, float]:
    v = [float(x) for x in re.split(r"[\s,]+", root.get("viewBox", "").strip()) if x]
    if len(v) == 4:
        return v[0], v[1], v[2], v[3]
    return 0.0, 0.0, shape.number(root.get("width"), 100), shape.number(root.get("height"), 100)


def cropped_svg(
    svg: str, content: tuple[float, float, float, float], ink: Ink | None = None
) -> tuple[str, float]:
    """SVG text cropped to `content` (fractions of the page), restyled if asked, and its aspect."""
    root = ET.fromstring(svg)
    x, y, w, h = _box_of(root)
    x0, y0, x1, y1 = content[0] * w, content[1] * h, content[2] * w, content[3] * h
    length = max(x1 - x0, y1 - y0)
    pad = 0.0
    if ink is not None:
        restyle(root, ink, length)
        pad = 0.5 * ink.width * length
    bw, bh = x1 - x0 + 2 * pad, y1 - y0 + 2 * pad
    root.set("viewBox", f"{x + x0 - pad:.6g} {y + y0 - pad:.6g} {bw:.6g} {bh:.6g}")
    root.set("width", f"{bw:.6g}")
    root.set("height", f"{bh:.6g}")
    return ET.tostring(root, encoding="unicode"), bw / bh


def _contour_variants(plain: np.ndarray, rng: random.Random, size: int) -> dict[str, np.ndarray]:
    coarse = plain.copy()
    coarse[..., :3] = (np.round(plain[..., :3] / 51.0) * 51).astype(np.uint8)
    images = {
        "v1": ink_silhouette(plain, rng.randint(3, 5)),
        "v2": ink_silhouette(coarse, rng.randint(4, 7)),
    }
    return {k: f for k, p in images.items() if (f := fit(p, size)) is not None}


def _usable_lines(rgba: np.ndarray) -> bool:
    solid = rgba[..., 3] > 128
    dark = solid & (rgba[..., :3].max(-1) < 96)
    return bool(solid.mean() > 0.02 and dark.mean() > 0.015 and dark.sum() < 0.75 * solid.sum())


def variants(
    svg: str, size: int, aspect: float, seed: str, wanted: tuple[str, ...], max_zoom: float = 1.5,
    contour_only: bool = False,
) -> dict[str, np.ndarray]:  # fmt: skip
    """The drawing's images by variant name; variants that are empty are left out."""
    rng = random.Random(seed)
    if contour_only:
        plain = raster(svg, aspect=aspect)
        v0 = fit(plain, size, max_zoom)
        out = {} if v0 is None else {"v0": v0} | _contour_variants(plain, rng, size)
        return {k: p for k, p in out.items() if k in wanted}
    probe = raster(svg, PROBE, aspect)
    box = content_box(probe)
    if box is None:
        return {}
    height, width = probe.shape[:2]
    content = (box[0] / width, box[1] / height, box[2] / width, box[3] / height)
    zoom = min(1.0, max_zoom * max(box[2] - box[0], box[3] - box[1]) / max(width, height))
    inks = {
        "v0": None,
        "v1": Ink(rng.uniform(0.02, 0.036), color=rng.choice(["#000000", "#000000", "#1c1a17"])),
        "v2": Ink(rng.uniform(0.022, 0.04), flat=True),
        "v3": Ink(rng.uniform(0.02, 0.034), lines=True),
    }
    out = {}
    for name in (n for n in inks if n in wanted):
        text, new_aspect = cropped_svg(svg, content, inks[name])
        long_side = max(2, round(size * (1 - 2 * MARGIN) * zoom))
        image = center(raster(text, long_side, new_aspect), size)
        if name != "v3" or _usable_lines(image):
            out[name] = image
    return out
