"""What the restyler needs to know of SVG shapes: extent, scale, properties and colors."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

from PIL import ImageColor

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
_ARGS = {"M": 2, "L": 2, "H": 1, "V": 1, "C": 6, "S": 4, "Q": 4, "T": 2, "A": 7, "Z": 0}
_COMMAND = re.compile(r"([MLHVCSQTAZmlhvcsqtaz])([^MLHVCSQTAZmlhvcsqtaz]*)")
_N = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_NUMBER = re.compile(_N)
_ARC = re.compile(r"[\s,]*".join([f"({_N})"] * 3 + ["([01])"] * 2 + [f"({_N})"] * 2))


def local(elem: ET.Element) -> str:
    """Tag without its namespace."""
    return elem.tag.rsplit("}", 1)[-1] if isinstance(elem.tag, str) else ""


def style_of(elem: ET.Element) -> dict[str, str]:
    """The declarations of the style attribute."""
    pairs = (p.split(":", 1) for p in elem.get("style", "").split(";") if ":" in p)
    return {k.strip(): v.strip() for k, v in pairs}


def prop(elem: ET.Element, name: str) -> str | None:
    """A presentation property: the style attribute wins over the plain attribute."""
    return style_of(elem).get(name, elem.get(name))


def set_prop(elem: ET.Element, name: str, value: str) -> None:
    """Set a presentation property where it takes effect."""
    style = style_of(elem)
    if name in style:
        style[name] = value
        elem.set("style", ";".join(f"{k}:{v}" for k, v in style.items()))
    else:
        elem.set(name, value)


def number(text: str | None, default: float = 0.0) -> float:
    """The first number of a text."""
    found = _NUMBER.search(text or "")
    return float(found.group()) if found else default


def transform_scale(text: str | None) -> float:
    """How much a transform attribute scales lengths."""
    scale = 1.0
    for name, args in re.findall(r"(\w+)\s*\(([^)]*)\)", text or ""):
        v = [float(x) for x in _NUMBER.findall(args)]
        if name == "matrix" and len(v) == 6:
            scale *= math.sqrt(abs(v[0] * v[3] - v[1] * v[2]))
        elif name == "scale" and v:
            scale *= math.sqrt(abs(v[0] * v[-1]))
    return scale


def _arguments(command: str, text: str) -> list[list[float]]:
    if command.upper() == "A":
        return [[float(g) for g in m] for m in _ARC.findall(text)]
    n = _ARGS[command.upper()]
    v = [float(x) for x in _NUMBER.findall(text)]
    return [v[i : i + n] for i in range(0, len(v) - n + 1, n)] if n else [[]]


def path_extent(d: str) -> tuple[float, float]:
    """Width and height of a path's points and control points."""
    xs, ys = [], []
    x = y = sx = sy = 0.0
    for command, text in _COMMAND.findall(d):
        relative, kind = command.islower(), command.upper()
        for args in _arguments(command, text):
            if kind == "Z":
                x, y = sx, sy
                continue
            ox, oy = (x, y) if relative else (0.0, 0.0)
            if kind == "H":
                x = args[0] + ox
            elif kind == "V":
                y = args[0] + oy
            else:
                pairs = args[-2:] if kind == "A" else args
                xs += [p + ox for p in pairs[0::2]]
                ys += [p + oy for p in pairs[1::2]]
                x, y = args[-2] + ox, args[-1] + oy
            if kind == "M":
                sx, sy = x, y
            xs.append(x)
            ys.append(y)
    return (max(xs) - min(xs), max(ys) - min(ys)) if xs else (0.0, 0.0)


def extent(elem: ET.Element) -> tuple[float, float]:
    """Width and height of a shape in its own units."""
    tag = local(elem)
    if tag == "path":
        return path_extent(elem.get("d", ""))
    if tag == "rect":
        return number(elem.get("width")), number(elem.get("height"))
    if tag == "circle":
        return 2 * number(elem.get("r")), 2 * number(elem.get("r"))
    if tag == "ellipse":
        return 2 * number(elem.get("rx")), 2 * number(elem.get("ry"))
    v = [float(x) for x in _NUMBER.findall(elem.get("points", ""))]
    if len(v) < 4:
        return 0.0, 0.0
    return max(v[0::2]) - min(v[0::2]), max(v[1::2]) - min(v[1::2])


def parse_color(text: str | None) -> tuple[int, int, int] | None:
    """RGB of a CSS color."""
    if not text or text in ("none", "inherit", "transparent") or text.startswith("url"):
        return None
    if text == "currentColor":
        return 0, 0, 0
    try:
        r, g, b = ImageColor.getrgb(text)[:3]
    except ValueError:
        return None
    return r, g, b


def luminance(rgb: tuple[int, int, int]) -> float:
    """Perceived lightness, 0 to 1."""
    return (0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]) / 255


def gradients(root: ET.Element) -> dict[str, tuple[tuple[int, int, int], float]]:
    """Average color and opacity of each gradient of a document."""
    nodes = {e.get("id"): e for e in root.iter() if local(e).endswith("Gradient") and e.get("id")}

    def stops(elem: ET.Element, depth: int = 0) -> list[ET.Element]:
        own = [s for s in elem if local(s) == "stop"]
        ref = (elem.get(f"{{{XLINK}}}href") or elem.get("href") or "").lstrip("#")
        return stops(nodes[ref], depth + 1) if not own and ref in nodes and depth < 5 else own

    table = {}
    for key, elem in nodes.items():
        found = [
            (parse_color(prop(s, "stop-color") or "black") or (0, 0, 0),
             number(prop(s, "stop-opacity"), 1.0))
            for s in stops(elem)
        ]  # fmt: skip
        if found:
            total = sum(o for _, o in found) or 1.0
            mean = tuple(round(sum(c[i] * o for c, o in found) / total) for i in range(3))
            table[key] = (mean, sum(o for _, o in found) / len(found))
    return table
