"""AVIF and HEIC: what is decoded in all is bounded by the image's size."""

import functools
import io
import struct
from itertools import pairwise

import numpy as np
import pillow_heif
import pytest
from PIL import Image
from preprocess.preprocess_images import FORMATS, encode, scene

from perception_encoder.errors import ImageDecodeError, ImageTooLargeError
from perception_encoder.preprocess import decode_image
from perception_encoder.preprocess.heif import av1_pixels, hevc_frames
from perception_encoder.preprocess.jpeg2000 import iter_boxes

CODECS = {"AVIF": b"av01", "HEIC": b"hvc1"}
SIDE = 2048


def box(kind: bytes, *contents: bytes) -> bytes:
    content = b"".join(contents)
    return struct.pack(">I4s", len(content) + 8, kind) + content


def full(kind: bytes, *contents: bytes, version: int = 0) -> bytes:
    return box(kind, struct.pack(">I", version << 24), *contents)


@functools.cache
def coded(file_format: str, side: int) -> tuple[bytes, bytes]:
    """A plain square: the decoder's configuration as a box, and the coded data."""
    options = {"speed": 10} if file_format == "AVIF" else {}
    data = encode(Image.new("RGB", (side, side), (200, 60, 30)), file_format, **options)
    boxes = {found.kind: found for found in iter_boxes(data)}
    start = data.index({"AVIF": b"av1C", "HEIC": b"hvcC"}[file_format]) - 4
    size = int.from_bytes(data[start : start + 4], "big")
    mdat = boxes[b"mdat"]
    return data[start : start + size], data[mdat.start : mdat.end]


def heif(
    file_format: str,
    items: dict[int, tuple[bytes, tuple[int, int], bytes]],
    references: dict[int, list[int]],
    configuration: bytes,
) -> bytes:
    """A file whose first item is its image: items are (kind, size, content)."""
    brand = {"AVIF": b"avif", "HEIC": b"heic"}[file_format]
    kinds = [full(b"infe", struct.pack(">HH4sB", n, 0, items[n][0], 0), version=2) for n in items]
    sizes = [full(b"ispe", struct.pack(">II", *items[n][1])) for n in items]
    bits = full(b"pixi", b"\3\10\10\10")
    owned = [
        struct.pack(">HBBBB", number, 3, place + 1, 0x80 | len(items) + 1, len(items) + 2)
        for place, number in enumerate(items)
    ]
    refs = [
        box(b"dimg", struct.pack(f">HH{len(to)}H", source, len(to), *to))
        for source, to in references.items()
    ]

    def file(start: int) -> bytes:
        places = []
        for number, (_, _, content) in items.items():
            extent = struct.pack(">II", start, len(content))
            places.append(struct.pack(">HHHH", number, 0, 0, 1) + extent)
            start += len(content)
        meta = full(
            b"meta",
            full(b"hdlr", bytes(4), b"pict", bytes(13)),
            full(b"pitm", struct.pack(">H", next(iter(items)))),
            full(b"iloc", struct.pack(">HH", 0x4400, len(items)), *places, version=1),
            full(b"iinf", struct.pack(">H", len(items)), *kinds),
            full(b"iref", *refs),
            box(
                b"iprp",
                box(b"ipco", *sizes, configuration, bits),
                full(b"ipma", struct.pack(">I", len(items)), *owned),
            ),
        )
        head = box(b"ftyp", brand, bytes(4), b"mif1", brand, b"miaf") + meta
        return head + box(b"mdat", *(content for _, _, content in items.values()))

    data = file(0)
    return file(len(data) - sum(len(content) for _, _, content in items.values()))


def grid(rows: int, columns: int, width: int, height: int) -> bytes:
    return b"\0\1" + bytes([rows - 1, columns - 1]) + struct.pack(">II", width, height)


@pytest.mark.parametrize("file_format", CODECS)
def test_a_file_that_is_made_here_is_an_image(file_format: str):
    configuration, data = coded(file_format, 64)
    items = {1: (CODECS[file_format], (64, 64), data)}
    pixels = np.asarray(decode_image(heif(file_format, items, {}, configuration)))
    assert pixels.shape == (64, 64, 3)
    assert np.abs(pixels.astype(int) - (200, 60, 30)).max() < 9


def test_a_grid_is_an_image():
    configuration, data = coded("HEIC", 64)
    tiles = dict.fromkeys(range(2, 14), (b"hvc1", (64, 64), data))
    items = {1: (b"grid", (250, 190), grid(3, 4, 250, 190)), **tiles}
    image = decode_image(heif("HEIC", items, {1: list(tiles)}, configuration))
    assert image.size == (250, 190)


@pytest.mark.parametrize("file_format", CODECS)
def test_a_grid_that_names_a_large_image_again_and_again_is_refused(file_format: str):
    configuration, data = coded(file_format, SIDE)
    items = {
        1: (b"grid", (SIDE, SIDE), grid(1, 200, SIDE, SIDE)),
        2: (CODECS[file_format], (SIDE, SIDE), data),
    }
    bomb = heif(file_format, items, {1: [2] * 200}, configuration)
    with pytest.raises(ImageTooLargeError, match="bomb: 843,055,104 pixels are decoded"):
        decode_image(bomb, item="bomb")


def test_grids_of_grids_and_of_themselves_are_refused():
    configuration, data = coded("HEIC", 64)
    tile = (b"hvc1", (64, 64), data)
    grids = {n: (b"grid", (64, 64), grid(10, 10, 64, 64)) for n in range(1, 6)}
    deep = {source: [target] * 100 for source, target in pairwise([*grids, 6])}
    with pytest.raises(ImageTooLargeError, match="pixels are decoded"):
        decode_image(heif("HEIC", {**grids, 6: tile}, deep, configuration))
    with pytest.raises(ImageTooLargeError, match="images of images"):
        decode_image(heif("HEIC", {1: grids[1]}, {1: [1]}, configuration))


