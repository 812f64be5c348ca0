"""Files for the tests of sources. A source never decodes, so the images are any bytes."""

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from perception_encoder.sources import Item, Source, SourceOptions, open_sources


def write(path: Path, data: bytes = b"image") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def write_tar(
    path: Path, members: Mapping[str, bytes], *, mode: str = "w", format: int = tarfile.PAX_FORMAT
) -> Path:
    with tarfile.open(path, mode, format=format) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return path


def open_one(name: str | Path, **options: object) -> Source:
    """The one source of a name."""
    (source,) = open_sources([str(name)], SourceOptions(**options))  # type: ignore[arg-type]
    return source


def listed(name: str | Path, **options: object) -> list[Item]:
    return list(open_one(name, **options).items())


def below(folder: Path, items: Iterable[Item]) -> list[str]:
    """The items' paths relative to a folder."""
    return [item.uri.removeprefix(f"{folder}/") for item in items]
