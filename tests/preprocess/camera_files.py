"""RAW files as cameras write them, but small: the layout is the makers', the content is ours.

Makers publish little: the layouts are those that the readers named below have found.
"""

import io
import struct
from collections.abc import Sequence

import numpy as np
from PIL import Image

SHORT, LONG, RATIONAL, ASCII, BYTE, SIGNED = 3, 4, 5, 2, 1, 10
_RW2_MARK = bytes.fromhex("88e774d8f8251d4d947a6e77822b5d6a")
_CANON_UUID = bytes.fromhex("85c0b687820f11e08111f4ce462b6a48")
_PREVIEW_UUID = bytes.fromhex("eaf42b5e1c984b88b9fbb7dc406e4d16")

Tag = tuple[int, int, object]


def jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92, **options)
    return buffer.getvalue()


class Tiff:
    """A TIFF that is put together directory by directory."""

    def __init__(self, order: str = "<", start: bytes | None = None) -> None:
        self.order = order
        self._start = start or (b"II*\0" if order == "<" else b"MM\0*")
        self.content = bytearray(self._start + bytes(4))

    def add(self, data: bytes) -> int:
        """Append data; return where it begins."""
        self.content += bytes(len(self.content) % 2)
        place = len(self.content)
        self.content += data
        return place

    def directory(self, tags: Sequence[Tag], following: int = 0) -> int:
        """Append a directory; return where it begins."""
        entries = []
        for tag, kind, value in sorted(tags, key=lambda one: one[0]):
            data, count = self._encode(kind, value)
            if len(data) > 4:
                data = struct.pack(self.order + "I", self.add(data))
            entries.append(struct.pack(self.order + "HHI", tag, kind, count) + data.ljust(4, b"\0"))
        content = struct.pack(self.order + "H", len(entries)) + b"".join(entries)
        return self.add(content + struct.pack(self.order + "I", following))

    def finish(self, first: int) -> bytes:
        """Return the file whose first directory begins at `first`."""
        place = len(self._start) if self._start[8:10] != b"CR" else 4
        struct.pack_into(self.order + "I", self.content, min(place, 4), first)
        return bytes(self.content)

    def _encode(self, kind: int, value: object) -> tuple[bytes, int]:
        if kind in (ASCII, BYTE, 7):
            data = value if isinstance(value, bytes) else str(value).encode() + b"\0"
            return data, len(data)
        values = value if isinstance(value, list | tuple) else [value]
        if kind in (RATIONAL, SIGNED):
            letter = "i" if kind == SIGNED else "I"
            numbers = [n for one in values for n in (round(one * 10_000), 10_000)]
            return struct.pack(f"{self.order}{len(numbers)}{letter}", *numbers), len(values)
        letter = {SHORT: "H", LONG: "I"}[kind]
        return struct.pack(f"{self.order}{len(values)}{letter}", *values), len(values)


def bayer(image: Image.Image) -> np.ndarray:
    """What a sensor behind red, green, green and blue filters sees: (H, W) uint16 of 14 bits."""
    linear = (np.asarray(image.convert("RGB")) / 255.0) ** 2.2 * 16_000 + 200
    values = linear[:, :, 1].copy()
    values[::2, ::2] = linear[::2, ::2, 0]
    values[1::2, 1::2] = linear[1::2, 1::2, 2]
    return values.astype(np.uint16)


def _sensor(tiff: Tiff, values: np.ndarray, *more: Tag) -> list[Tag]:
    place = tiff.add(values.astype("<u2" if tiff.order == "<" else ">u2").tobytes())
    return [
        (254, LONG, 0), (256, LONG, values.shape[1]), (257, LONG, values.shape[0]),
        (258, SHORT, 16), (259, SHORT, 1), (262, SHORT, 32_803), (273, LONG, place),
        (277, SHORT, 1), (278, LONG, values.shape[0]), (279, LONG, values.nbytes),
        (33_421, SHORT, [2, 2]), (33_422, BYTE, bytes((0, 1, 1, 2))), *more,
    ]  # fmt: skip


