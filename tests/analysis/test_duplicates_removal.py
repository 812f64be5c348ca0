"""Scripts and moves: real shells, real files, two disks where there are."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from perception_encoder.analysis.duplicates import Duplicate, DuplicateGroup
from perception_encoder.analysis.file_moves import (
    MovedDuplicate,
    build_removal_script,
    move_duplicates,
)
from perception_encoder.index import Row


def group(kept: Path | Row, *others: Path | Row) -> DuplicateGroup:
    rows = [name if isinstance(name, Row) else Row(uri=str(name)) for name in (kept, *others)]
    return DuplicateGroup(rows[0], tuple(Duplicate(row, "similar", 0.95) for row in rows[1:]))


def files(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"image {name}", encoding="utf-8")
    return [folder / name for name in names]


ODD = ["it's.png", "$(touch hacked).png", "-rf.png", "a b\u202f.png", '"q".png', "`x`;y#.png"]


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "remove.sh").write_text(script, encoding="utf-8")
    return subprocess.run(
        ["sh", "remove.sh"], cwd=folder, capture_output=True, text=True, check=False, timeout=200
    )


def test_the_script_removes_just_the_redundant_whatever_their_names(tmp_path: Path) -> None:
    kept, *others = files(tmp_path, "kept 'one'.png", *ODD)
    done = run(build_removal_script([group(kept, *others)]), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(os.listdir(tmp_path)) == ["kept 'one'.png", "remove.sh"]


def test_each_line_of_the_script_stands_alone_and_needs_the_kept_image(tmp_path: Path) -> None:
    a, b, c, d = files(tmp_path, "a.png", "b.png", "c.png", "d.png")
    script = build_removal_script([group(a, b), group(c, d)])
    b.unlink()
    c.unlink()
    run(script, tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["a.png", "d.png"]
    assert all(line[:1] in ("#", "[", "") for line in script.splitlines())


def test_what_a_script_must_not_touch_is_a_comment(tmp_path: Path) -> None:
    (kept,) = files(tmp_path, "kept\nrm -rf x.png")
    (bad,) = files(tmp_path, "bad\nname.png")
    (reversed_name,) = files(tmp_path, "cat\u202egnp.sh")  # shown as "cathsg.png"
    member = Row(uri=str(tmp_path / "all.tar"), member="x.png")
    remote = Row(uri="https://host/x.png")
    script = build_removal_script(
        [group(kept, bad, member, remote), group(tmp_path, reversed_name)]
    )
    assert all(line.startswith("#") for line in script.splitlines() if line)
    assert "cat\\u202egnp.sh" in script
    assert "kept\\nrm -rf x.png" in script
    assert "bad\\nname.png" in script
    assert "all.tar/x.png" in script
    assert "https://host/x.png" in script


def test_a_copy_of_an_image_at_a_url_can_be_removed(tmp_path: Path) -> None:
    (other,) = files(tmp_path, "x.png")
    run(build_removal_script([group(Row(uri="https://host/x.png"), other)]), tmp_path)
    assert not other.exists()


def test_moving_overwrites_nothing_and_can_be_undone(tmp_path: Path) -> None:
    kept, *others = files(tmp_path, "kept.png", "1/x.png", "2/x.png", "3/x.png", "4/moved.jsonl")
    (target,) = files(tmp_path, "away/x.png")
    moves = list(move_duplicates([group(kept, *others)], str(tmp_path / "away")))
    assert [Path(move.target).name for move in moves] == [
        "x (2).png", "x (3).png", "x (4).png", "moved (2).jsonl",
    ]  # fmt: skip
    assert target.read_text(encoding="utf-8") == "image away/x.png"
    assert kept.exists()
    lines = (tmp_path / "away" / "moved.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["from"] for record in records] == [str(path) for path in others]
    assert records[0]["kept"] == {"uri": str(kept), "member": None}
    for record, path in zip(records, others, strict=True):
        assert not path.exists()
        os.rename(record["to"], record["from"])
        assert path.read_text(encoding="utf-8") == f"image {path.relative_to(tmp_path)}"


def test_a_dry_run_says_the_same_and_touches_nothing(tmp_path: Path) -> None:
    kept, *others = files(tmp_path, "kept.png", "1/x.png", "2/x.png")
    groups = [group(kept, *others)]
    before = sorted(map(str, tmp_path.rglob("*")))
    planned = list(move_duplicates(groups, str(tmp_path / "away"), dry_run=True))
    assert sorted(map(str, tmp_path.rglob("*"))) == before
    assert list(move_duplicates(groups, str(tmp_path / "away"))) == planned


def errors(moves: list[MovedDuplicate]) -> list[str]:
    assert not any(move.target for move in moves if move.error)
    return [move.error for move in moves]


def test_what_cannot_be_moved_stays_and_says_why(tmp_path: Path) -> None:
    kept, inside, gone, last = files(
        tmp_path, "kept.png", "away/in.png", "gone.png", "gone too.png"
    )
    gone.unlink()
    member = Row(uri=str(tmp_path / "all.tar"), member="x.png")
    orphan = group(tmp_path / "no such.png", last)
    moves = list(
        move_duplicates([group(kept, inside, gone, member), orphan], str(tmp_path / "away"))
    )
    found = errors(moves)
    assert found[0] == "is in that folder already"
    assert "No such file" in found[1]
    assert found[2] == "is in an archive or at a URL"
    assert found[3] == f"is needed: {tmp_path / 'no such.png'} has gone"
    assert last.exists()
    assert sorted(os.listdir(tmp_path / "away")) == ["in.png", "moved.jsonl"]


def test_moving_to_another_disk_keeps_content_and_times(tmp_path: Path) -> None:
    other_disk = Path("/dev/shm")
    if not other_disk.is_dir() or other_disk.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one disk only")
    kept, other = files(tmp_path, "kept.png", "x.png")
    os.utime(other, ns=(10**18, 10**18))
    target = other_disk / f"{tmp_path.name}-{os.getpid()}"
    try:
        (move,) = move_duplicates([group(kept, other)], str(target))
        assert Path(move.target).read_text(encoding="utf-8") == "image x.png"
        assert Path(move.target).stat().st_mtime_ns == 10**18
        assert not other.exists()
    finally:
        shutil.rmtree(target)


def test_a_folder_that_cannot_be_made_is_an_error_before_anything_moves(tmp_path: Path) -> None:
    kept, other, file = files(tmp_path, "kept.png", "x.png", "a file")
    with pytest.raises(OSError, match="a file"):
        list(move_duplicates([group(kept, other)], str(file)))
    assert other.exists()
