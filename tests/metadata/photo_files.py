"""Encoded images with metadata: by Pillow's writers, and broken EXIF by one of our own."""

import io
import struct
from collections.abc import Sequence

import pillow_heif
from PIL import Image, PngImagePlugin
from PIL.ExifTags import GPS, IFD, Base
from PIL.TiffImagePlugin import IFDRational

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIC")
XMP_TEMPLATE = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:exif="http://ns.adobe.com/exif/1.0/"
 xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"
 xmlns:aux="http://ns.adobe.com/exif/1.0/aux/" xmlns:exifEX="http://cipa.jp/exif/1.0/"{attributes}>
{elements}
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


def make_xmp(elements: str = "", attributes: str = "") -> bytes:
    """Return an XMP packet with these elements and attributes of the image's description."""
    return XMP_TEMPLATE.format(elements=elements, attributes=f" {attributes}").encode()


def make_exif() -> Image.Exif:
    """Return EXIF with every tag that is read, as Pillow writes it."""
    exif = Image.Exif()
    exif[Base.Make] = "NIKON CORPORATION"
    exif[Base.Model] = "NIKON D70"
    exif[Base.ImageDescription] = "A dog on a beach"
    exif[Base.DateTime] = "2025:12:31 23:59:59"
    exif[0x4746] = 3
    exif[Base.XPTitle] = "Títle\0".encode("utf-16-le")
    exif[Base.XPKeywords] = "beach;dog\0".encode("utf-16-le")
    exif.get_ifd(IFD.Exif).update(
        {
            Base.DateTimeOriginal: "2023:05:04 10:30:01",
            Base.SubsecTimeOriginal: "25",
            Base.OffsetTimeOriginal: "-03:30",
            Base.DateTimeDigitized: "2024:01:01 00:00:00",
            Base.ISOSpeedRatings: 400,
            Base.ExposureTime: IFDRational(1, 250),
            Base.FNumber: IFDRational(28, 10),
            Base.FocalLength: IFDRational(50, 1),
            Base.LensModel: "AF 50mm f/1.8",
        }
    )
    exif.get_ifd(IFD.GPSInfo).update(
        {
            GPS.GPSLatitudeRef: "N",
            GPS.GPSLatitude: (48.0, 51.0, 30.0),
            GPS.GPSLongitudeRef: "W",
            GPS.GPSLongitude: (2.0, 17.0, 42.0),
            GPS.GPSAltitudeRef: b"\1",
            GPS.GPSAltitude: IFDRational(355, 10),
        }
    )
    return exif


def encode(
    file_format: str, *, exif: Image.Exif | bytes | None = None, xmp: bytes | None = None
) -> bytes:
    """Return a small image with this metadata."""
    image = Image.new("RGB", (24, 16), (200, 60, 30))
    out = io.BytesIO()
    options = {} if exif is None else {"exif": exif}
    if isinstance(exif, Image.Exif) and file_format not in ("PNG", "TIFF"):
        options["exif"] = exif.tobytes()
    if file_format == "HEIC":
        # The plugin takes EXIF from the image too.
        pillow_heif.from_pillow(image).save(out, xmp=xmp, **options)
    elif file_format == "PNG":
        info = PngImagePlugin.PngInfo()
        if xmp is not None:
            info.add_itxt("XML:com.adobe.xmp", xmp.decode(), zip=True)
        image.save(out, "PNG", pnginfo=info, **options)
    elif file_format == "TIFF":
        tags = exif if isinstance(exif, Image.Exif) else Image.Exif()
        if xmp is not None:
            tags[700] = xmp
        image.save(out, "TIFF", exif=tags.tobytes())
    else:
        if xmp is not None:
            options["xmp"] = xmp
        image.save(out, file_format, **options)
    return out.getvalue()


Entry = tuple[int, int, int, bytes]
"""Tag, type, count and data of an entry; up to 4 bytes are stored in it."""


