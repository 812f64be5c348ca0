"""Checks of files that options name for results, before any work is done."""

import os
import stat
from pathlib import Path

import typer

from perception_encoder.cli.text_files import STREAMS


def check_file(path: Path | None) -> None:
    """Refuse a file that cannot be written."""
    if path is None:
        return
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = 0
    except (OSError, ValueError) as err:
        reason = getattr(err, "strerror", None) or err
        raise typer.BadParameter(f"{path}: cannot be written: {reason}") from err
    if stat.S_ISDIR(mode):
        raise typer.BadParameter(f"{path}: this is a folder; name a file")
    if mode and str(path).startswith(STREAMS):
        return
    if mode and not stat.S_ISREG(mode):  # opening a pipe may wait for ever
        raise typer.BadParameter(f"{path}: a pipe or device; name a file, or use >(…)")
    if mode and not os.access(path, os.W_OK):
        raise typer.BadParameter(f"{path}: this file may not be written; name another")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise typer.BadParameter(f"{path.parent}: no such folder; make it first")
    if not os.access(folder, os.W_OK):
        raise typer.BadParameter(f"{path.parent}: nothing can be written in this folder")


def check_sheet(path: Path | None) -> None:
    """Refuse an image file that cannot be written, or whose ending is no image's."""
    check_file(path)
    if path is None:
        return
    from PIL import Image

    Image.init()
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise typer.BadParameter(f"{path}: choose a name that ends in .png, .jpg or .webp")


def check_text_name(path: str) -> str:
    """Return a name that is stored as text or handed to Lance; refuse one that is no text."""
    try:
        path.encode()
    except UnicodeEncodeError as err:
        raise typer.BadParameter(f"{path}: the name is not valid UTF-8; rename it") from err
    return path
