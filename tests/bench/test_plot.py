"""The plot of speed against accuracy."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_encoder.bench import BenchRow, Figures
from perception_encoder.bench.figures import check_plot, plot_speed
from perception_encoder.errors import ImageWriteError
from perception_encoder.types import Precision


def row(
    model: str, accuracy: float | None, speed: float, precision: Precision = "fp32"
) -> BenchRow:
    figures = Figures(
        backend="torch",
        device="cpu",
        precision=precision,
        open_seconds=1,
        image_ms=1000 / speed,
        images_per_second=speed,
        image_batch=8,
        text_ms=None,
        texts_per_second=None,
        text_batch=None,
        decode_ms=90,
        peak_bytes=10**9,
        peak_device_bytes=None,
        instructions=None,
    )
    return BenchRow(
        model=model,
        has_random_weights=True,
        imagenet_accuracy=accuracy,
        figures=figures,
        operations=1,
        ceiling=None,
        fraction=None,
        image_drift=None,
        text_drift=None,
    )


ROWS = [
    row("perception-encoder/PE-Core-T16-384", 62.1, 20),
    row("perception-encoder/PE-Core-B16-224", 78.4, 4),
    row("perception-encoder/PE-Core-B16-224", 78.4, 16, "bf16"),
    row("pe-nano", None, 200),
]


def test_models_and_backends_are_named(tmp_path: Path) -> None:
    path = tmp_path / "speed.svg"
    plot_speed(ROWS, path, title="On a test")
    drawn = path.read_text(encoding="utf-8")
    for text in ("T16-384", "B16-224", "torch fp32", "torch bf16", "On a test"):
        assert text in drawn
    assert "pe-nano" not in drawn  # has no published accuracy


def test_a_png_shows_every_line_in_its_own_color(tmp_path: Path) -> None:
    path = tmp_path / "speed.png"
    check_plot(path)
    plot_speed(ROWS, path, title="On a test")
    colors = {tuple(color) for color in np.asarray(Image.open(path))[..., :3].reshape(-1, 3)}
    assert {(0, 0x72, 0xB2), (0xD5, 0x5E, 0)} <= colors


def test_what_cannot_be_drawn_or_saved_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="published accuracy"):
        plot_speed([row("pe-nano", None, 200)], tmp_path / "speed.png", title="")
    for path in (tmp_path / "speed.docx", tmp_path / "nowhere" / "speed.png"):
        with pytest.raises(ImageWriteError, match=r"ends in \.png"):
            check_plot(path)