def _jpeg_strip(tiff: Tiff, data: bytes, size: tuple[int, int], kind: int = 7) -> list[Tag]:
    place = tiff.add(data)
    return [
        (254, LONG, 1), (256, LONG, size[0]), (257, LONG, size[1]), (258, SHORT, [8, 8, 8]),
        (259, SHORT, kind), (262, SHORT, 6), (273, LONG, place), (277, SHORT, 3),
        (278, LONG, size[1]), (279, LONG, len(data)),
    ]  # fmt: skip


def dng(
    scene: Image.Image,
    previews: Sequence[bytes] = (),
    *,
    orientation: int = 1,
    order: str = "<",
) -> bytes:
    """A DNG: a small uncompressed thumbnail first, then the sensor's data and JPEG previews.

    Layout: Adobe, Digital Negative Specification 1.7.1, chapter 2.
    """
    tiff = Tiff(order)
    subs = [
        tiff.directory(_sensor(tiff, bayer(scene), (50_714, SHORT, 200), (50_717, SHORT, 16_383)))
    ]
    subs += [
        tiff.directory(_jpeg_strip(tiff, one, Image.open(io.BytesIO(one)).size)) for one in previews
    ]
    thumbnail = scene.resize((48, 32)).convert("RGB")
    place = tiff.add(thumbnail.tobytes())
    first = tiff.directory(
        [
            (254, LONG, 1), (256, LONG, 48), (257, LONG, 32), (258, SHORT, [8, 8, 8]),
            (259, SHORT, 1), (262, SHORT, 2), (271, ASCII, "Maker"), (272, ASCII, "Model X"),
            (273, LONG, place), (274, SHORT, orientation), (277, SHORT, 3), (278, LONG, 32),
            (279, LONG, 48 * 32 * 3), (330, LONG, subs), (50_706, BYTE, bytes((1, 4, 0, 0))),
            (50_707, BYTE, bytes((1, 1, 0, 0))), (50_708, ASCII, "Maker Model X"),
            (50_721, SIGNED, [0.9, -0.2, -0.1, -0.4, 1.2, 0.2, 0.0, 0.2, 0.6]),
            (50_728, RATIONAL, [0.5, 1.0, 0.6]), (50_778, SHORT, 21),
        ]
    )  # fmt: skip
    return tiff.finish(first)


def nef(scene: Image.Image, preview: bytes, *, orientation: int = 1) -> bytes:
    """Nikon's: a thumbnail first; preview and sensor's data in directories below it.

    Layout: TIFF/EP (ISO 12234-2); exiftool.org/TagNames/EXIF.html, JpgFromRawStart.
    """
    tiff = Tiff(">")
    place = tiff.add(preview)
    shown = tiff.directory(
        [(254, LONG, 1), (259, SHORT, 6), (513, LONG, place), (514, LONG, len(preview))]
    )
    data = tiff.directory(_sensor(tiff, bayer(scene)))
    thumbnail = tiff.add(scene.resize((48, 32)).convert("RGB").tobytes())
    first = tiff.directory(
        [
            (254, LONG, 1), (256, LONG, 48), (257, LONG, 32), (258, SHORT, [8, 8, 8]),
            (259, SHORT, 1), (262, SHORT, 2), (271, ASCII, "NIKON CORPORATION"),
            (272, ASCII, "NIKON D750"), (273, LONG, thumbnail), (274, SHORT, orientation),
            (277, SHORT, 3), (278, LONG, 32), (279, LONG, 48 * 32 * 3), (330, LONG, [shown, data]),
        ]
    )  # fmt: skip
    return tiff.finish(first)


def arw(scene: Image.Image, preview: bytes, *, orientation: int = 1) -> bytes:
    """Sony's: the preview in the first directory, the sensor's data below it.

    Layout: exiftool.org/TagNames/EXIF.html, PreviewImageStart (ARW IFD0), and Sony.html.
    """
    tiff = Tiff("<")
    place = tiff.add(preview)
    data = tiff.directory(_sensor(tiff, bayer(scene)))
    first = tiff.directory(
        [
            (254, LONG, 1), (259, SHORT, 6), (271, ASCII, "SONY"), (272, ASCII, "ILCE-7M3"),
            (274, SHORT, orientation), (330, LONG, [data]), (513, LONG, place),
            (514, LONG, len(preview)),
        ]
    )  # fmt: skip
    return tiff.finish(first)


