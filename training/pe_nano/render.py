"""SVG text to pixels: resvg, then a trim of empty margins, then a square RGBA image.

The trim is capped, so that a drawing that is meant to be small in its square (a small diamond)
stays smaller than the large one, while different paddings of different sets do not matter.
"""

from __future__ import annotations

import cv2
import numpy as np
import resvg_py

WORK = 148  # pixels of the long side at which drawings are rasterised before they are fitted
MARGIN = 2 / 72


def raster(svg: str, long_side: int = WORK, aspect: float = 1.0) -> np.ndarray:
    """RGBA (straight alpha) of an SVG whose width over height is `aspect`."""
    width = long_side if aspect >= 1 else max(1, round(long_side * aspect))
    height = long_side if aspect <= 1 else max(1, round(long_side / aspect))
    png = resvg_py.svg_to_bytes(svg_string=svg, width=width, height=height, skip_system_fonts=True)
    image = cv2.imdecode(np.frombuffer(bytes(png), np.uint8), cv2.IMREAD_UNCHANGED)
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)


def content_box(rgba: np.ndarray) -> tuple[int, int, int, int] | None:
    """x0, y0, x1, y1 of the visible part; None for an empty image."""
    seen = rgba[..., 3] > 12
    if not seen.any():
        return None
    ys, xs = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1


def resize_rgba(rgba: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize with the colors weighted by their alpha."""
    pre = rgba.astype(np.float32) / 255
    pre[..., :3] *= pre[..., 3:]
    small = rgba.shape[0] < height or rgba.shape[1] < width
    pre = cv2.resize(
        pre, (width, height), interpolation=cv2.INTER_LINEAR if small else cv2.INTER_AREA
    )
    alpha = pre[..., 3:]
    pre[..., :3] = np.where(alpha > 1e-3, pre[..., :3] / np.maximum(alpha, 1e-3), 0)
    return (pre.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def fit(rgba: np.ndarray, size: int, max_zoom: float = 1.5) -> np.ndarray | None:
    """Trim, scale and center an image in a square of `size` pixels."""
    box = content_box(rgba)
    if box is None:
        return None
    x0, y0, x1, y1 = box
    part = rgba[y0:y1, x0:x1]
    height, width = part.shape[:2]
    inner = size * (1 - 2 * MARGIN)
    scale = inner / max(max(width, height), max(rgba.shape[:2]) / max_zoom)
    new_w, new_h = max(1, round(width * scale)), max(1, round(height * scale))
    return center(resize_rgba(part, new_w, new_h), size)


def center(rgba: np.ndarray, size: int) -> np.ndarray:
    """The image in the middle of a transparent square at least as large."""
    height, width = rgba.shape[:2]
    out = np.zeros((size, size, 4), np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    out[top : top + height, left : left + width] = rgba
    return out


def ink_silhouette(rgba: np.ndarray, width: int) -> np.ndarray:
    """Put a dark contour of `width` pixels behind an image (grown at its edges)."""
    padded = np.pad(rgba, ((width, width), (width, width), (0, 0)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
    alpha = padded[..., 3].astype(np.float32) / 255
    ink = cv2.dilate(alpha, kernel)
    total = alpha + ink * (1 - alpha)
    out = padded.astype(np.float32)
    out[..., :3] *= (alpha / np.maximum(total, 1e-3))[..., None]
    out[..., 3] = total * 255
    return out.clip(0, 255).astype(np.uint8)


def render_svg(svg: str, size: int, aspect: float = 1.0, max_zoom: float = 1.5) -> np.ndarray:
    """A drawing as a (size, size, 4) uint8 RGBA image; all zero if there is nothing to see."""
    fitted = fit(raster(svg, max(WORK, 2 * size), aspect), size, max_zoom)
    return np.zeros((size, size, 4), np.uint8) if fitted is None else fitted
