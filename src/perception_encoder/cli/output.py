"""Output: results to stdout, messages to stderr.

File names and captions may hold any character. In output for people, characters that control a
terminal or break a line are escaped. JSON and paths ended by NUL are exact.
"""

from __future__ import annotations

import codecs
import datetime
import io
import json
import math
import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import typer

from perception_encoder.cli.text_files import STREAMS


def _to_iso(value: object) -> str:
    """Return a time as text; called for what JSON has no type for."""
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


# `json.dumps` creates an encoder for each call.
_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_to_iso).encode
_NO_NUMBER: Final = ("", "-")  # cells of a column of numbers without a number

# Control characters, line and paragraph separators, characters that reverse the direction of text,
# and surrogates for bytes that are not text. Joiners stay: emoji and some scripts need them.
_UNSAFE_CLASS: Final = "\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_UNSAFE: Final = re.compile(f"[\x00-\x1f{_UNSAFE_CLASS}]")
_UNSAFE_IN_JSON: Final = re.compile(f"[{_UNSAFE_CLASS}]")  # the encoder escapes the others
_NOT_ASCII: Final = re.compile(r"[^\x00-\x7f]")

_REPLACED: Final = "characters that the encoding of stdout does not have"
_ESCAPED: Final = "control characters in names"
_noted: Final = Counter[str]()


def escape(text: str) -> str:
    r"""Escape characters that control a terminal, break a line or cannot be encoded: `\x1b`."""
    return _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)


def say(*lines: str) -> None:
    """Write lines to stderr."""
    for line in lines:
        sys.stderr.write(escape(line) + "\n")


def to_json(record: object) -> str:
    r"""Return a value as JSON that every parser reads.

    NaN and infinity become null. Characters that control a terminal are escaped, as JSON allows.
    Bytes of a name that are not text become the six characters `\udcff`, as `pe index` reports
    such names, since JSON cannot hold them.
    """
    try:
        text = _encode(record)
    except ValueError:
        text = _encode(_replace_nan(record))
    return _UNSAFE_IN_JSON.sub(_escape_in_json, text)


def write_json(record: dict[str, Any]) -> None:
    """Write one JSON object as one line."""
    text = to_json(record)
    if not _is_unicode(sys.stdout.encoding):
        text = _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text)
    sys.stdout.write(text + "\n")


def write_line(*lines: str) -> None:
    """Write lines for people to stdout."""
    for line in lines:
        sys.stdout.write(escape(line) + "\n")


def write_path(name: str, *, null: bool) -> None:
    """Write a path for another program: its exact bytes and NUL, or else one escaped line."""
    if null:
        sys.stdout.buffer.write(_encode_path(name) + b"\0")
        return
    shown = escape(name)
    _noted[_ESCAPED] += shown != name
    sys.stdout.write(shown + "\n")


def write_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write aligned columns; columns of numbers are aligned to the right."""
    columns = [
        [title, *(escape(row[position]) for row in rows)] for position, title in enumerate(header)
    ]
    lines = zip(*(_align(column) for column in columns), strict=True)
    for line in lines:
        write_line("  ".join(line).rstrip())


def format_number(value: float | None) -> str:
    """Return a number with three significant digits; a dash for None."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def format_images(count: int) -> str:
    """Return "1 image" or "1,234 images"."""
    return "1 image" if count == 1 else f"{count:,} images"


def set_up_streams() -> None:
    r"""Make stdout accept every character: those that it cannot encode become `\U0001f600`.

    A stream that was closed when this process began becomes the null device. Otherwise the next
    opened file would get its number, and receive what any library prints.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    codecs.register_error("pe", _replace_unencodable)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="pe")


def _replace_unencodable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    _noted[_REPLACED] += error.end - error.start
    replaced = error.object[error.start : error.end]
    return replaced.encode("ascii", "backslashreplace").decode(), error.end


def warn_of_escapes() -> None:
    """Report on stderr that stdout has escaped characters."""
    for what, count in _noted.items():
        if count:
            say(f"pe: {what} are escaped in this output ({count:,}); -0 and --json are exact")
    _noted.clear()


def _encode_path(name: str) -> bytes:
    """Return a name as the file system stores it, or in UTF-8 if no file can have it."""
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape")


def _is_unicode(encoding: str | None) -> bool:
    return encoding is None or encoding.lower().startswith("utf")


def _escape_in_json(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\\\u{code:04x}" if 0xD800 <= code <= 0xDFFF else f"\\u{code:04x}"


def _replace_nan(value: object) -> object:
    """Return a JSON value with None for NaN and infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _replace_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_nan(each) for each in value]
    return value


def _align(column: Sequence[str]) -> list[str]:
    """Pad the cells of a column, the first of which is its title, to one width."""
    width = max(map(len, column))
    values = [cell for cell in column[1:] if cell not in _NO_NUMBER]
    if values and all(map(_is_number, values)):
        return [cell.rjust(width) for cell in column]
    return [cell.ljust(width) for cell in column]


def _is_number(text: str) -> bool:
    digits = text.removeprefix("-").replace(",", "").replace(".", "", 1)
    return digits.isdecimal()


def check_file(path: Path | None) -> None:
    """Refuse a file that cannot be written, before any work is done for it.

    Raises:
        typer.BadParameter: it cannot.
    """
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
    if mode and not stat.S_ISREG(mode):  # opening a pipe may block
        raise typer.BadParameter(f"{path}: a pipe or device; name a file, or use >(…)")
    if mode and not os.access(path, os.W_OK):
        raise typer.BadParameter(f"{path}: no permission to write this file; name another")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise typer.BadParameter(f"{path.parent}: no such folder; create it first")
    if not os.access(folder, os.W_OK):
        raise typer.BadParameter(f"{path.parent}: no permission to write in this folder")


def check_folder(path: Path | None) -> None:
    """Refuse a folder that cannot be made or written in, before any work is done for it.

    Raises:
        typer.BadParameter: it cannot.
    """
    if path is None:
        return
    if path.exists() and not path.is_dir():
        raise typer.BadParameter(f"{path}: this is a file; name a folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as err:
        reason = getattr(err, "strerror", None) or err
        raise typer.BadParameter(f"{path}: cannot be made: {reason}") from err
    if not os.access(path, os.W_OK):
        raise typer.BadParameter(f"{path}: no permission to write in this folder")


def check_sheet(path: Path | None) -> None:
    """Refuse a contact sheet that cannot be written, or whose suffix names no format of it."""
    check_file(path)
    if path is None or path.suffix.lower() in (".html", ".htm"):
        return
    from PIL import Image

    Image.init()
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise typer.BadParameter(f"{path}: choose a name that ends in .png, .jpg, .webp or .html")


def check_text_name(path: str) -> str:
    """Return a name that is stored as text or passed to Lance.

    Raises:
        typer.BadParameter: it is not valid UTF-8.
    """
    try:
        path.encode()
    except UnicodeEncodeError as err:
        raise typer.BadParameter(f"{path}: the name is not valid UTF-8; rename it") from err
    return path
