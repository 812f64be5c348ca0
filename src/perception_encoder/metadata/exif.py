"""Read the values of EXIF: CIPA DC-008."""

from __future__ import annotations

from typing import Final

from PIL.ExifTags import GPS, IFD, Base

from perception_encoder.metadata.photo import PhotoMetadata, ReadTags, TakenTime
from perception_encoder.metadata.tiff import Tags, TiffTags
from perception_encoder.metadata.values import (
    bounded_float,
    bounded_int,
    clean_caption,
    clean_text,
    decode_text,
    join_camera,
    join_keywords,
    make_altitude,
    make_place,
    make_rating,
    parse_taken,
)

_RATING: Final = 0x4746
_RATING_PERCENT: Final = 0x4749
# Per cent as Windows writes them for 1 to 5 stars.
_STARS: Final = {0: 0, 1: 1, 25: 2, 50: 3, 75: 4, 99: 5, 100: 5}
_SENSITIVITY_IS_ELSEWHERE: Final = 65_535
_CHARSET_BYTES: Final = 8

_MAIN_TAGS: Final = frozenset(
    (
        *(Base.Make, Base.Model, Base.ImageDescription, _RATING, _RATING_PERCENT),
        *(Base.XPTitle, Base.XPComment, Base.XPKeywords, Base.XPSubject),
        *(IFD.Exif, IFD.GPSInfo),
    )
)
_EXIF_TAGS: Final = frozenset(
    (
        *(Base.DateTimeOriginal, Base.SubsecTimeOriginal, Base.OffsetTimeOriginal),
        *(Base.DateTimeDigitized, Base.SubsecTimeDigitized, Base.OffsetTimeDigitized),
        *(Base.OffsetTime, Base.ISOSpeedRatings, Base.RecommendedExposureIndex, Base.ISOSpeed),
        *(Base.ExposureTime, Base.FNumber, Base.FocalLength, Base.LensModel, Base.UserComment),
    )
)
_FIRST_TAGS: Final = _MAIN_TAGS | _EXIF_TAGS
_GPS_TAGS: Final = frozenset(
    (
        *(GPS.GPSLatitudeRef, GPS.GPSLatitude, GPS.GPSLongitudeRef, GPS.GPSLongitude),
        *(GPS.GPSAltitudeRef, GPS.GPSAltitude),
    )
)


def read_exif(data: bytes, exif_part: bytes = b"", gps_part: bytes = b"") -> ReadTags:
    """Read the values of EXIF data.

    `DateTime`, the time of the last change, is not used: like a file's time, it is that of the last
    program that stored the image.

    Args:
        data: from the byte order mark on; of a TIFF image, the file.
        exif_part: the second directory, where it is in a block of its own.
        gps_part: the directory of the place, where it is in a block of its own.
    """
    file = TiffTags(data)
    # TIFF files of cameras have the tags of the second directory in the first.
    main = file.read(file.first, _FIRST_TAGS)
    exif = main | file.read(_offset(main, IFD.Exif), _EXIF_TAGS)
    gps = file.read(_offset(main, IFD.GPSInfo), _GPS_TAGS)
    if exif_part or gps_part:
        exif_file, gps_file = TiffTags(exif_part), TiffTags(gps_part)
        exif |= exif_file.read(exif_file.first, _EXIF_TAGS)
        gps |= gps_file.read(gps_file.first, _GPS_TAGS)
    taken = _taken(exif, Base.DateTimeOriginal, Base.SubsecTimeOriginal, Base.OffsetTimeOriginal)
    digitized = _taken(
        exif, Base.DateTimeDigitized, Base.SubsecTimeDigitized, Base.OffsetTimeDigitized
    )
    latitude, longitude = make_place(
        _degrees(gps, GPS.GPSLatitude, GPS.GPSLatitudeRef, b"NS"),
        _degrees(gps, GPS.GPSLongitude, GPS.GPSLongitudeRef, b"EW"),
    )
    metadata = PhotoMetadata(
        taken_at=taken and taken.taken_at,
        taken_offset=taken and taken.taken_offset,
        latitude=latitude,
        longitude=longitude,
        altitude=_altitude(gps),
        camera=join_camera(_text(main, Base.Make), _text(main, Base.Model)),
        lens=clean_text(_text(exif, Base.LensModel)),
        iso=_iso(exif),
        exposure_time=bounded_float(_number(exif, Base.ExposureTime), 0, 1e6, with_low=False),
        f_number=bounded_float(_number(exif, Base.FNumber), 0, 1e3, with_low=False),
        focal_length=bounded_float(_number(exif, Base.FocalLength), 0, 1e5, with_low=False),
        rating=_rating(main),
        title=clean_text(_wide_text(main, Base.XPTitle)),
        caption=_caption(main, exif),
        keywords=join_keywords([_wide_text(main, Base.XPKeywords) or ""]),
    )
    return ReadTags(metadata, digitized)


