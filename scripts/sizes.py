"""Prints how large the wheels in a folder are, and what an installation takes: `make dist` runs it.

    python -m scripts.sizes dist

The sizes of what a wheel needs are those of this environment's copies.
"""

import importlib.metadata
import sys
import zipfile
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = ("", "onnx", "openvino", "cpu")
MIB = 2**20


def needed(own: Distribution, extra: str) -> set[str]:
    """What a distribution needs, and what an extra of it ("" for none) adds; itself left out."""
    own_name = canonicalize_name(own.name)
    reached = {(own_name, ""), (own_name, extra)}
    waiting = list(reached)
    while waiting:
        name, wanted = waiting.pop()
        distribution = own if name == own_name else importlib.metadata.distribution(name)
        for requirement in map(Requirement, distribution.requires or ()):
            if requirement.marker and not requirement.marker.evaluate({"extra": wanted}):
                continue
            inner = canonicalize_name(requirement.name)
            new = {(inner, other) for other in ("", *requirement.extras)} - reached
            reached |= new
            waiting.extend(new)
    return {name for name, _ in reached} - {own_name}


def installed_bytes(name: str) -> int:
    """What a distribution's files take here."""
    places = (Path(str(file.locate())) for file in importlib.metadata.files(name) or ())
    return sum(place.stat().st_size for place in places if place.is_file())


def main(folder: str) -> None:
    """Print a line for each wheel, and for each usual way to install the large one."""
    for path in sorted(Path(folder).glob("*.whl")):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            folders = zipfile.Path(archive).iterdir()
            wheel = PathDistribution(
                next(one for one in folders if one.name.endswith(".dist-info"))
            )
            extras = EXTRAS if "cpu" in wheel.metadata.get_all("Provides-Extra", []) else ()
            packed = path.stat().st_size
            print(f"{path.name}: {packed / MIB:.2f} MiB, unpacked {unpacked / MIB:.2f} MiB")
            for extra in extras:
                names = needed(wheel, extra)
                total = unpacked + sum(map(installed_bytes, names))
                label = f"{wheel.name}[{extra}]" if extra else wheel.name
                print(f"{label}: {total / MIB:,.0f} MiB installed, {len(names)} others with it")


if __name__ == "__main__":
    main(sys.argv[1])
