"""Opens hits in the viewer that this machine has for pictures.

Files of this machine are opened where they are. Everything else (pictures inside archives, on the
web, files that are not named like a picture) is first written to a temporary folder under a
picture's name: what a table names is only ever opened as a picture.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from perception_encoder.cli.output import say
from perception_encoder.errors import PerceptionEncoderError

if TYPE_CHECKING:
    from perception_encoder.index import Hit

_UNFIT: Final = re.compile(r"[^\w.-]+")
_LONGEST_NAME: Final = 80


def open_pictures(hits: "Sequence[Hit]") -> None:
    """Open the hits, best first; one that cannot be read is told of and left out.

    Raises:
        PerceptionEncoderError: there is no viewer.
    """
    command = _viewer()
    folder = cache(lambda: Path(tempfile.mkdtemp(prefix="pe-")))  # not made before it is needed
    paths = [path for number, hit in enumerate(hits, 1) if (path := _path(hit, number, folder))]
    for path in paths:
        if command is None:
            os.startfile(path)  # type: ignore[attr-defined,unused-ignore]  # Windows only
        else:
            subprocess.run(
                [command, path],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )


def _viewer() -> str | None:
    """Return the command that opens a file; None where Windows does it itself."""
    if sys.platform == "win32":
        return None
    name = "open" if sys.platform == "darwin" else "xdg-open"
    found = shutil.which(name)
    if found is None:
        raise PerceptionEncoderError(
            f"--open needs the program {name}, which is not here; use --paths with a viewer of "
            "yours, or --sheet"
        )
    return found


def _path(hit: "Hit", number: int, folder: Callable[[], Path]) -> str | None:
    from perception_encoder.index import IMAGE_SUFFIXES
    from perception_encoder.pipeline.sources import read_picture
    from perception_encoder.preprocess import decode_image

    name = os.path.basename(hit.member or hit.uri)
    stem, suffix = os.path.splitext(name)
    if hit.member is None and suffix.lower() in IMAGE_SUFFIXES and os.path.isfile(hit.uri):
        return hit.uri
    try:
        data = read_picture(hit.uri, hit.member, hit.offset)
        found = decode_image(data, item=name).format
    except (PerceptionEncoderError, OSError) as err:
        say(f"not opened: {err}")
        return None
    stem = _UNFIT.sub("_", stem)[:_LONGEST_NAME]
    path = folder() / f"{number}-{stem}.{(found or 'png').lower()}"
    path.write_bytes(data)
    return str(path)
