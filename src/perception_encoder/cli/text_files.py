"""Reading the text files that options name, and lists on standard input.

Text is UTF-8, or UTF-16 or UTF-32 with a byte order mark, as on Windows. Lines end with LF, CR LF
or CR. A list keeps its empty lines, so that positions stay right.
"""

from __future__ import annotations

import codecs
import os
import re
import stat
import sys
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import IO, Final

from perception_encoder.errors import ImageReferenceError, TextError

MAX_BYTES: Final = 2**28
"""Size limit of a text, 256 MiB; it is read as a whole and takes several times that in memory."""

# The marks of UTF-32 come first, as they begin with those of UTF-16.
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
STREAMS: Final = ("/dev/", "/proc/")  # where the pipes of a shell's <(…) are, which have a writer
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_STDIN: Final = "standard input"


def read_text(file: Traversable) -> str:
    """Return a text file's contents; lines end with LF.

    Raises:
        TextError: the file cannot be read, is longer than `MAX_BYTES`, or is not text; the message
            names the file and the line.
    """
    return _decode_text(_read_file(file), str(file))


def read_list(file: Path, *, null: bool = False) -> list[str]:
    """Return the lines of a file, or of standard input for `-`, including empty ones.

    Bytes that are not text are decoded as Python does in file names, since a list of names may
    have any; `find_error` reports them where a text is expected.

    Args:
        file: a path, or `-`.
        null: items are separated by NUL, not by newlines.

    Raises:
        TextError: it cannot be read, or is longer than `MAX_BYTES`.
    """
    name = _STDIN if str(file) == "-" else str(file)
    data = _read_stdin() if name == _STDIN else _read_file(file)
    encoding = _detect_encoding(data)
    if encoding.startswith("utf-8"):
        text = data.decode(encoding, "surrogateescape")
    else:
        text = _decode(data, encoding, name)
    if null:
        return text.removesuffix("\0").split("\0") if text else []
    return split_lines(_normalize_newlines(text))


def find_error(text: str, item: str) -> str:
    """Return why a text cannot be embedded, or an empty string; `item` names it in the message."""
    from perception_encoder.preprocess.image_strings import refuse_image

    if "\0" in text:
        return f"{item}: this holds a NUL character, so it is not text"
    if _SURROGATE.search(text):
        return f"{item}: this is not valid UTF-8; save it as UTF-8"
    try:
        refuse_image(text, item=item)
    except ImageReferenceError as err:
        return str(err)
    return ""


def split_lines(text: str) -> list[str]:
    """Return the lines of a text; only LF ends a line."""
    return text.removesuffix("\n").split("\n") if text else []


def _check_kind(name: str, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise TextError(f"{name}: this is a folder; name a text file")
    if not stat.S_ISREG(mode) and not name.startswith(STREAMS):
        raise TextError(f"{name}: a pipe or device; write its text to a file and name that")


def _read_file(file: Traversable) -> bytes:
    name = str(file)
    try:
        if isinstance(file, os.PathLike):
            _check_kind(name, os.stat(file).st_mode)
        with file.open("rb") as stream:
            return _read(stream, name)
    except TextError:
        raise
    except (OSError, ValueError) as err:
        reason = getattr(err, "strerror", None) or err
        raise TextError(f"{name}: cannot be read: {reason}") from err


def _read(stream: IO[bytes], name: str) -> bytes:
    data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise TextError(f"{name}: longer than {MAX_BYTES // 2**20} MiB; split it into parts")
    return data


def _read_stdin() -> bytes:
    try:
        return _read(sys.stdin.buffer, _STDIN)
    except OSError as err:
        raise TextError(f"{_STDIN}: cannot be read: {err.strerror}") from err


def _detect_encoding(data: bytes) -> str:
    return next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "utf-8")


def _decode_text(data: bytes, name: str) -> str:
    text = _normalize_newlines(_decode(data, _detect_encoding(data), name))
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise TextError(
            f"{name}, line {line}: a NUL character, so this is not text; save it as UTF-8"
        )
    return text


def _decode(data: bytes, encoding: str, name: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as err:
        line = data.count(b"\n", 0, err.start) + 1
        kind = encoding.removesuffix("-sig").upper()
        raise TextError(f"{name}, line {line}: not valid {kind}; save it as UTF-8") from err


def _normalize_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