def _offset(tags: Tags, tag: int) -> int:
    number = _number(tags, tag)
    return int(number) if number is not None and 0 < number < 2**63 else 0


def _number(tags: Tags, tag: int) -> float | None:
    value = tags.get(tag)
    if isinstance(value, bytes):
        return value[0] if len(value) == 1 else None
    return value[0] if value else None


def _text(tags: Tags, tag: int) -> str | None:
    value = tags.get(tag)
    return decode_text(value) if isinstance(value, bytes) else None


def _wide_text(tags: Tags, tag: int) -> str | None:
    """Return a text of Windows, which is UTF-16 in either byte order of the file."""
    value = tags.get(tag)
    if not isinstance(value, bytes):
        return None
    return _decode_utf16(value[: len(value) // 2 * 2], "utf-16-le")


def _decode_utf16(content: bytes, encoding: str) -> str | None:
    try:
        return content.decode(encoding).partition("\0")[0]
    except UnicodeDecodeError:
        return None


def _taken(tags: Tags, tag: int, subseconds: int, offset: int) -> TakenTime | None:
    return parse_taken(
        _text(tags, tag),
        subseconds=_text(tags, subseconds),
        offset=_text(tags, offset) or _text(tags, Base.OffsetTime),
    )


def _degrees(gps: Tags, tag: int, ref_tag: int, refs: bytes) -> float | None:
    """Return degrees of degrees, minutes and seconds; None where the hemisphere is not said."""
    parts, ref = gps.get(tag), gps.get(ref_tag)
    if not isinstance(parts, tuple) or not isinstance(ref, bytes):
        return None
    hemisphere = refs.find(ref[:1].upper()) if ref[:1] else -1
    # Minutes and seconds may be left out, as 0/0 too where the degrees are a fraction.
    degrees, minutes, seconds = (*parts[:3], 0, 0)[:3]
    if degrees is None or hemisphere < 0:
        return None
    minutes, seconds = minutes or 0, seconds or 0
    if degrees < 0 or not 0 <= minutes < 60.01 or not 0 <= seconds < 60.01:
        return None
    return (degrees + minutes / 60 + seconds / 3600) * (-1 if hemisphere else 1)


def _altitude(gps: Tags) -> float | None:
    meters = _number(gps, GPS.GPSAltitude)
    # 1 and 3: below the sea, below the ellipsoid.
    is_below = _number(gps, GPS.GPSAltitudeRef) in (1, 3)
    return make_altitude(-meters if meters is not None and is_below else meters)


def _iso(exif: Tags) -> int | None:
    """Return the sensitivity, which stands in another tag where it is beyond 16 bits."""
    for tag in (Base.ISOSpeedRatings, Base.RecommendedExposureIndex, Base.ISOSpeed):
        iso = bounded_int(_number(exif, tag), 1, 10_000_000)
        if iso is not None and iso != _SENSITIVITY_IS_ELSEWHERE:
            return iso
    return None


def _rating(main: Tags) -> int | None:
    rating = make_rating(_number(main, _RATING))
    if rating is not None:
        return rating
    per_cent = bounded_int(_number(main, _RATING_PERCENT), 0, 100)
    return None if per_cent is None else _STARS.get(per_cent)


def _caption(main: Tags, exif: Tags) -> str | None:
    texts = (
        _text(main, Base.ImageDescription),
        _wide_text(main, Base.XPComment),
        _wide_text(main, Base.XPSubject),
        _user_comment(exif),
    )
    captions = map(clean_caption, texts)
    return next((caption for caption in captions if caption is not None), None)


def _user_comment(exif: Tags) -> str | None:
    """Decode a comment behind the name of its encoding."""
    value = exif.get(Base.UserComment)
    if not isinstance(value, bytes):
        return None
    charset, content = value[:_CHARSET_BYTES].rstrip(b"\0 "), value[_CHARSET_BYTES:]
    if charset == b"UNICODE":
        content = content[: len(content) // 2 * 2]
        # In the byte order of the file by the standard; programs write either.
        is_little = content[1::2].count(0) >= content[::2].count(0)
        return _decode_utf16(content, "utf-16-le" if is_little else "utf-16-be")
    if charset == b"JIS":
        try:
            return content.rstrip(b"\0").decode("iso2022_jp")
        except UnicodeDecodeError:
            return None
    return decode_text(content) if charset in (b"ASCII", b"") else None
