"""What kind of picture some bytes are, by how they begin. Decodes nothing."""

from typing import Final

_BEGINNINGS: Final = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"II+\0", "image/tiff"),
    (b"MM\0+", "image/tiff"),
    (b"\0\0\0\x0cjP  ", "image/jp2"),
    (b"\xff\x4f\xff\x51", "image/j2c"),
    *((f"P{digit}".encode(), "image/x-portable-anymap") for digit in range(1, 7)),
)
_BRANDS: Final = {b"avif": "image/avif", b"avis": "image/avif"}
_HEIF: Final = frozenset(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
)

ENOUGH: Final = 32
"""So many bytes tell the kind of every picture."""


def content_type(data: bytes) -> str | None:
    """Return the media type of a picture that this package reads; None for anything else."""
    for beginning, kind in _BEGINNINGS:
        if data.startswith(beginning):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "image/heic" if data[8:12] in _HEIF else None)
    return None
