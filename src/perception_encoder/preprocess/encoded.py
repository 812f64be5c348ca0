"""Decode files and bytes to PIL images.

Only the formats below are tried, chosen by the first bytes. None of them runs another program (EPS
in Pillow does). Pillow's decoders are called directly rather than through `Image.open`, whose check
for decompression bombs depends on a process-wide limit.
"""

import io
import os
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import IO, Any, Final, Literal, NamedTuple, TypeAlias, cast

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from perception_encoder.errors import (
    ImageDecodeError,
    ImageEmptyError,
    ImageError,
    ImageTooLargeError,
    ImageTruncatedError,
    ImageUnreadableError,
)
from perception_encoder.preprocess.described_colors import make_cicp_profile
from perception_encoder.preprocess.files import open_regular_file
from perception_encoder.preprocess.heif import check_heif, find_nclx
from perception_encoder.preprocess.isolated import decode_isolated
from perception_encoder.preprocess.jpeg2000 import check_jpeg2000, drop_false_alpha
from perception_encoder.preprocess.limits import (
    MAX_SCANS,
    LimitedStream,
    LimitError,
    check_size,
    whole,
)
from perception_encoder.preprocess.metadata import strip_metadata, trim_jpeg, trim_png
from perception_encoder.preprocess.pillow_formats import PpmImageFile, TiffImageFile
from perception_encoder.preprocess.raw import find_preview, is_raw

# Streams are ours: of a file, Pillow wants to read, seek and tell.
_Decoder: TypeAlias = Callable[[Any, str], ImageFile.ImageFile]

