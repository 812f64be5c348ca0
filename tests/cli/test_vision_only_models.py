"""Commands on an index of a vision-only model: all but texts work without its twin."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.command import output, pe
from small_models import save_drawings
from twins import BOTH, REPO, VISION, Twins, register

FAST = ("--backend", "torch", "--precision", "fp32")


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    with pytest.MonkeyPatch.context() as patch:
        yield register(patch, tmp_path_factory.mktemp("twins") / "hub")


@pytest.fixture(scope="module")
def folder(twins: Twins, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images in an index, made without the twin."""
    twins.remove(REPO)
    path = tmp_path_factory.mktemp("folder")
    (path / "images").mkdir()
    save_drawings(path / "images", 12)
    done = pe("index", "images", "--index", "i.lance", "--model", VISION, *FAST, folder=path)
    assert done.returncode == 0, done.stderr
    return path


@pytest.mark.parametrize(
    "command",
    [
        ("search", "images/drawing3.png"),
        ("duplicates",),
        ("cluster", "-k", "3"),
        ("select", "-n", "4"),
        ("clean",),
    ],
    ids=lambda command: command[0],
)
def test_images_need_no_text_tower(folder: Path, command: tuple[str, ...]) -> None:
    done = pe(*command, "--index", "i.lance", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "twin" not in done.stderr


def test_a_text_without_the_twin_says_what_is_missing(folder: Path, twins: Twins) -> None:
    done = pe("search", "cat", "--index", "i.lance", folder=folder)
    assert done.returncode == 1
    assert f"{VISION} reads no text" in done.stderr
    assert BOTH in done.stderr
    done = pe("embed", "--text", "cat", "--model", VISION, folder=folder)
    assert done.returncode != 0
    del twins


def test_the_twin_in_the_cache_answers_texts_and_extends_the_index(
    folder: Path, twins: Twins
) -> None:
    twins.write()
    done = pe("search", "cat", "-k", "3", "--paths", "--index", "i.lance", folder=folder)
    assert done.returncode == 0, done.stderr
    assert len(output(done).splitlines()) == 3
    (folder / "more").mkdir()
    save_drawings(folder / "more", 13)
    again = pe("index", "more", "--index", "i.lance", "--model", BOTH, *FAST, folder=folder)
    assert again.returncode == 0, again.stderr
    with_both = ("--paths", "-k", "1", "--index", "i.lance", "--model", BOTH)
    done = pe("search", "more/drawing12.png", *with_both, folder=folder)
    assert output(done).strip().endswith("more/drawing12.png")
