"""Images as strings: data URIs (RFC 2397) and base64. No pixels are decoded.

`image_in_text` recognizes such a string in the place of a text, whose characters would otherwise be
embedded.
"""

import base64
import binascii
import re
from typing import Final, Literal
from urllib.parse import unquote_to_bytes

from perception_encoder.errors import ImageReferenceError

ImageString = Literal["data URI", "base64"]

# White space, control characters, byte order marks and other characters that nobody sees.
_UNSEEN: Final = "\\s\x00-\x20\x7f\u200b-\u200f\u2060\ufeff"
_EDGES: Final = "".join(
    map(
        chr,
        (
            *range(0x21), 0x7F, 0x85, 0xA0, 0x1680, *range(0x2000, 0x2010), 0x2028, 0x2029, 0x202F,
            0x205F, 0x2060, 0x3000, 0xFEFF,
        ),
    )
)  # fmt: skip
_DATA_URI: Final = re.compile(r"data\s*:([^,]*),", re.IGNORECASE)
# As above, also in quotes, brackets or CSS; the header is cut, as types and parameters are short.
_LIKE_DATA_URI: Final = re.compile(
    rf"(?P<before>[{_UNSEEN}\"'`<(\[]*(?:url\([\"']?)?)data(?P<gap>\s*:\s*)(?P<header>[^,]{{0,255}})(?P<comma>,?)",
    re.IGNORECASE,
)
_MEDIA_TYPE: Final = re.compile(r"[^\s/;]+/[^\s/;]+")
_BASE64_PARAMETER: Final = re.compile(r";\s*base64\b")
_SPACES: Final = re.compile(rf"[{_UNSEEN}]+")
_URL_SAFE: Final = str.maketrans("-_", "+/")

_ENCODED: Final = re.compile(r"(?:[A-Za-z0-9+/_=-]|%[0-9A-Fa-f]{2}|[\r\n\t])+")
_SHORTEST_ENCODED: Final = 32  # characters; shorter ones hold no image
_LOOKED_AT: Final = 1024  # characters: prose has spaces long before
_BEGINNINGS: Final = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0",
    b"MM\0+", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51",
)  # fmt: skip


def trim(text: str) -> str:
    """Return a string without white space and invisible characters at its ends."""
    return text.strip(_EDGES)


def image_in_text(text: str) -> ImageString | None:
    """Say how a text is really an encoded image; None for what is a text.

    A data URI is what has the shape `data:[type/subtype][;parameters],` without white space, or
    names base64 before its comma, or begins with `data:image/`. "data: a graph" and "data:yes,no"
    are texts. Base64 must begin with the first bytes of an image format, and hold nothing else.
    """
    found = _LIKE_DATA_URI.match(text)
    if found is not None:
        return "data URI" if _is_data_uri(found) else None
    return "base64" if _begins_like_image(text[: 2 * _LOOKED_AT]) else None


def refuse_image(text: str, *, item: str) -> None:
    """Refuse an encoded image where a text is expected.

    Raises:
        ImageReferenceError: it is one; see `image_in_text`.
    """
    if (kind := image_in_text(text)) is not None:
        message = f"{item}: this is the {kind} of an image, not a text; give the image as a file"
        raise ImageReferenceError(message, item=item, reason=kind)


def decode_data_uri(text: str, *, item: str) -> bytes | None:
    """Return the content of a data URI; None for a string that is none.

    Raises:
        ImageReferenceError: it has no comma, or its base64 is damaged.
    """
    text = trim(text)
    found = _DATA_URI.match(text)
    if found is None:
        if re.match(r"data\s*:", text, re.IGNORECASE):
            message = f"{item}: a data URI without a comma; write data:image/png;base64,…"
            raise ImageReferenceError(message, item=item, reason="data URI")
        return None
    content = text[found.end() :]
    parameters = [one.strip().lower() for one in found[1].split(";")]
    if "base64" not in parameters:
        return unquote_to_bytes(content.encode("utf-8", "replace"))
    if "%" in content:
        content = unquote_to_bytes(content.encode("utf-8", "replace")).decode("latin-1")
    return decode_base64(content, item=item)


def decode_base64(text: str, *, item: str) -> bytes:
    """Decode base64: standard or URL-safe, with or without padding and line breaks.

    Raises:
        ImageReferenceError: it is something else.
    """
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        pass
    compact = _SPACES.sub("", text).translate(_URL_SAFE).rstrip("=")
    try:
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError) as err:
        raise ImageReferenceError(
            f"{item}: neither base64 nor a data URI ({err}); send the file's bytes as base64",
            item=item,
        ) from err


def _is_data_uri(found: re.Match[str]) -> bool:
    header = found["header"].strip().lower()
    is_plain = found["gap"] == ":" and not re.search(r"\s", header)
    if is_plain and header.startswith("image/"):
        return True
    if _BASE64_PARAMETER.search(header) or (is_plain and header == "base64"):
        return True
    if not found["comma"]:
        return False
    if is_plain and (not header or header[0] == ";"):
        return True
    if is_plain and _MEDIA_TYPE.fullmatch(header.partition(";")[0]):
        return True
    # Any other word before the comma: it is a data URI if an image comes after it.
    content = found.string[found.end() : found.end() + 2 * _LOOKED_AT]
    percent_decoded = unquote_to_bytes(content[:_LOOKED_AT].encode("utf-8", "replace"))
    return _begins_like_image(content) or _is_beginning(percent_decoded)


def _begins_like_image(text: str) -> bool:
    """Say whether all of a text is base64, as far as it is looked at, that begins as an image."""
    text = trim(text)[:_LOOKED_AT]
    if len(text) < _SHORTEST_ENCODED or not _ENCODED.fullmatch(text.rstrip("%")):
        return False
    compact = re.sub(r"[\s=]", "", unquote_to_bytes(text).decode("latin-1")).translate(_URL_SAFE)
    try:
        return _is_beginning(base64.b64decode(compact[:32]))
    except (binascii.Error, ValueError):
        return False


def _is_beginning(data: bytes) -> bool:
    """Say whether bytes begin an image beyond doubt."""
    return (
        data.startswith(_BEGINNINGS)
        or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")
        or data[4:8] == b"ftyp"
        or (data[:2] == b"BM" and data[6:10] == bytes(4))  # two reserved fields, always zero
        or (data[:1] == b"P" and data[1:2] in b"123456" and data[2:3] in b" \n\r\t#"
            and data[3:4].isdigit())
    )  # fmt: skip
