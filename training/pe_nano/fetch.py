"""Download the drawings of pe-nano into a cache folder.

    python -m training.pe_nano.fetch --cache DIR

Uses `npm` for the packages (versions pinned below; npm checks what it downloads) and
`apt-get download` with `dpkg-deb -x` for clip art. Afterwards `DIR/node_modules` and
`DIR/openclipart` are what `prepare` wants. What is there already is not downloaded again.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import shutil
import subprocess
import tempfile
from pathlib import Path

PACKAGES = {
    "@iconify-json/cif": "1.2.7",
    "@iconify-json/circle-flags": "1.2.11",
    "@iconify-json/flag": "1.2.12",
    "@iconify-json/flagpack": "1.2.8",
    "@iconify-json/flat-color-icons": "1.2.3",
    "@iconify-json/fluent-color": "1.2.21",
    "@iconify-json/fluent-emoji": "1.2.7",
    "@iconify-json/fluent-emoji-flat": "1.2.6",
    "@iconify-json/fluent-emoji-high-contrast": "1.2.6",
    "@iconify-json/fxemoji": "1.2.2",
    "@iconify-json/mdi": "1.2.3",
    "@iconify-json/noto": "1.2.9",
    "@iconify-json/noto-v1": "1.2.5",
    "@iconify-json/openmoji": "1.2.29",
    "@iconify-json/ph": "1.2.2",
    "@iconify-json/tabler": "1.2.41",
    "@iconify-json/twemoji": "1.2.5",
    "emojibase-data": "17.0.0",
}
CLIP_ART = "openclipart-svg=1:0.18+dfsg-19"
CLIP_ART_SHA256 = "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5"
logger = logging.getLogger(__name__)


def _require(program: str, why: str) -> None:
    if shutil.which(program) is None:
        raise SystemExit(f"{program} is not installed; it is needed {why}")


def fetch_packages(cache: Path) -> Path:
    """The npm packages, without running any of their scripts; returns node_modules."""
    _require("npm", "to download the icon packages (it comes with Node.js)")
    wanted = [f"{name}@{version}" for name, version in PACKAGES.items()]
    subprocess.run(
        ["npm", "install", "--prefix", str(cache), "--ignore-scripts", "--no-audit", "--no-fund",
         "--no-save", *wanted],
        check=True,
    )  # fmt: skip
    return cache / "node_modules"


def fetch_clip_art(cache: Path) -> Path:
    """The Debian package, unpacked; returns its folder."""
    target = cache / "openclipart"
    if target.is_dir():
        return target
    where = f"for clip art; elsewhere unpack {CLIP_ART} of Debian into {target}"
    _require("apt-get", where)
    _require("dpkg-deb", where)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        folder = Path(temporary)
        subprocess.run(["apt-get", "download", CLIP_ART], check=True, cwd=folder)
        archive = next(folder.glob("*.deb"))
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != CLIP_ART_SHA256:
            raise SystemExit(f"{archive.name}: sha256 {found}, expected {CLIP_ART_SHA256}")
        subprocess.run(["dpkg-deb", "-x", str(archive), str(folder / "unpacked")], check=True)
        (folder / "unpacked").rename(target)  # last, so that half of it is never taken for all
    return target


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    cache = args.cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    logger.info("packages in %s", fetch_packages(cache))
    logger.info("clip art in %s", fetch_clip_art(cache))


if __name__ == "__main__":
    main()
