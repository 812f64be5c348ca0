"""Previews are judged by what a terminal would draw: the escape sequences decoded to pixels."""

import logging
from pathlib import Path

import cli.terminal_decoders as decode
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from perception_encoder.cli.preview import (
    PreviewTile,
    Protocol,
    Terminal,
    detect_protocol,
    encode_blocks,
    encode_iterm2,
    encode_kitty,
    encode_sixel,
    fit_text,
    render_tiles,
)

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
PROTOCOLS: tuple[Protocol, ...] = ("kitty", "iterm2", "sixel", "blocks")


def an_image(width: int, height: int) -> Image.Image:
    """Colors of the 6 x 6 x 6 cube and hard edges, which every way of drawing can keep."""
    image = Image.new("RGBA", (width, height), (255, 255, 255, 255))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, width // 2, height // 2), fill=(95, 135, 255))
    draw.ellipse((width // 3, height // 3, width - 1, height - 1), fill=(215, 0, 95))
    draw.rectangle((width - 3, 0, width - 1, height - 1), fill=(0, 0, 0, 0))
    return image


def same_where_drawn(pixels: NDArray[np.uint8], image: Image.Image, tolerance: int = 0) -> None:
    expected = np.asarray(image)
    assert pixels.shape == expected.shape
    is_drawn = expected[:, :, 3] == 255
    np.testing.assert_array_equal(pixels[:, :, 3] == 255, is_drawn)
    difference = np.abs(pixels[is_drawn].astype(int) - expected[is_drawn].astype(int))
    assert difference.max() <= tolerance


@pytest.mark.parametrize("size", [(7, 2), (40, 26), (201, 98)])
def test_every_way_of_drawing_gives_the_image_back(size: tuple[int, int]) -> None:
    image = an_image(*size)
    ((keys, pixels),) = decode.kitty(encode_kitty(image, 12, 5))
    assert (keys["a"], keys["f"], keys["c"], keys["r"]) == ("T", "100", "12", "5")
    same_where_drawn(pixels, image)
    ((keys, pixels),) = decode.iterm2(encode_iterm2(image, 12, 5))
    assert (keys["inline"], keys["width"], keys["height"]) == ("1", "12", "5")
    same_where_drawn(pixels, image)
    (pixels,) = decode.sixel(encode_sixel(image))
    same_where_drawn(pixels, image, tolerance=2)  # sixel has percents, not 256 levels
    same_where_drawn(decode.blocks(encode_blocks(image, is_true_color=True)), image)
    same_where_drawn(decode.blocks(encode_blocks(image, is_true_color=False)), image)


def test_a_photo_in_256_colors_stays_close() -> None:
    generator = np.random.default_rng(0)
    smooth = np.cumsum(generator.normal(0, 3, (48, 64, 3)), axis=1) + 128
    image = Image.fromarray(np.clip(smooth, 0, 255).astype(np.uint8)).convert("RGBA")
    expected = np.asarray(image)[:, :, :3].astype(int)
    (pixels,) = decode.sixel(encode_sixel(image))
    assert np.abs(pixels[:, :, :3] - expected).mean() < 8
    pixels = decode.blocks(encode_blocks(image, is_true_color=False))
    assert np.abs(pixels[:, :, :3] - expected).mean() < 25


def decoded(text: str, protocol: Protocol) -> list[NDArray[np.uint8]]:
    if protocol == "kitty":
        return [pixels for _, pixels in decode.kitty(text)]
    if protocol == "iterm2":
        return [pixels for _, pixels in decode.iterm2(text)]
    if protocol == "sixel":
        return decode.sixel(text)
    captions = {"▀", "▄"}
    lines = [line for line in text.splitlines() if captions & set(line)]
    return [decode.blocks("\n".join(lines))]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("columns", [60, 97])
def test_hits_stand_side_by_side_above_their_names(protocol: Protocol, columns: int) -> None:
    shown = [
        PreviewTile(Image.new("RGB", size, color), caption)
        for size, color, caption in (
            ((30, 30), RED, "one"), ((60, 20), GREEN, "two"), ((20, 60), BLUE, "three")
        )
    ]  # fmt: skip
    text = render_tiles(shown, protocol, Terminal(columns, (8, 16)), is_true_color=True)
    (strip,) = decoded(text, protocol)
    step = strip.shape[1] // 3
    for number, color in enumerate((RED, GREEN, BLUE)):
        middle = strip[strip.shape[0] // 2, number * step + (step - step // 20) // 2]
        assert np.abs(middle[:3].astype(int) - color).max() <= 3, number
    assert strip[0, step + step // 2, 3] == 0  # above the wide one nothing is drawn
    caption = next(line for line in text.splitlines() if line.startswith("one"))
    assert [caption.index(word) for word in ("one", "two", "three")] == [
        number * (columns // 3) for number in range(3)
    ]


def test_more_hits_than_fit_go_on_below(tmp_path: Path) -> None:
    paths = []
    for number in range(5):
        paths.append(tmp_path / f"{number}.png")
        Image.new("RGB", (9, 9), (50 * number, 0, 0)).save(paths[-1])
    shown = [PreviewTile(str(path), path.stem) for path in paths]
    text = render_tiles(shown, "kitty", Terminal(45, (10, 20)), is_true_color=True)
    images = decode.kitty(text)
    assert [keys["c"] for keys, _ in images] == ["44", "44", "22"]
    assert images[2][1][100, 100].tolist() == [200, 0, 0, 255]


def test_a_narrow_terminal_shows_one_image_a_line() -> None:
    shown = [PreviewTile(Image.new("RGB", (9, 9), RED), "a rather long name")] * 2
    text = render_tiles(shown, "blocks", Terminal(12), is_true_color=True)
    assert text.count("a rather l…") == 2


def test_an_image_that_cannot_be_read_is_a_gray_box(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    def refused() -> bytes:
        raise OSError("no such archive")

    shown = [PreviewTile(str(tmp_path / "gone.png"), "gone"), PreviewTile(refused, "lost")]
    (strip,) = decoded(render_tiles(shown, "kitty", Terminal(80), is_true_color=True), "kitty")
    assert strip[strip.shape[0] // 2, strip.shape[1] // 4].tolist() == [154, 160, 166, 255]
    assert "gone.png" in caplog.text
    assert "no such archive" in caplog.text


def test_names_cannot_steer_the_terminal() -> None:
    assert fit_text("a\x1b[2Jb\n", 8) == "a?[2Jb? "
    assert fit_text("日本の寺", 6) == "日本… "
    assert fit_text("cafe\u0301", 5) == "cafe\u0301 "
    assert fit_text("", 2) == "  "


@pytest.mark.parametrize(
    ("environment", "protocol"),
    [
        ({"TERM": "xterm-kitty", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "3"}, "kitty"),
        ({"TERM": "xterm-ghostty", "TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm2"),
        ({"TERM": "xterm-256color", "WEZTERM_PANE": "0"}, "iterm2"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "foot-extra"}, "sixel"),
        ({"TERM": "mlterm"}, "sixel"),
        ({"TERM": "xterm-256color"}, "blocks"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "Apple_Terminal"}, "blocks"),
        ({"TERM": "tmux-256color", "TMUX": "x", "KITTY_WINDOW_ID": "1"}, "blocks"),
        ({"TERM": "screen"}, "blocks"),
        ({"TERM": "dumb"}, None),
        ({}, None),
    ],
)
def test_the_environment_tells_how_to_draw(
    environment: dict[str, str], protocol: Protocol | None
) -> None:
    assert detect_protocol(environment) == protocol
