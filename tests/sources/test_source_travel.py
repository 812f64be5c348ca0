"""Items read by another process: pickled in chunks, as a cluster hands them out."""

import base64
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sources.source_samples import listed, write, write_tar

from perception_encoder.errors import ImageUnreadableError
from perception_encoder.sources import Item, forward

CONTENTS = [f"image {number}".encode() for number in range(100)]


def in_folder(root: Path) -> Path:
    for number, data in enumerate(CONTENTS):
        write(root / "in" / f"{number:03}.png", data)
    return root / "in"


def in_tar(root: Path) -> Path:
    return write_tar(root / "a.tar", {f"{n}.png": data for n, data in enumerate(CONTENTS)})


def in_packed_tar(root: Path) -> Path:
    members = {f"{n}.png": data for n, data in enumerate(CONTENTS)}
    return write_tar(root / "a.tgz", members, mode="w:gz")


def in_parquet(root: Path) -> Path:
    pq.write_table(pa.table({"image": CONTENTS}), root / "t.parquet", row_group_size=70)
    return root / "t.parquet"


def in_json_lines(root: Path) -> Path:
    lines = [json.dumps({"base64": base64.b64encode(data).decode()}) for data in CONTENTS]
    return write(root / "t.jsonl", "\n".join(lines).encode())


def travelled(items: list[Item]) -> list[Item]:
    there: list[Item] = pickle.loads(pickle.dumps(items))
    return there


@pytest.mark.parametrize("make", [in_folder, in_tar, in_packed_tar, in_parquet, in_json_lines])
def test_items_read_the_same_elsewhere(make: Callable[[Path], Path], tmp_path: Path) -> None:
    here = listed(make(tmp_path))
    there = [item for start in range(0, 100, 16) for item in travelled(here[start : start + 16])]
    assert [item.id for item in there] == [item.id for item in here]
    assert [item.read() for item in there] == CONTENTS


def test_a_packed_archive_is_unpacked_once_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = listed(in_packed_tar(tmp_path))
    starts = []
    restart = forward.ForwardReader._restart
    monkeypatch.setattr(
        forward.ForwardReader,
        "_restart",
        lambda self, number: starts.append(number) or restart(self, number),
    )
    for start in range(0, 96, 32):  # of three chunks, this process gets two
        if start != 32:
            assert [item.read() for item in travelled(here[start : start + 32])] == CONTENTS[
                start : start + 32
            ]
    assert starts == [0]


def test_what_could_not_be_listed_says_so_elsewhere_too(tmp_path: Path) -> None:
    archive = in_tar(tmp_path)
    archive.write_bytes(archive.read_bytes()[:20000])
    *_, last = travelled(listed(archive))
    with pytest.raises(ImageUnreadableError, match=r"a\.tar: .*damaged or cut off") as caught:
        last.read()
    assert caught.value.item == str(archive)
