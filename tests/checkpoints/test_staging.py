"""What is saved is whole or not there, and what killed processes left is removed."""

import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints.checkpoint_samples import CORE
from checkpoints.test_save import WORDS

from perception_encoder.checkpoints.load import random_model
from perception_encoder.checkpoints.save import save_model, stage_folder
from perception_encoder.errors import CheckpointError, CheckpointWriteError

_KILLED = """
import os, sys
from pathlib import Path
from perception_encoder.checkpoints.save import stage_folder
with stage_folder(Path(sys.argv[1])) as new:
    (new / "model.safetensors").write_bytes(b"half")
    (new / "config.json").write_bytes(b"half")
    os._exit(9)
"""


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_a_killed_process_left_is_removed_by_the_next_one(tmp_path):
    command = [sys.executable, "-c", _KILLED, str(tmp_path / "sm")]
    assert subprocess.run(command, check=False).returncode == 9
    assert len(names(tmp_path)) == 1
    save_model(random_model(CORE), tmp_path / "sm", None)
    assert names(tmp_path) == {"sm"}


def test_what_another_process_writes_now_is_left_alone(tmp_path):
    with stage_folder(tmp_path / "sm") as first:
        (first / "file").write_text("mine")
        with stage_folder(tmp_path / "sm") as second:
            assert first != second
        assert (first / "file").read_text() == "mine"
    assert names(tmp_path) == set()


def test_what_earlier_versions_left_is_removed_and_nothing_else(tmp_path):
    left = tmp_path / ".sm.ab_d3f9h"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    kept = {".sm.previous", ".sm.backup", ".sm.ab_d3f9x", ".other.ab_d3f9h"}
    for name in kept:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"whole")
        (tmp_path / name / "config.json").write_text("{}")
    save_model(random_model(CORE), tmp_path / "sm", None)
    assert names(tmp_path) == {"sm", *kept}


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), PermissionError(13, "no")]
)
def test_what_cannot_be_written_is_named_and_leaves_nothing(error, tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(
        CheckpointWriteError, match=r"sm: cannot be written.*Free some space"
    ) as caught:
        save_model(random_model(CORE), tmp_path / "sm", WORDS)
    assert isinstance(caught.value, CheckpointError)
    assert isinstance(caught.value, OSError)
    assert names(tmp_path) == set()