def cr2(scene: Image.Image, preview: bytes, *, orientation: int = 1) -> bytes:
    """Canon's first: a mark in the header, and four directories one after another.

    Preview, thumbnail, a small image without compression, and the sensor's data, which the header
    names as well. Layout: github.com/lclevy/libcraw2, docs/cr2_poster.pdf.
    """
    tiff = Tiff("<", b"II*\0\x10\0\0\0CR\x02\0\0\0\0\0")
    tiff.content = tiff.content[:16]
    values = _lossless_jpeg(bayer(scene))
    data = tiff.add(values)
    raw = tiff.directory([(259, SHORT, 6), (273, LONG, data), (279, LONG, len(values))])
    small = tiff.add(scene.resize((48, 32)).convert("RGB").tobytes())
    uncompressed = tiff.directory(
        [
            (256, SHORT, 48), (257, SHORT, 32), (258, SHORT, [8, 8, 8]), (259, SHORT, 1),
            (262, SHORT, 2), (273, LONG, small), (277, SHORT, 3), (278, SHORT, 32),
            (279, LONG, 48 * 32 * 3),
        ],
        raw,
    )  # fmt: skip
    thumbnail = jpeg(scene.resize((160, 120)))
    shown = tiff.directory(
        [(513, LONG, tiff.add(thumbnail)), (514, LONG, len(thumbnail))], uncompressed
    )
    strip = [one for one in _jpeg_strip(tiff, preview, Image.open(io.BytesIO(preview)).size, 6)
             if one[0] not in (254, 262, 277)]  # fmt: skip
    first = tiff.directory(
        [*strip, (271, ASCII, "Canon"), (272, ASCII, "Canon EOS 5D"), (274, SHORT, orientation)],
        shown,
    )
    struct.pack_into("<I", tiff.content, 12, raw)
    return tiff.finish(first)


def rw2(scene: Image.Image, preview: bytes, *, orientation: int = 1) -> bytes:
    """Panasonic's: a header of its own, then the directory, with the preview as a tag's value.

    Layout: exiftool.org/TagNames/PanasonicRaw.html.
    """
    first, num_tags = 24, 16
    tiff = Tiff("<", b"IIU\0")
    tiff.content += _RW2_MARK + bytes(2 + 12 * num_tags + 4)
    values = bayer(scene)
    place = tiff.add(values.astype("<u2").tobytes())
    written = tiff.directory(
        [
            (2, SHORT, values.shape[1]), (3, SHORT, values.shape[0]), (4, SHORT, 0), (5, SHORT, 0),
            (6, SHORT, values.shape[0]), (7, SHORT, values.shape[1]), (9, SHORT, 1),
            (10, SHORT, 12), (11, SHORT, 34_316), (46, 7, preview), (271, ASCII, "Panasonic"),
            (272, ASCII, "DMC-GX80"), (273, LONG, place), (274, SHORT, orientation),
            (279, LONG, values.nbytes), (280, LONG, place),
        ]
    )  # fmt: skip
    directory = tiff.content[written:]
    del tiff.content[written:]
    tiff.content[first : first + len(directory)] = directory
    return tiff.finish(first)