def test_an_avif_that_is_larger_than_it_says_is_refused():
    configuration, data = coded("AVIF", 4200)
    items = {1: (b"av01", (64, 64), data)}
    with pytest.raises(ImageTooLargeError, match="17,640,000 pixels are decoded"):
        decode_image(heif("AVIF", items, {}, configuration))


def test_hidden_frames_are_refused():
    configuration, data = coded("AVIF", SIDE)
    frame = data[data.index(b"\x32") :]
    items = {1: (b"av01", (SIDE, SIDE), data + frame * 100)}
    with pytest.raises(ImageTooLargeError, match="423,624,704 pixels are decoded"):
        decode_image(heif("AVIF", items, {}, configuration))
    configuration, data = coded("HEIC", SIDE)
    items = {1: (b"hvc1", (SIDE, SIDE), data * 100)}
    with pytest.raises(ImageTooLargeError, match="419,430,400 pixels are decoded"):
        decode_image(heif("HEIC", items, {}, configuration))


def test_hidden_frames_of_an_animation_are_refused():
    image = Image.new("RGB", (SIDE, SIDE))
    frames = {"save_all": True, "append_images": [Image.new("RGB", (SIDE, SIDE), 9)]}
    data = encode(image, "AVIF", speed=10, **frames)
    assert decode_image(data).size == (SIDE, SIDE)
    mdat = data.index(b"mdat") + 4
    track = data.index(b"stsz") + 8
    sample = data.index(b"stco") + 12
    start = int.from_bytes(data[sample : sample + 4], "big")
    size = int.from_bytes(data[track + 8 : track + 12], "big")
    first = data[start : start + size]
    frame = first[first.index(b"\x32") :]
    content = first + frame * 100
    sizes = struct.pack(">I", len(content))
    broken = data[: track + 8] + sizes + data[track + 12 : sample]
    broken += struct.pack(">I", len(data) + 8) + data[sample + 4 :] + box(b"mdat", content)
    assert mdat < len(data)
    with pytest.raises(ImageTooLargeError, match="pixels are decoded for an image of 4,194,304"):
        decode_image(broken)


@pytest.mark.parametrize("size", [(40, 28), (1, 1), (4000, 3), (65, 4097)])
@pytest.mark.parametrize("options", [{}, {"subsampling": "4:4:4"}, {"quality": 100}])
def test_the_size_of_av1_data_is_read(size: tuple[int, int], options: dict[str, object]):
    data = encode(scene(*size), "AVIF", speed=10, **options)
    mdat = next(found for found in iter_boxes(data) if found.kind == b"mdat")
    assert av1_pixels(data[mdat.start : mdat.end]) == size[0] * size[1]


def test_slices_of_one_frame_are_one():
    first, next_slice = bytes([0, 0, 0, 4, 0x26, 1, 0x80, 0]), bytes([0, 0, 0, 4, 0x26, 1, 0, 0])
    parameters = bytes([0, 0, 0, 3, 0x40, 1, 0x80])
    assert hevc_frames(parameters + first + next_slice * 3 + first, 4) == 2
    assert hevc_frames(first[2:] + first[2:], 2) == 2


@pytest.mark.parametrize("name", ["avif", "heic"])
def test_lists_that_are_cut_are_damage(name: str):
    data = FORMATS[name]
    start = data.index(b"iloc")
    for offset in (8, 10, 12, 16):
        broken = bytearray(data)
        broken[start + offset : start + offset + 2] = b"\xff\xff"
        with pytest.raises(ImageDecodeError):
            decode_image(bytes(broken))


def test_an_image_beside_others_is_not_charged_for_them():
    burst = [Image.fromarray(np.full((30, 40, 3), n, np.uint8)) for n in range(9)]
    file = pillow_heif.from_pillow(burst[0])
    for image in burst[1:]:
        file.add_from_pillow(image)
    out = io.BytesIO()
    file.save(out)
    assert decode_image(out.getvalue()).size == (40, 30)


def test_parts_of_an_image_that_name_the_same_bytes_again_and_again_are_refused():
    configuration, data = coded("AVIF", 64)
    file = heif("AVIF", {1: (b"av01", (64, 64), data)}, {}, configuration)
    place = file.index(b"iloc") - 4
    size = int.from_bytes(file[place : place + 4], "big")
    extents = struct.pack(">II", 0, 2**31) * 500
    new = full(b"iloc", struct.pack(">HHHHHH", 0x4400, 1, 1, 0, 0, 500), extents, version=1)
    meta = file.index(b"meta") - 4
    grown = int.from_bytes(file[meta : meta + 4], "big") + len(new) - size
    broken = file[:meta] + struct.pack(">I", grown) + file[meta + 4 : place] + new
    with pytest.raises(ImageTooLargeError, match="more bytes than the file"):
        decode_image(broken + file[place + size :])


def test_items_of_many_parts_without_a_byte_are_refused():
    """Numbers of parts take two bytes, and their places none where the file says so."""
    places = b"".join(struct.pack(">HHH", number, 0, 65_535) for number in range(60_000))
    meta = full(b"meta", full(b"iloc", struct.pack(">HH", 0, 60_000), places))
    start = box(b"ftyp", b"avif" + bytes(4) + b"avif")
    with pytest.raises(ImageTooLargeError, match="more than 65,536 parts"):
        decode_image(start + meta)
    with pytest.raises(ImageTooLargeError, match="more than one list"):
        decode_image(start + full(b"meta") * 2)
