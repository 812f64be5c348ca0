"""The folder in which the blocks of the documentation run.

- `images/`: drawings of the bundled gallery, which are also in the folder itself. Some have the
  names of photos that pages use (`STAND_INS`).
- `clip.mp4`: a video of some of them.
- `images.lance`, `photos.lance`: indexes of them, written by `pe index`, with one failed file.
- A folder named after every registered model, which holds pe-nano. A path wins over a name, so
  blocks with real models run without a download.
- http://127.0.0.1:9001: `pe serve --index images.lance`, on a free port that replaces 9001.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from child_processes import build_environment
from cli.command import pe_ending, serving
from PIL import Image
from video_clips import write_clip

from perception_encoder.registry import MODELS

DATA = Path(__file__).resolve().parents[2] / "src" / "perception_encoder" / "data"
GALLERY = DATA / "gallery"
STAND_INS = {
    "cat.jpg": "cat",
    "cat.png": "cat",
    "dog.jpg": "dog",
    "photo.jpg": "castle",
    "pool.jpg": "blue-square",
    "query.jpg": "red-heart",
    **{f"image{number}.jpg": "castle" for number in range(100)},
}
ADDRESS = "127.0.0.1:9001"


@dataclass(frozen=True)
class Reader:
    """A folder and the environment of the processes that run in it."""

    folder: Path
    environment: dict[str, str]


@pytest.fixture(scope="module")
def fresh_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Restore the folder at the path that the index stores."""
    folder = tmp_path_factory.mktemp("documentation") / "reader"
    kept = folder.with_name("kept")
    _fill(folder)
    shutil.copytree(folder, kept, symlinks=True)

    def make() -> Path:
        shutil.rmtree(folder)
        return Path(shutil.copytree(kept, folder, symlinks=True))

    return make


def _fill(folder: Path) -> None:
    images = folder / "images"
    images.mkdir(parents=True)
    for drawing in [*sorted(GALLERY.glob("*.webp"))[:120], *GALLERY.glob("red-*.webp")]:
        shutil.copy(drawing, images)
        shutil.copy(drawing, folder)
    for name, drawing in STAND_INS.items():  # type: ignore[assignment]
        with Image.open(GALLERY / f"{drawing}.webp") as image:
            image.convert("RGB").save(folder / name)
    write_clip(folder / "clip.mp4")
    (folder / "queries.txt").write_text("a red heart\na dog\n")
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    pe_ending("index", "images", "--index", "images.lance", folder=folder, returns=1)
    (images / "broken.png").unlink()
    shutil.copytree(folder / "images.lance", folder / "photos.lance")
    for entry in MODELS:
        for name in (entry.id, *entry.aliases, *(source.repo for source in entry.sources)):
            place = folder / name
            if name != "pe-nano" and not place.exists():
                place.parent.mkdir(exist_ok=True)
                place.symlink_to(DATA / "pe-nano")


@pytest.fixture
def reader(fresh_folder: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> Reader:
    """Return a restored folder as the working directory."""
    folder = fresh_folder()
    monkeypatch.chdir(folder)
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return Reader(folder, build_environment(folder, PATH=programs))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, Path], str]]:
    """Replace the address in a text by that of a server, which starts on first use."""
    addresses: list[str] = []
    with ExitStack() as until_the_end:

        def put(text: str, folder: Path) -> str:
            if ADDRESS not in text:
                return text
            if not addresses:
                home = tmp_path_factory.mktemp("server")
                shutil.copytree(folder / "images.lance", home / "images.lance")
                server = serving("--index", "images.lance", folder=home)
                client, _ = until_the_end.enter_context(server)
                addresses.append(f"127.0.0.1:{client.base_url.port}")
            return text.replace(ADDRESS, addresses[0])

        yield put
