"""From RGBA drawings to training images: placed, tinted, put on a background, disturbed.

Works on uint8 numpy arrays with OpenCV; knows nothing about names. The hue is moved only a
little, because colors are part of many names ("red heart", "green book").
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


class Augmenter:
    """Draws its own random numbers, so one instance belongs to one thread."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def place(self, drawing: Image, size: int, box: tuple[float, float, float, float], *,
              flip: bool) -> NDArray[np.float32]:  # fmt: skip
        """Put a drawing into a box of an empty canvas with a random affine jitter.

        Args:
            drawing: (h, w, 4) RGBA, straight alpha.
            size: side of the canvas in pixels.
            box: left, top, width, height as fractions of the canvas.
            flip: mirror left and right.

        Returns:
            (size, size, 4) float32 0..255, premultiplied by alpha.
        """
        rng = self.rng
        rgba = drawing.astype(np.float32)
        rgba[..., :3] = self._tint(rgba[..., :3])
        rgba[..., :3] *= rgba[..., 3:] / 255.0
        side = drawing.shape[0]
        scale = size * min(box[2], box[3]) / side * rng.uniform(0.72, 1.06)
        wide = np.exp(rng.normal(0, 0.07))
        degrees = rng.normal(0, 8) if rng.random() < 0.85 else rng.uniform(-40, 40)
        angle = np.deg2rad(degrees)
        shear = rng.normal(0, 0.06)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = scale * turn @ np.array([[wide, shear], [0.0, 1 / wide]])
        if flip:
            matrix = matrix @ np.array([[-1.0, 0.0], [0.0, 1.0]])
        center = size * np.array([box[0] + box[2] / 2, box[1] + box[3] / 2])
        center = center + size * rng.normal(0, 0.035, 2)
        offset = center - matrix @ np.array([side / 2, side / 2])
        affine = np.concatenate([matrix, offset[:, None]], axis=1)
        if scale < 0.75:  # bilinear sampling alone would alias
            rgba = cv2.GaussianBlur(rgba, (0, 0), 0.35 / scale)
        return cv2.warpAffine(rgba, affine, (size, size), flags=cv2.INTER_LINEAR)

    def background(self, size: int, color: tuple[int, int, int] | None) -> NDArray[np.float32]:
        """(size, size, 3) float32: the named color, or mostly white, or soft gradients."""
        rng = self.rng
        if color is not None:
            base = np.array(color, np.float32) + rng.normal(0, 10, 3).astype(np.float32)
            return np.broadcast_to(base, (size, size, 3)).clip(0, 255)
        if rng.random() < 0.6:
            return np.full((size, size, 3), 255.0, np.float32)
        corners = rng.uniform(120, 255, (2, 2, 3)).astype(np.float32)
        return cv2.resize(corners, (size, size), interpolation=cv2.INTER_LINEAR)

    def compose(self, layers: list[NDArray[np.float32]], background: NDArray[np.float32]) -> Image:
        """Lay premultiplied layers over a background and disturb the result a little."""
        image = background
        for layer in layers:
            image = layer[..., :3] + image * (1 - layer[..., 3:] / 255.0)
        return self._disturb(image).clip(0, 255).astype(np.uint8)

    def _tint(self, rgb: NDArray[np.float32]) -> NDArray[np.float32]:
        rng = self.rng
        gray = rgb @ np.array([[0.299], [0.587], [0.114]], np.float32)
        saturation = 0.0 if rng.random() < 0.08 else rng.uniform(0.5, 1.5)
        rgb = gray + (rgb - gray) * saturation
        gains = rng.normal(1, 0.08, 3) * rng.uniform(0.75, 1.2)
        if rng.random() < 0.3:
            rgb = 255 * (rgb.clip(0, 255) / 255) ** rng.uniform(0.6, 1.6)
        return (rgb * gains + rng.normal(0, 10)).clip(0, 255).astype(np.float32)

    def _disturb(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        rng = self.rng
        size = image.shape[0]
        if rng.random() < 0.15:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.0))
        if rng.random() < 0.15:
            image = image + rng.normal(0, rng.uniform(2, 14), image.shape)
        if rng.random() < 0.25:
            height, width = (int(v) for v in rng.integers(size // 8, size // 3, 2))
            top, left = (int(v) for v in rng.integers(0, size - size // 3, 2))
            image = image.copy()
            image[top : top + height, left : left + width] = rng.uniform(0, 255, 3)
        return image
