"""Read all metadata of an encoded image, and decide which source of a value counts."""

from __future__ import annotations

from perception_encoder.metadata.blocks import find_blocks
from perception_encoder.metadata.exif import read_exif
from perception_encoder.metadata.photo import PhotoMetadata


def read_metadata(data: bytes) -> PhotoMetadata:
    """Read EXIF, XMP and IPTC of one encoded image. No pixels are decoded.

    It raises nothing for what the file holds: a value that is damaged or cannot be right is None.

    Args:
        data: the file.
    """
    blocks = find_blocks(data)
    exif = read_exif(blocks.exif)
    metadata = exif.metadata
    if exif.digitized is not None:
        digitized = PhotoMetadata(
            taken_at=exif.digitized.taken_at, taken_offset=exif.digitized.taken_offset
        )
        metadata = metadata.fill_from(digitized)
    return metadata
