"""The user's folders and the default model. Only `cli` and `server` may ask.

`platformdirs` would save twenty lines here and add a package to every installation.
"""

import os
import sys
from pathlib import Path
from typing import Final

DEFAULT_MODEL: Final = "pe-nano"
_NAME: Final = "perception-encoder"


def data_folder() -> Path:
    """Return the folder for this user's indexes: XDG_DATA_HOME, or the platform's usual place.

    Raises:
        OSError: this user has no home folder.
    """
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or _find_home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = _find_home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or _find_home() / ".local" / "share")
    return base / _NAME


def cache_folder() -> Path:
    """Return the folder for files that can be recreated: XDG_CACHE_HOME, or the usual place.

    Raises:
        OSError: this user has no home folder.
    """
    if sys.platform == "win32":
        return data_folder() / "cache"
    if sys.platform == "darwin":
        return _find_home() / "Library" / "Caches" / _NAME
    return Path(os.environ.get("XDG_CACHE_HOME") or _find_home() / ".cache") / _NAME


def default_index() -> Path:
    """Return the index that every command uses if none is named."""
    return data_folder() / "index.lance"


def _find_home() -> Path:
    try:
        return Path.home()
    except RuntimeError as err:  # the user of a container may have none
        raise OSError(
            "this user has no home folder to keep indexes in: name the index with --index, "
            "or set XDG_DATA_HOME"
        ) from err