def make_tiff(
    main: Sequence[Entry] = (), exif: Sequence[Entry] = (), gps: Sequence[Entry] = (),
    order: str = "<",
) -> bytes:  # fmt: skip
    """Write EXIF data of any entries, also such as no program writes."""
    directories: dict[int, Sequence[Entry]] = {IFD.Exif: exif, IFD.GPSInfo: gps}
    size = 8 + _size(len(main) + 2)
    starts: dict[int, int] = {}
    for tag, entries in directories.items():
        starts[tag] = size
        size += _size(len(entries))
    links = [(tag, 4, 1, struct.pack(f"{order}I", start)) for tag, start in starts.items()]
    blob = b""
    written = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    for entries in ([*main, *links], exif, gps):
        written += struct.pack(f"{order}H", len(entries))
        for tag, kind, count, data in entries:
            if len(data) > 4:
                place = struct.pack(f"{order}I", size + len(blob))
                blob += data
            else:
                place = data.ljust(4, b"\0")
            written += struct.pack(f"{order}HHI4s", tag, kind, count, place)
        written += bytes(4)
    return written + blob


def _size(num_entries: int) -> int:
    return 2 + 12 * num_entries + 4


def text(tag: int, value: str | bytes) -> Entry:
    """Return an entry of ASCII."""
    data = value.encode() if isinstance(value, str) else value
    return tag, 2, len(data), data


def rationals(tag: int, *pairs: tuple[int, int]) -> Entry:
    """Return an entry of unsigned fractions."""
    return tag, 5, len(pairs), b"".join(struct.pack("<II", *pair) for pair in pairs)


def short(tag: int, value: int) -> Entry:
    """Return an entry of one number of 16 bits."""
    return tag, 3, 1, struct.pack("<H", value)


def jpeg_of(exif: bytes, *, segments: Sequence[tuple[int, bytes]] = ()) -> bytes:
    """Return a JPEG with EXIF data and other segments: marker and content."""
    plain = encode("JPEG")
    parts = [(0xE1, b"Exif\0\0" + exif)] if exif else []
    packed = b"".join(
        struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
        for marker, content in [*parts, *segments]
    )
    return plain[:2] + packed + plain[2:]


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content) + 8, kind) + content


TAKEN = text(Base.DateTimeOriginal, "2023:05:04 10:30:01\0")
GPS_TAGS = [
    text(GPS.GPSLatitudeRef, "N\0"), rationals(GPS.GPSLatitude, (48, 1)),
    text(GPS.GPSLongitudeRef, "W\0"), rationals(GPS.GPSLongitude, (2, 1)),
]  # fmt: skip


def canon_raw() -> bytes:
    """Return a CR3 file: the directories of EXIF are TIFF files in boxes of their own."""
    parts = {
        b"CMT1": make_tiff([text(Base.Model, "A")]),
        b"CMT2": make_tiff([TAKEN]),
        b"CMT4": make_tiff(GPS_TAGS),
    }
    canon = bytes.fromhex("85c0b687820f11e08111f4ce462b6a48")
    boxes = b"".join(_box(kind, content) for kind, content in parts.items())
    xmp = bytes.fromhex("be7acfcb97a942e89c71999491e3afac") + make_xmp(attributes='xmp:Rating="4"')
    movie = _box(b"moov", _box(b"uuid", canon + boxes))
    return _box(b"ftyp", b"crx \0\0\0\1crx ") + movie + _box(b"uuid", xmp)


def fuji_raw() -> bytes:
    """Return a RAF file: a JPEG has the metadata."""
    jpeg = jpeg_of(make_tiff([text(Base.Model, "A")], [TAKEN], GPS_TAGS))
    return b"FUJIFILMCCD-RAW 0201".ljust(84, b"\0") + struct.pack(">II", 92, len(jpeg)) + jpeg


def jpeg_xl() -> bytes:
    """Return the metadata of a JPEG XL file, without an image."""
    tiff = make_tiff([text(Base.Model, "A")], [TAKEN], GPS_TAGS)
    start = bytes.fromhex("0000000c4a584c200d0a870a")
    return start + _box(b"ftyp", b"jxl \0\0\0\0jxl ") + _box(b"Exif", bytes(4) + tiff)
