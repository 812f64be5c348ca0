"""Advice about models: pe-nano, the bundled one, knows drawings, and photos need another."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

import typer

from perception_encoder.cli.output import say
from perception_encoder.settings import DEFAULT_MODEL

if TYPE_CHECKING:
    from perception_encoder.index import Index

PHOTO_MODEL: Final = "PE-Core-S16-384"
ABOUT_DEFAULT_MODEL: Final = (
    f"{DEFAULT_MODEL}, which knows drawings, not photos; for photos: --model {PHOTO_MODEL} "
    "(`pe models` lists all)"
)
_CAMERA_SUFFIXES: Final = frozenset((".jpg", ".jpeg", ".heic", ".heif", ".dng"))
_NUM_NAMES: Final = 200  # of an index, to judge whether it holds photos


def choose_model() -> str:
    """Return the model for a new index: asks on a terminal, otherwise says which one it takes."""
    is_offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    if is_offline or not (sys.stdin.isatty() and sys.stderr.isatty()):
        say(f"new index with {ABOUT_DEFAULT_MODEL}")
        return DEFAULT_MODEL
    from perception_encoder.registry import find

    entry = find(PHOTO_MODEL)
    say(
        "Which model should embed the images? (--model skips this question; `pe models` lists all)",
        f"  1  {PHOTO_MODEL}: photos and everything else; "
        f"downloads {4 * entry.num_parameters / 1e6:,.0f} MB once",
        f"  2  {DEFAULT_MODEL}: drawings only; small, fast and already here",
    )
    answer = ""
    while answer not in ("1", "2"):
        answer = typer.prompt("1 or 2", default="1", err=True)
    return PHOTO_MODEL if answer == "1" else DEFAULT_MODEL


def warn_of_photo_index(index: Index) -> None:
    """Warn that an index holds photos embedded by pe-nano, with the command for a better one."""
    if index.identity.model_id != DEFAULT_MODEL:
        return
    uris: list[str] = []
    for batch in index.scan(["uri"]):
        uris += batch["uri"].slice(0, _NUM_NAMES - len(uris)).to_pylist()
        if len(uris) >= _NUM_NAMES:
            break
    if _are_photos(uris):
        command = f"pe index {_find_source(uris)} --model {PHOTO_MODEL} --index photos.lance"
        say(f"{DEFAULT_MODEL} knows drawings, but this index holds photos; better: {command}")


def _are_photos(uris: list[str]) -> bool:
    """Return whether most files have a suffix that cameras write; PNG and WebP may be anything."""
    num_photos = sum(PurePath(uri).suffix.lower() in _CAMERA_SUFFIXES for uri in uris)
    return num_photos > len(uris) / 2


def _find_source(uris: list[str]) -> str:
    """Return the folder of the images, or a placeholder."""
    try:
        folder = os.path.commonpath([os.path.dirname(uri) for uri in uris])
    except ValueError:
        return "FOLDER"
    return shlex.quote(folder) if folder and "://" not in uris[0] else "FOLDER"
