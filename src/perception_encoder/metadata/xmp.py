"""Read XMP, which is RDF in XML: ISO 16684-1, and the namespaces of Exif, Photoshop and CIPA.

Only properties of the image itself are read, not those of its history, regions or parents. What
comes before an error in the XML is kept: padding and lost ends are common.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias, TypeVar

from perception_encoder.metadata.photo import PhotoMetadata, ReadTags
from perception_encoder.metadata.values import (
    MAX_BLOCK_BYTES,
    MAX_CAPTION,
    bounded_float,
    bounded_int,
    clean_caption,
    clean_text,
    join_camera,
    join_keywords,
    make_altitude,
    make_place,
    make_rating,
    parse_number,
    parse_taken,
)

_RDF: Final = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_LANGUAGE: Final = "{http://www.w3.org/XML/1998/namespace}lang"
_DEFAULT_LANGUAGE: Final = "x-default"
_NAMES: Final = {
    f"{{{namespace}}}{name}": f"{prefix}:{name}"
    for prefix, namespace, names in (
        ("dc", "http://purl.org/dc/elements/1.1/", "title description subject"),
        ("xmp", "http://ns.adobe.com/xap/1.0/", "CreateDate Rating"),
        ("photoshop", "http://ns.adobe.com/photoshop/1.0/", "DateCreated Headline"),
        ("tiff", "http://ns.adobe.com/tiff/1.0/", "Make Model ImageDescription"),
        ("aux", "http://ns.adobe.com/exif/1.0/aux/", "Lens"),
        ("exifEX", "http://cipa.jp/exif/1.0/", "LensModel PhotographicSensitivity"),
        (
            "exif",
            "http://ns.adobe.com/exif/1.0/",
            "DateTimeOriginal GPSLatitude GPSLongitude GPSAltitude GPSAltitudeRef ISOSpeedRatings "
            "ExposureTime FNumber FocalLength UserComment",
        ),
    )
    for name in names.split()
}
_ITEMS: Final = (f"{_RDF}li", f"{_RDF}value")
_MAX_ELEMENTS: Final = 50_000
_MAX_ITEMS: Final = 1_000
_MAX_CHARACTERS: Final = 4 * MAX_CAPTION  # of one value
_INVALID_TOKEN: Final = 4
_BLANK: Final = b"\0 \t\r\n"

_MINUTES: Final = re.compile(r"(\d{1,3}),(\d{1,2}(?:\.\d{1,12})?)\s*([NSEW])", re.ASCII)
_SECONDS: Final = re.compile(r"(\d{1,3}),(\d{1,2}),(\d{1,2}(?:\.\d{1,12})?)\s*([NSEW])", re.ASCII)
_DECIMAL: Final = re.compile(r"(\d{1,3}(?:\.\d{1,20})?)\s*([NSEW])", re.ASCII)


class _Item(NamedTuple):
    text: str
    language: str | None = None


_Properties: TypeAlias = Mapping[str, Sequence[_Item]]
_T = TypeVar("_T")


class _TooLongError(Exception):
    """More elements than any program writes."""


def read_xmp(data: bytes) -> ReadTags:
    """Read the values of an XMP packet or file, of at most `MAX_BLOCK_BYTES`."""
    found = _parse(data)
    taken = parse_taken(_text(found, "exif:DateTimeOriginal"))
    taken = taken or parse_taken(_text(found, "photoshop:DateCreated"))
    latitude, longitude = make_place(
        _parse_degrees(_text(found, "exif:GPSLatitude"), "NS"),
        _parse_degrees(_text(found, "exif:GPSLongitude"), "EW"),
    )
    title = clean_text(_text(found, "dc:title")) or clean_text(_text(found, "photoshop:Headline"))
    descriptions = ("dc:description", "tiff:ImageDescription", "exif:UserComment")
    iso = _first_of(found, ("exifEX:PhotographicSensitivity", "exif:ISOSpeedRatings"), _number)
    metadata = PhotoMetadata(
        taken_at=taken and taken.taken_at,
        taken_offset=taken and taken.taken_offset,
        latitude=latitude,
        longitude=longitude,
        altitude=_altitude(found),
        camera=join_camera(_text(found, "tiff:Make"), _text(found, "tiff:Model")),
        lens=_first_of(found, ("exifEX:LensModel", "aux:Lens"), _clean),
        iso=bounded_int(iso, 1, 10_000_000),
        exposure_time=_positive(found, "exif:ExposureTime", 1e6),
        f_number=_positive(found, "exif:FNumber", 1e3),
        focal_length=_positive(found, "exif:FocalLength", 1e5),
        rating=make_rating(_number(found, "xmp:Rating")),
        title=title,
        caption=_first_of(found, descriptions, _caption),
        keywords=join_keywords(item.text for item in found.get("dc:subject", ())),
    )
    return ReadTags(metadata, parse_taken(_text(found, "xmp:CreateDate")))


def _parse(data: bytes) -> _Properties:
    if len(data) > MAX_BLOCK_BYTES or not (data := data.lstrip(_BLANK)):
        return {}
    properties, is_invalid = _collect(data)
    if not is_invalid or data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return properties
    # A text in another encoding than the stated one costs that text only.
    return _collect(data.decode("utf-8", "replace"))[0]


def _collect(document: bytes | str) -> tuple[_Properties, bool]:
    """Return the properties up to the end or an error, and whether it is one of the encoding."""
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import DefusedXMLParser, ParseError

    collector = _Collector()
    parser = DefusedXMLParser(target=collector, forbid_dtd=True)
    try:
        parser.feed(document)
    except ParseError as err:
        return collector.properties, err.code == _INVALID_TOKEN
    except (DefusedXmlException, _TooLongError, ValueError):
        pass
    return collector.properties, False


class _Collector:
    """Collects the properties that are known, as the parser comes to them.

    Properties are attributes or children of the descriptions in `rdf:RDF`. A value is a text, or
    the items of a list in it.
    """

    def __init__(self) -> None:
        self.properties: dict[str, list[_Item]] = {}
        self._depth = 0
        self._root = 0  # the depth of rdf:RDF
        self._num_elements = 0
        self._name: str | None = None
        self._items: list[_Item] = []
        self._language: str | None = None
        self._is_item = False
        self._text: list[str] = []
        self._length = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        self._num_elements += 1
        if self._num_elements > _MAX_ELEMENTS:
            raise _TooLongError
        if not self._root:
            self._root = self._depth if tag == f"{_RDF}RDF" else 0
            return
        level = self._depth - self._root
        if level == 1:
            for key, value in attributes.items():
                if name := _NAMES.get(key):
                    self.properties.setdefault(name, [_Item(value[:_MAX_CHARACTERS])])
        elif level == 2:
            name = _NAMES.get(tag)
            self._name = None if name in self.properties else name
            self._items = []
            self._begin_text(is_item=False)
        elif self._name is not None and level in (3, 4) and tag in _ITEMS:
            self._language = attributes.get(_LANGUAGE)
            self._begin_text(is_item=True)

    def data(self, text: str) -> None:
        if self._name is not None and self._length < _MAX_CHARACTERS:
            self._text.append(text)
            self._length += len(text)

    def end(self, tag: str) -> None:
        level = self._depth - self._root
        self._depth -= 1
        if self._name is None:
            return
        if level in (3, 4) and tag in _ITEMS and self._is_item:
            if len(self._items) < _MAX_ITEMS:
                self._items.append(_Item("".join(self._text), self._language))
            self._begin_text(is_item=False)
        elif level == 2:
            self.properties[self._name] = self._items or [_Item("".join(self._text))]
            self._name = None

    def close(self) -> None:
        """Do nothing: the parser asks for it."""

    def _begin_text(self, *, is_item: bool) -> None:
        self._is_item = is_item
        self._text, self._length = [], 0


def _text(found: _Properties, name: str) -> str | None:
    """Return the first item, or of several languages the default one."""
    items = found.get(name)
    if not items:
        return None
    default = (item.text for item in items if item.language == _DEFAULT_LANGUAGE)
    return next(default, items[0].text)


def _number(found: _Properties, name: str) -> float | None:
    return parse_number(_text(found, name))


def _clean(found: _Properties, name: str) -> str | None:
    return clean_text(_text(found, name))


def _caption(found: _Properties, name: str) -> str | None:
    return clean_caption(_text(found, name))


def _first_of(
    found: _Properties, names: Sequence[str], read: Callable[[_Properties, str], _T | None]
) -> _T | None:
    values = (read(found, name) for name in names)
    return next((value for value in values if value is not None), None)


def _positive(found: _Properties, name: str, high: float) -> float | None:
    return bounded_float(_number(found, name), 0, high, with_low=False)


def _altitude(found: _Properties) -> float | None:
    meters = _number(found, "exif:GPSAltitude")
    is_below = _number(found, "exif:GPSAltitudeRef") == 1
    return make_altitude(-meters if meters is not None and is_below else meters)


def _parse_degrees(text: str | None, letters: str) -> float | None:
    """Parse "48,51.5N" or "48,51,30N", and decimals with a letter or a sign.

    Args:
        text: of the property.
        letters: of the hemispheres, the positive one first.
    """
    text = (text or "")[:64].strip()
    if parts := _SECONDS.fullmatch(text):
        degrees, minutes, seconds, letter = *map(float, parts.groups()[:3]), parts[4]
    elif parts := _MINUTES.fullmatch(text):
        degrees, minutes, seconds, letter = float(parts[1]), float(parts[2]), 0.0, parts[3]
    elif parts := _DECIMAL.fullmatch(text):
        degrees, minutes, seconds, letter = float(parts[1]), 0.0, 0.0, parts[2]
    else:
        return parse_number(text)
    if letter not in letters or minutes >= 60 or seconds >= 60:
        return None
    return (degrees + minutes / 60 + seconds / 3600) * (1 if letter == letters[0] else -1)
