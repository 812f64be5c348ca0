"""Where this user's things lie. Only `cli` (and later `server`) may ask."""

import os
import sys
from pathlib import Path
from typing import Final

DEFAULT_MODEL: Final = "pe-nano"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as err:  # a container's user without a home
        raise OSError(
            "this user has no home folder to keep indexes in: name the index with --index, "
            "or set XDG_DATA_HOME"
        ) from err


def data_folder() -> Path:
    """The folder for this user's indexes: XDG_DATA_HOME, or the platform's usual place."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or _home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = _home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or _home() / ".local" / "share")
    return base / "perception-encoder"


def cache_folder() -> Path:
    """The folder for what can be made again: XDG_CACHE_HOME, or the platform's usual place."""
    if sys.platform == "win32":
        return data_folder() / "cache"
    if sys.platform == "darwin":
        return _home() / "Library" / "Caches" / "perception-encoder"
    return Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache") / "perception-encoder"


def default_index() -> Path:
    """The index that `pe index` and `pe search` use where no other is named."""
    return data_folder() / "index.lance"
