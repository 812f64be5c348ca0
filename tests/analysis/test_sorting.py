"""Images into a folder for each label: nothing is overwritten, and every move is written down."""

import json
import os
from pathlib import Path

from perception_encoder.analysis.classifiers import LabelScore
from perception_encoder.analysis.file_moves import sort_files
from perception_encoder.index import Row


def file_at(path: Path, content: str = "x") -> Row:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return Row(uri=str(path))


def test_names_that_are_taken_get_a_number_and_moves_are_written_down(tmp_path: Path) -> None:
    cat = LabelScore("cat", 0.3, 0.9)
    rows = [file_at(tmp_path / name / "one.png", name) for name in ("a", "b")]
    (tmp_path / "out" / "cat").mkdir(parents=True)
    (tmp_path / "out" / "cat" / "one.png").write_text("old", encoding="utf-8")
    dry = list(sort_files(str(tmp_path / "out"), [(row, cat) for row in rows], dry_run=True))
    assert sorted(os.listdir(tmp_path / "out")) == ["cat"]
    assert all(os.path.exists(row.uri) for row in rows)
    done = list(sort_files(str(tmp_path / "out"), [(row, cat) for row in rows]))
    assert done == dry
    written = {path.name: path.read_text() for path in (tmp_path / "out" / "cat").iterdir()}
    assert written == {"one.png": "old", "one (2).png": "a", "one (3).png": "b"}
    assert not any(os.path.exists(row.uri) for row in rows)
    lines = (tmp_path / "out" / "moved.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"from": one.source, "to": one.target, "label": "cat", "probability": 0.9} for one in done
    ]


def test_what_is_no_file_of_its_own_stays(tmp_path: Path) -> None:
    label = LabelScore("cat", 0.3, 0.9)
    file = file_at(tmp_path / "cat" / "in.png")
    (tmp_path / "link.png").symlink_to(file.uri)
    rows = [
        Row(uri=str(tmp_path / "x.tar"), member="a.png"), Row(uri="https://example.org/a.png"),
        Row(uri=str(tmp_path / "link.png")), Row(uri=str(tmp_path / "gone.png")), file,
    ]  # fmt: skip
    moves = list(sort_files(str(tmp_path), [(row, label) for row in rows]))
    assert [move.error for move in moves] == [
        "is in an archive or at a URL", "is in an archive or at a URL",
        "is a link to another file", "has gone", "is in that folder already",
    ]  # fmt: skip
    assert sorted(os.listdir(tmp_path)) == ["cat", "link.png"]


def test_a_label_leads_to_no_folder_outside(tmp_path: Path) -> None:
    labels = ["..", "../../up", "/etc", "a/b", ".hidden", "C:\\x"]
    labeled = [
        (file_at(tmp_path / f"{number}.png"), LabelScore(label, 0.3, 0.9))
        for number, label in enumerate(labels)
    ]
    moves = list(sort_files(str(tmp_path / "out"), labeled))
    assert [Path(move.target).parent.relative_to(tmp_path / "out").name for move in moves] == [
        "_.", "_._.._up", "_etc", "a_b", "_hidden", "C:_x",
    ]  # fmt: skip
    assert all(Path(move.target).parent.parent == tmp_path / "out" for move in moves)
    assert all(os.path.isfile(move.target) for move in moves)
