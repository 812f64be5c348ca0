"""Whether pictures show the same pixels, whatever their files look like.

They are decoded as a viewer shows them: upright, RGB, transparency over white. One picture is in
memory for each thread. Knows nothing of tables.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeAlias

from perception_encoder.errors import ImageError
from perception_encoder.index import Row
from perception_encoder.preprocess.decode import decode_image
from perception_encoder.preprocess.modes import to_rgb, upright

ReadPicture: TypeAlias = Callable[[Row], bytes]
"""Returns a picture's encoded bytes; raises ImageError or OSError."""

_THREADS: Final = 4  # a large photo takes 0.3 GB while it is decoded
_DIGEST_BYTES: Final = 16


def pixel_digests(rows: Iterable[Row], read: ReadPicture) -> Iterator[bytes | ImageError | OSError]:
    """Yield for each row a digest of its size and pixels, or why there is none."""
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(lambda row: _digest(row, read), rows)


def _digest(row: Row, read: ReadPicture) -> bytes | ImageError | OSError:
    try:
        picture = to_rgb(upright(decode_image(read(row), item=row.name)), item=row.name)
    except (ImageError, OSError) as err:
        return err
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    digest.update(f"{picture.width} {picture.height} ".encode())
    digest.update(picture.tobytes())
    return digest.digest()