def orf(scene: Image.Image, preview: bytes, *, orientation: int = 1) -> bytes:
    """Olympus's: a header of its own, the preview among the maker's notes.

    The notes have offsets of their own, from their beginning. Layout:
    exiftool.org/TagNames/Olympus.html, CameraSettings.
    """
    tiff = Tiff("<", b"IIRO")
    values = bayer(scene)
    place = tiff.add(values.astype("<u2").tobytes())
    head = b"OLYMPUS\0II\x03\0"
    settings = len(head) + 2 + 12 + 4  # after the first directory, which has one entry
    start = settings + 2 + 3 * 12 + 4
    notes = head + _entries((0x2020, 13, 1, settings))
    notes += _entries((0x100, LONG, 1, 1), (0x101, LONG, 1, start), (0x102, LONG, 1, len(preview)))
    exif = tiff.directory([(37_500, 7, notes + preview)])
    first = tiff.directory(
        [
            (256, LONG, values.shape[1]), (257, LONG, values.shape[0]), (258, SHORT, 16),
            (259, SHORT, 1), (262, SHORT, 1), (271, ASCII, "OLYMPUS IMAGING CORP."),
            (272, ASCII, "E-M10"), (273, LONG, place), (274, SHORT, orientation),
            (277, SHORT, 1), (278, LONG, values.shape[0]), (279, LONG, values.nbytes),
            (34_665, LONG, exif),
        ]
    )  # fmt: skip
    return tiff.finish(first)


def _entries(*entries: tuple[int, int, int, int]) -> bytes:
    """A directory of tags whose values take four bytes, the last one of its list."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<H", len(entries)) + packed + bytes(4)


def raf(scene: Image.Image, preview: bytes) -> bytes:
    """Fujifilm's: a header that says where the preview is, which has EXIF data of its own.

    After it come a list of tags and the sensor's data. Layout:
    exiftool.org/TagNames/FujiFilm.html, RAF; libopenraw.freedesktop.org/formats/raf.
    """
    height, width = bayer(scene).shape
    tags = struct.pack(">IHHHHHHHH", 2, 0x100, 4, height, width, 0x121, 4, height, width)
    data = bayer(scene).astype("<u2").tobytes()
    places, place = [], 148
    for part in (preview, tags, data):
        places += [place, len(part)]
        place += len(part)
    head = b"FUJIFILMCCD-RAW 0201FF393101" + b"X-T2".ljust(32, b"\0") + b"0100" + bytes(20)
    return (head + struct.pack(">6I", *places)).ljust(148, b"\0") + preview + tags + data


def box(kind: bytes, *contents: bytes) -> bytes:
    content = b"".join(contents)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def cr3(preview: bytes, full: bytes = b"", *, orientation: int = 1) -> bytes:
    """Canon's second: boxes as in a video; the orientation in one, the previews in others.

    Layout: github.com/lclevy/canon_cr3.
    """
    tiff = Tiff("<")
    canon = tiff.finish(
        tiff.directory(
            [(271, ASCII, "Canon"), (272, ASCII, "Canon EOS R"), (274, SHORT, orientation)]
        )
    )
    movie = box(
        b"moov",
        box(
            b"uuid",
            _CANON_UUID,
            box(b"CNCV", b"CanonCR3_001/01.09.00/00.00.00"),
            box(b"CMT1", canon),
        ),
    )
    size = Image.open(io.BytesIO(preview)).size
    shown = struct.pack(">IHHHHI", 0, 1, *size, 1, len(preview)) + preview
    previews = box(b"uuid", _PREVIEW_UUID, bytes(8), box(b"PRVW", shown))
    start = box(b"ftyp", b"crx \0\0\0\1crx isom")
    return start + movie + previews + box(b"mdat", full, bytes(3000))


def _lossless_jpeg(values: np.ndarray) -> bytes:
    """The lossless JPEG in which Canon stores the sensor's data; here it is one even gray."""
    height, width = values.shape
    frame = struct.pack(">BHHB", 14, height, width // 2, 2) + bytes((1, 0x11, 0, 2, 0x11, 0))
    table = b"".join(bytes((kind, 1, *([0] * 15), 0)) for kind in (0, 1))
    scan = bytes((2, 1, 0x00, 2, 0x10, 1, 0, 0))
    segments = ((0xC4, table), (0xC3, frame), (0xDA, scan))
    content = b"".join(
        bytes((0xFF, kind)) + struct.pack(">H", 2 + len(data)) + data for kind, data in segments
    )
    return b"\xff\xd8" + content + bytes(width * height // 8 + 1) + b"\xff\xd9"