# JpegImageFile and not the plugin's factory: of a multi-image file only the first one is wanted.
_DECODERS: Final[dict[str, _Decoder]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "JPEG2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
    "PPM": PpmImageFile,
}
_JPEG2000_STARTS: Final = (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")
_JPEG_XL_STARTS: Final = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
_HEIF_BRANDS: Final = frozenset(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
)
_MOVIE_BOXES: Final = (b"ftyp", b"moov", b"mdat", b"wide")
_MATROSKA_START: Final = b"\x1a\x45\xdf\xa3"
# What Pillow's decoders raise on damaged data (its warnings too, where they are made errors).
# MemoryError is not here: it is no fault of the file. SystemError is raised where a decoder in C
# goes on after a read that failed.
DAMAGE: Final = (
    OSError, SystemError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, EOFError,
    RuntimeError, ArithmeticError, struct.error, zlib.error, UserWarning,
)  # fmt: skip
# How a complete file of a kind begins and ends.
_ENDS: Final = (
    (b"\xff\xd8", b"\xff\xd9"),  # JPEG
    (b"\xff\x4f", b"\xff\xd9"),  # a bare JPEG 2000 code stream
    (b"\x89PNG", b"IEND\xaeB`\x82"),
    (b"GIF8", b";"),
)


class DecodedImage(NamedTuple):
    """A loaded image in its own mode, not yet turned, and how large it really is.

    Attributes:
        image: the pixels; fewer than the image has where it was shrunk while it was decoded.
        full_size: width and height of the whole image, as it is stored.
        covered: width and height of the image in pixels of the image. Where a side of a shrunk
            one is no multiple of the factor, the last column or row is only in part the image's.
    """

    image: Image.Image
    full_size: tuple[int, int]
    covered: tuple[float, float]


def decode_file(
    path: str | os.PathLike[str], *, max_pixels: int, item: str, min_side: int | None = None
) -> DecodedImage:
    """Decode the image in a file (of several frames, the first).

    Args:
        path: a regular file.
        max_pixels: refuse more pixels than this, from the header, before decoding.
        item: names the image in errors.
        min_side: as for `decode_stream`.

    Raises:
        ImageNotFoundError: no file there.
        ImageTooLargeError: the file is larger than `MAX_FILE_BYTES`.
        ImageUnreadableError: a folder, a URL, a device, no permission, or reading failed.
        ImageError: as for `decode_stream`.
    """
    stream, num_bytes = open_regular_file(path, item=item)
    with stream:
        return decode_stream(
            stream, num_bytes=num_bytes, max_pixels=max_pixels, item=item, min_side=min_side
        )


def decode_stream(
    stream: IO[bytes],
    *,
    num_bytes: int,
    max_pixels: int,
    item: str,
    min_side: int | None = None,
) -> DecodedImage:
    """Decode the image in a seekable stream.

    Args:
        stream: from its beginning.
        num_bytes: its length.
        max_pixels: limit for the whole image, whatever is decoded of it.
        item: names the image in errors.
        min_side: a JPEG may be decoded at a half, a quarter or an eighth of its size, as long as
            neither side becomes shorter than this; None decodes everything in full.

    Raises:
        ImageEmptyError: zero bytes.
        ImageTooLargeError: more than max_pixels, or more work than the limits allow.
        ImageTruncatedError: the data ends before the image does.
        ImageDecodeError: not an image in a known format, or damaged.
        ImageUnreadableError: reading failed.
    """
    if num_bytes == 0:
        raise ImageEmptyError(f"{item}: zero bytes; save or fetch the image again", item=item)
    stream, num_bytes, in_full = _unwrap(stream, num_bytes, max_pixels=max_pixels, item=item)
    if in_full is not None:
        return DecodedImage(in_full, in_full.size, in_full.size)
    decode = partial(_decode, max_pixels=max_pixels, item=item, min_side=min_side)
    try:
        return decode(stream, num_bytes=num_bytes)
    except ImageDecodeError:
        plain = strip_metadata(whole(stream))
        if plain is None:
            raise
        with suppress(ImageError):
            return decode(io.BytesIO(plain), num_bytes=len(plain))
        raise


def _unwrap(
    stream: IO[bytes], num_bytes: int, *, max_pixels: int, item: str
) -> tuple[IO[bytes], int, Image.Image | None]:
    """Find the image in a RAW file, and decode what Pillow has no decoder for.

    Returns:
        A stream that Pillow can decode, from its beginning, its size, and None; or the image.
    """
    try:
        start = stream.read(12)
        stream.seek(0)
        if start.startswith(_JPEG_XL_STARTS):
            data = whole(stream)
            return stream, num_bytes, decode_isolated(data, "jxl", max_pixels=max_pixels, item=item)
        if not is_raw(stream):
            stream.seek(0)
            return stream, num_bytes, None
        data = whole(stream)
    except OSError as err:
        raise ImageUnreadableError(f"{item}: reading failed: {err}", item=item) from err
    if (preview := find_preview(data)) is not None:
        return io.BytesIO(preview), len(preview), None
    return stream, num_bytes, decode_isolated(data, "raw", max_pixels=max_pixels, item=item)


def _decode(
    stream: IO[bytes], *, num_bytes: int, max_pixels: int, item: str, min_side: int | None
) -> DecodedImage:
    limited = LimitedStream(stream)
    try:
        image = _open(limited, max_pixels=max_pixels, item=item)
        check_size(image.size, max_pixels=max_pixels, item=item)
        limited.allow(image.width * image.height)
        _prepare_tiff(image, stream)
        full_size = image.size
        covered = None if min_side is None else _shrink(image, min_side)
        image.load()
    except Image.DecompressionBombError as err:
        raise ImageTooLargeError(f"{item}: {err}", item=item) from err
    except LimitError as err:
        raise _too_costly(err, item) from err
    except DAMAGE as err:
        if limited.is_over:
            raise _too_costly(limited.error(), item) from err
        if isinstance(err, OSError) and err.errno is not None:
            raise ImageUnreadableError(f"{item}: reading failed: {err}", item=item) from err
        raise damage_error(err, item, is_cut=_is_cut(stream, num_bytes)) from err
    if covered is not None:
        return DecodedImage(image, full_size, covered)
    size = image.size  # only now: loading turns some TIFFs
    if isinstance(image, Jpeg2KImagePlugin.Jpeg2KImageFile):
        return DecodedImage(drop_false_alpha(image, whole(stream)), size, size)
    return DecodedImage(image, size, size)


def damage_error(err: Exception, item: str, *, is_cut: bool) -> ImageDecodeError:
    """Make the error for data that a decoder gave up on."""
    if is_cut or "truncated" in str(err).lower():
        return ImageTruncatedError(
            f"{item}: the data ends before the image does ({err}); fetch it again", item=item
        )
    return ImageDecodeError(
        f"{item}: the data is damaged or of a kind that cannot be decoded ({err}); "
        "fetch it again, or save it as PNG or JPEG",
        item=item,
    )


def _too_costly(err: Exception, item: str) -> ImageTooLargeError:
    return ImageTooLargeError(f"{item}: {err}; save it again as an ordinary PNG or JPEG", item=item)


def _open(stream: LimitedStream, *, max_pixels: int, item: str) -> ImageFile.ImageFile:
    """Read the header with the decoders that know its first bytes; nothing is decoded yet."""
    head = stream.read(16)
    candidates = [
        _DECODERS[name]
        for name in _DECODERS
        if (accepts := Image.OPEN[name][1]) is None or accepts(head)
    ]
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        candidates.append(partial(_open_heif, item=item))
    if not candidates:
        if _is_video(head):
            raise ImageDecodeError(
                f"{item}: it is a video, not an image; use a frame of it, or pe index, pe embed or "
                "embed_video, which take videos",
                item=item,
            )
        known = ", ".join([*_DECODERS, "HEIC", "JPEG XL", "RAW"])
        raise ImageDecodeError(
            f"{item}: not an image in a known format ({known}); it starts with {head!r}", item=item
        )
    if head.startswith(b"RIFF") and (size := _webp_size(head + stream.read(14))) is not None:
        check_size(size, max_pixels=max_pixels, item=item)  # opening it allocates all its pixels
    source = _trim(stream, head)
    for decoder in candidates[:-1]:  # two at most: AVIF and HEIC share a container's first bytes
        source.seek(0)
        with suppress(SyntaxError):
            return _with_profile(decoder(source, ""), stream)
    source.seek(0)
    image = candidates[-1](source, "")
    if source is not stream:
        image.fp = cast("IO[bytes]", stream)
    return _with_profile(image, stream) if head[4:8] == b"ftyp" else image


def _is_video(head: bytes) -> bool:
    """Whether the first bytes, which are of no image, are those of MP4, Matroska or AVI."""
    is_avi = head.startswith(b"RIFF") and head[8:12] == b"AVI "
    return is_avi or head[4:8] in _MOVIE_BOXES or head.startswith(_MATROSKA_START)


def _with_profile(image: ImageFile.ImageFile, stream: LimitedStream) -> ImageFile.ImageFile:
    """Give an AVIF or HEIC a color profile where it describes its colors without one."""
    if "icc_profile" not in image.info and (colors := find_nclx(whole(stream.stream))) is not None:
        profile = make_cicp_profile(*colors)
        if profile is not None:
            image.info["icc_profile"] = profile
    return image


def _trim(stream: LimitedStream, head: bytes) -> LimitedStream | io.BytesIO:
    """Keep from the decoder what decides no pixels, and check what tells the cost.

    Returns:
        What the header is to be read from; the pixels come from the stream.
    """
    if head.startswith(b"\xff\xd8\xff"):
        trimmed = trim_jpeg(whole(stream.stream))
        if trimmed.num_scans > MAX_SCANS:
            raise LimitError(f"{trimmed.num_scans:,} progressive scans, the limit is {MAX_SCANS}")
        data = trimmed.data
    elif head.startswith(b"\x89PNG"):
        data = trim_png(whole(stream.stream))
    else:
        if head.startswith(_JPEG2000_STARTS):
            check_jpeg2000(whole(stream.stream))
        elif head[4:8] == b"ftyp":
            check_heif(whole(stream.stream))
        return stream
    # Of a header that was trimmed, little is left to read, and each read has its price.
    header = io.BytesIO(data)
    stream.use(header)
    return header


def _webp_size(head: bytes) -> tuple[int, int] | None:
    """Read a WebP's size from its first 30 bytes."""
    if len(head) < 30:
        return None
    if head[12:16] == b"VP8X":
        return _little(head[24:27]) + 1, _little(head[27:30]) + 1
    if head[12:16] == b"VP8L":
        bits = _little(head[21:25])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return _little(head[26:28]) & 0x3FFF, _little(head[28:30]) & 0x3FFF


def _little(number: bytes) -> int:
    return int.from_bytes(number, "little")


def _open_heif(stream: LimitedStream, filename: str, *, item: str) -> ImageFile.ImageFile:
    # The class alone, not `register_heif_opener`: nothing of Pillow's own state is changed.
    try:
        from pillow_heif import HeifImageFile
    except ImportError as err:
        raise ImageDecodeError(
            f"{item}: HEIC needs one more package: pip install 'perception-encoder[heic]'",
            item=item,
        ) from err
    decoder: _Decoder = HeifImageFile
    return decoder(stream, filename)


def _shrink(image: ImageFile.ImageFile, min_side: int) -> tuple[float, float] | None:
    """Have the decoder leave out what a smaller image does not need; None where it cannot.

    libjpeg computes a smaller block of pixels from each stored one of 8 × 8.
    """
    if not isinstance(image, JpegImagePlugin.JpegImageFile) or min(image.size) < 2 * min_side:
        return None
    drafted = image.draft(None, (min_side, min_side))
    return None if drafted is None else drafted[1][2:]


def _prepare_tiff(image: ImageFile.ImageFile, stream: IO[bytes]) -> None:
    """Keep Pillow's TIFF reader from applying Pillow's own size limit: ours has been applied.

    The reader checks when it allocates, so it is handed memory. Only above Pillow's limit.
    """
    if not isinstance(image, TiffImageFile):
        return
    if image.use_load_libtiff:
        image.use(stream)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None:
        size = (int(image.tag_v2[256]), int(image.tag_v2[257]))  # before the EXIF turn
        if size[0] * size[1] > limit:
            image.im = Image.new(image.mode, size).im


def _is_cut(stream: IO[bytes], num_bytes: int) -> bool:
    """Say whether the container announces more data than there is. For data that did not decode."""
    stream.seek(0)
    head = stream.read(16)
    stream.seek(max(0, num_bytes - 12))
    tail = stream.read()
    for start, end in _ENDS:
        if head.startswith(start):
            return not tail.endswith(end)
    if head.startswith(b"RIFF"):
        return int.from_bytes(head[4:8], "little") + 8 > num_bytes
    if head.startswith(b"BM"):
        return int.from_bytes(head[2:6], "little") > num_bytes
    if head.startswith((b"II*\0", b"MM\0*")):
        order: Literal["little", "big"] = "little" if head.startswith(b"II") else "big"
        return int.from_bytes(head[4:8], order) >= num_bytes  # where the directory should be
    return head[4:8] in (b"ftyp", b"jP  ") and _is_last_box_cut(stream, num_bytes)


def _is_last_box_cut(stream: IO[bytes], num_bytes: int) -> bool:
    """Walk the top-level boxes of an ISO container (AVIF, HEIC, JPEG 2000)."""
    position = 0
    while position < num_bytes:
        stream.seek(position)
        header = stream.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length < 8:  # 0: to the end of the file; anything else is no box
            return len(header) < 8
        position += length
    return position > num_bytes
