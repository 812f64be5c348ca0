"""Archives of any order, names and repetitions: no caption goes to another image, none is lost."""

import io
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from perception_encoder.errors import ImageError
from perception_encoder.index import Row
from perception_encoder.sources import Item, SourceOptions, open_sources
from perception_encoder.sources.item import collect_notes

_STEMS = st.sampled_from(["a", "b", "a.b", "a.b.c", "22.00", "22.01", "d/a", "./a", "é", "e\u0301"])
_IMAGES = st.tuples(_STEMS, st.sampled_from([".png", ".jpg", ".PNG"])).map("".join)
_TEXTS = st.tuples(_STEMS, st.sampled_from([".txt", ".TXT"])).map("".join)
_OTHERS = st.sampled_from(["._a.png", "d/._a.txt", "__MACOSX/a.png", "readme.md", "a", ".png"])
_NAMES = _IMAGES | _TEXTS | _OTHERS


def write(path: Path, names: Sequence[str], mode: str) -> None:
    """Write members that hold their own position and name."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for number, name in enumerate(names):
            data = f"{number} {name}".encode()
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))


def plain(name: str) -> str:
    return name.removeprefix("./").replace("e\u0301", "é")


def may_belong(image: str, caption: str) -> bool:
    """Whether a caption's name without ending is a part of the image's, up to a dot."""
    stem = plain(caption)[: -len(".txt")]
    return plain(image).startswith(f"{stem}.")


def read(item: Item) -> str | None:
    """Return what an image holds, or None where it was refused with a reason."""
    try:
        return item.read().decode()
    except ImageError:
        return None


@given(names=st.lists(_NAMES, max_size=14), is_packed=st.booleans())
def test_captions_stay_with_their_images_and_all_is_counted(
    tmp_path_factory, names: list[str], is_packed: bool
) -> None:
    path = tmp_path_factory.mktemp("tar") / ("x.tar.gz" if is_packed else "x.tar")
    write(path, names, "w:gz" if is_packed else "w")
    (source,) = open_sources([str(path)], SourceOptions())
    items = list(source.items())
    contents = [read(item) for item in items]
    assert len({item.id for item in items}) == len(items)
    for item, content in zip(items, contents, strict=True):
        Row(item.uri, item.member)
        if content is None:
            assert item.metadata == {}
            continue
        number, name = content.split(" ", 1)
        assert item.member == name == names[int(number)]
        if caption := item.metadata.get("caption"):
            place, text_name = str(caption).split(" ", 1)
            assert text_name == names[int(place)]
            assert may_belong(name, text_name)
    system = [name for name in names if "._" in name or "__MACOSX" in name]
    images = [name for name in names if name.lower().endswith((".png", ".jpg"))]
    assert len(items) == sum(name not in system and name != ".png" for name in images)
    texts = sum(name.lower().endswith(".txt") and name not in system for name in names)
    used = {item.metadata["caption"] for item in items if item.metadata}
    assert len(used) + left_out(source, "members with captions") == texts
    assert left_out(source, "files that macOS") == len(system)


@given(
    stems=st.lists(_STEMS.filter(lambda stem: stem not in ("./a", "e\u0301")), unique=True),
    data=st.data(),
)
def test_each_image_gets_its_own_caption_in_any_order(
    tmp_path_factory, stems: list[str], data: st.DataObject
) -> None:
    names = [f"{stem}.{ending}" for stem in stems for ending in ("png", "txt")]
    names = data.draw(st.permutations(names))
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    write(path, names, "w")
    (source,) = open_sources([str(path)], SourceOptions())
    found = {str(item.member): item.metadata.get("caption") for item in source.items()}
    expected = {f"{stem}.png": f"{names.index(f'{stem}.txt')} {stem}.txt" for stem in stems}
    assert found == expected


def left_out(source: object, what: str) -> int:
    notes = " ".join(collect_notes([source]))  # type: ignore[list-item]
    found = re.search(rf"([\d,]+) {what}", notes)
    return int(found[1].replace(",", "")) if found else 0
