"""`pe features` and `pe match`, with the bundled model."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli.command import pe
from PIL import Image

import perception_encoder
from perception_encoder.auto import AutoModel

GALLERY = Path(perception_encoder.__file__).parent / "data" / "gallery"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("features")
    for name in ("cat", "dog", "bus"):
        shutil.copy(GALLERY / f"{name}.webp", root)
    with Image.open(GALLERY / "cat.webp") as cat:
        cat.convert("RGB").resize((600, 100)).save(root / "wide.png")
        cat.convert("RGB").resize((1, 1)).save(root / "dot.png")
    (root / "broken.png").write_bytes(b"nothing")
    return root


def test_the_figure_shows_each_image_and_its_patches(folder: Path) -> None:
    done = pe("features", "cat.webp", "dog.webp", "-o", "pca.png", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "pca.png: 6 x 6 patches" in done.stderr
    with Image.open(folder / "pca.png") as shown:
        assert shown.width > 2 * 400
        assert shown.height > 2 * 400
        assert len(shown.getcolors(1 << 24) or []) > 50


def test_a_foreground_leaves_black_out_of_the_patches(folder: Path) -> None:
    done = pe(
        "features", "cat.webp", "-o", "masked.png", "--foreground", "--size", "384", folder=folder
    )
    assert done.returncode == 0, done.stderr
    with Image.open(folder / "masked.png") as shown:
        pixels = np.asarray(shown.convert("RGB"))
    right = pixels[30:400, pixels.shape[1] // 2 + 20 :]
    assert 0.2 < (right == 0).all(axis=-1).mean() < 0.95


def test_features_are_written_with_their_grid(folder: Path) -> None:
    command = ("features", "cat.webp", "wide.png", "--npy", "f.npy", "--size", "128")
    done = pe(*command, "--layer", "3", folder=folder)
    assert done.returncode == 0, done.stderr
    written = np.load(folder / "f.npy")
    assert f"shape {written.shape}" in done.stderr
    model = AutoModel.from_pretrained("pe-nano")
    patch = model.config.vision.patch_size
    expected = model.features([folder / "cat.webp", folder / "wide.png"], image_size=128, layer=3)
    assert written.shape == (2, 128 // patch, 128 // patch, model.config.vision.width)
    assert f"{128 // patch} x {128 // patch} patches" in done.stderr
    for row, one in zip(written, expected, strict=True):
        np.testing.assert_allclose(row, one.as_map(), atol=2e-4)


def test_different_grids_are_not_one_array(folder: Path) -> None:
    command = ("features", "cat.webp", "wide.png", "--npy", "mixed.npy", "--keep-aspect")
    done = pe(*command, folder=folder)
    assert done.returncode == 2
    assert "different grids (6 x 6, 2 x 12)" in " ".join(done.stderr.split())
    assert not (folder / "mixed.npy").exists()
    assert pe(*command[:1], *command[2:], folder=folder).returncode == 0
    assert np.load(folder / "mixed.npy").shape[:3] == (1, 2, 12)


def test_images_that_cannot_be_used_are_reported_and_left_out(folder: Path) -> None:
    done = pe("features", "broken.png", "gone.png", "dot.png", "-o", "some.png", folder=folder)
    assert done.returncode == 1
    assert "broken.png" in done.stderr
    assert "gone.png" in done.stderr
    assert "2 of 3 images left out" in done.stderr
    assert (folder / "some.png").exists()
    done = pe("features", "broken.png", "-o", "none.png", folder=folder)
    assert done.returncode == 1
    assert not (folder / "none.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cat.webp"], "nothing to write"),
        (["cat.webp", "-o", "out.txt"], ".png, .jpg or .webp"),
        (["cat.webp", "-o", "nowhere/out.png"], "no such folder"),
        (["cat.webp", "--npy", "out.txt"], "must end in .npy"),
        (["cat.webp", "-o", "x.png", "--size", "100"], "use 96 or 104"),
        (["cat.webp", "-o", "x.png", "--size", "8192"], "limit is 16,384"),
        (["cat.webp", "-o", "x.png", "--layer", "99"], "out of range"),
        (["cat.webp"] * 65 + ["-o", "x.png"], "up to 64 images"),
        (["cat.webp"] * 6000 + ["--npy", "x.npy", "--size", "1024"], "GB"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_done_is_refused_in_one_line(folder, arguments, message) -> None:
    done = pe("features", *arguments, folder=folder)
    assert done.returncode in (1, 2)
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


def test_an_image_matches_itself_at_the_same_points(folder: Path) -> None:
    done = pe("match", "cat.webp", "cat.webp", "-k", "5", "--json", folder=folder)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 5
    with Image.open(folder / "cat.webp") as cat:
        width, height = cat.size
    for row in rows:
        assert row["a"] == row["b"]
        assert row["score"] == pytest.approx(1, abs=1e-4)
        assert 0 < row["a"][0] < width
        assert 0 < row["a"][1] < height


def test_matches_are_listed_best_first_and_drawn(folder: Path) -> None:
    done = pe("match", "cat.webp", "dog.webp", "-o", "m.png", "--foreground", folder=folder)
    assert done.returncode == 0, done.stderr
    header, *rows = done.stdout.splitlines()
    assert header.split()[0] == "score"
    scores = [float(row.split()[0]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert f"m.png: {len(rows)} matches" in done.stderr
    with Image.open(folder / "m.png") as shown:
        assert shown.width > 2 * 400


def test_an_image_that_cannot_be_matched_is_named(folder: Path) -> None:
    done = pe("match", "cat.webp", "broken.png", "-o", "no.png", folder=folder)
    assert done.returncode == 1
    assert "broken.png" in done.stderr
    assert not (folder / "no.png").exists()
