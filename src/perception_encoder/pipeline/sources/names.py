"""What a path or URL is by its looks. Touches no files."""

import os
import re
from typing import Final
from urllib.parse import unquote, urlsplit

from perception_encoder.pipeline.sources.select import suffix

TABLE_SUFFIXES: Final = frozenset((".csv", ".jsonl", ".ndjson", ".parquet", ".tsv"))
_TAR_ENDINGS: Final = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar")
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]+)(?:::.*)?://", re.IGNORECASE)


def scheme(name: str) -> str:
    """Return `s3` of `s3://bucket/key`, and nothing of a path."""
    found = _SCHEME.match(name)
    return found[1].lower() if found else ""


def is_web(name: str) -> bool:
    """Say whether a name is an http or https URL."""
    return scheme(name) in ("http", "https")


def is_tar(name: str) -> bool:
    """Say whether a name ends like a tar archive's, packed or not."""
    return name.lower().endswith(_TAR_ENDINGS)


def is_packed(name: str) -> bool:
    """Say whether a tar archive is compressed, so that it must be read from its start."""
    return not name.lower().endswith(".tar")


def is_table(name: str) -> bool:
    """Say whether a name ends like a table's that can hold pictures."""
    return suffix(name) in TABLE_SUFFIXES


def absolute(name: str, folder: str = "") -> str:
    """Return the absolute path or the URL of a name.

    Args:
        name: a path, or a URL; `file://` URLs become paths.
        folder: what a relative path is relative to; a path or a URL.
    """
    if scheme(name) == "file":
        return os.path.abspath(unquote(urlsplit(name).path))
    if scheme(name):
        return name
    if scheme(folder) and not name.startswith("/"):
        return f"{folder.rstrip('/')}/{name}"
    return os.path.abspath(os.path.join(folder, name))
