"""Read all metadata of an encoded image, and decide which source of a value counts."""

from __future__ import annotations

from perception_encoder.metadata.blocks import find_blocks
from perception_encoder.metadata.exif import read_exif
from perception_encoder.metadata.iptc import find_iptc, read_iptc
from perception_encoder.metadata.photo import PhotoMetadata, ReadTags
from perception_encoder.metadata.xmp import read_xmp

_NOTHING = ReadTags(PhotoMetadata())


def read_metadata(data: bytes) -> PhotoMetadata:
    """Read EXIF, XMP and IPTC of one encoded image. No pixels are decoded.

    It raises nothing for what the file holds: a value that is damaged or cannot be right is None.

    Where several sources have a value, one counts:

    - what the camera measured (time, place, exposure): EXIF, then XMP, then IPTC;
    - what people wrote (rating, title, caption, keywords): XMP, then IPTC, then EXIF, because
      programs that edit captions write XMP, and EXIF has no letters but ASCII;
    - `taken_at`: EXIF `DateTimeOriginal`, XMP `exif:DateTimeOriginal`, `photoshop:DateCreated`,
      IPTC date and time; where none of these is there, the time of digitizing: EXIF
      `DateTimeDigitized`, XMP `xmp:CreateDate`. A date alone is its midnight. EXIF `DateTime` is
      not used, nor is the file's time: both are those of the last change.

    Args:
        data: the file: JPEG, PNG, WebP, TIFF, HEIC, AVIF, JPEG XL, or a camera's RAW file (TIFF, as
            most are, CR3, RAF).
    """
    blocks = find_blocks(data)
    if not any(blocks):
        return _NOTHING.metadata
    exif = _NOTHING
    if blocks.exif:
        exif = read_exif(blocks.exif, blocks.exif_part, blocks.gps_part)
    xmp = read_xmp(blocks.xmp) if blocks.xmp else _NOTHING
    iptc = PhotoMetadata()
    if iptc_block := blocks.iptc or find_iptc(blocks.photoshop):
        iptc = read_iptc(iptc_block)
    digitized = (
        PhotoMetadata(**taken._asdict())
        for taken in (exif.digitized, xmp.digitized)
        if taken is not None
    )
    measured = exif.metadata.fill_from(xmp.metadata, iptc, *digitized)
    return measured.with_texts_of(xmp.metadata.fill_from(iptc, exif.metadata))
