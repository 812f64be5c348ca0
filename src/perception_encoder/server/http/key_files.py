"""Reads the keys that a server accepts: files of lines, or a variable with commas."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from perception_encoder.server.http.access import hash_of

_MAKE_ONE: Final = "`pe serve --new-key` makes one"
_COMMENT: Final = re.compile(r"(^|\s)#.*")


def read_keys(file: Path | None, keys: str | None) -> tuple[str, ...]:
    """Return the hashes of the accepted keys, each once; the keys themselves are not kept.

    A line holds a key or its hash (`sha256:HEX`). What follows a `#` at its start or after a space
    is a comment; blank lines, spaces around and a byte order mark mean nothing.

    Args:
        file: of keys, one a line.
        keys: more of them, with commas between.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is no key, or the file holds none; the line itself is not quoted.
    """
    found = list(_hashes(_lines(file))) if file is not None else []
    if file is not None and not found:
        raise ValueError(f"{file} holds no key; {_MAKE_ONE}")
    written = (keys or "").split(",")
    found += _hashes((f"PE_KEYS, key {number}", key) for number, key in enumerate(written, 1))
    return tuple(dict.fromkeys(found))


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as err:
        raise OSError(
            f"the key file {file} cannot be read: {err.strerror}; give --key-file a file that this "
            "user may read"
        ) from err
    except UnicodeDecodeError as err:
        raise ValueError(f"the key file {file} is no text in UTF-8; save it as UTF-8") from err
    for number, line in enumerate(text.splitlines(), 1):
        yield f"{file}, line {number}", line


def _hashes(lines: Iterable[tuple[str, str]]) -> Iterator[str]:
    for place, line in lines:
        written = _COMMENT.sub("", line).strip()
        if not written:
            continue
        try:
            yield hash_of(written)
        except ValueError as err:
            raise ValueError(f"{place}: {err}") from None
