import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from checkpoints.checkpoint_samples import CORE, meta, native
from safetensors.torch import save_file

from perception_encoder.checkpoints.tensors import open_tensors
from perception_encoder.errors import CheckpointError


class Intruder:
    """Makes a folder when it is unpickled the ordinary way."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(is_zip, tmp_path):
    content = {"visual.conv1.weight": torch.zeros(2), "args": Intruder(str(tmp_path / "intruded"))}
    path = tmp_path / "w.pt"
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(
        CheckpointError, match=r"w\.pt: holds Python objects.*none of which was run"
    ):
        open_tensors(path)
    assert not (tmp_path / "intruded").exists()


def test_a_bare_pickle_with_code_is_refused_and_not_run(tmp_path):
    (tmp_path / "w.pt").write_bytes(pickle.dumps(Intruder(str(tmp_path / "intruded")), protocol=2))
    with pytest.raises(CheckpointError):
        open_tensors(tmp_path / "w.pt")
    assert not (tmp_path / "intruded").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_archive_says_what_to_do(tmp_path):
    module = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))
    torch.jit.save(module, str(tmp_path / "w.pt"))
    with pytest.raises(CheckpointError, match="TorchScript program"):
        open_tensors(tmp_path / "w.pt")


@pytest.mark.parametrize("kept", [0.999, 0.5, 0.01])
@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "legacy.pt"])
def test_a_file_cut_short_is_damaged(name, kept, tmp_path):
    tensors, path = meta(native(CORE)), tmp_path / name
    if name == "w.safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=name == "w.pt")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(CheckpointError, match=f"{name}: .*damaged.*again"):
        open_tensors(path)


def test_the_format_is_told_by_content_not_by_name(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "w.pt")
    torch.save({"a": torch.ones(2)}, tmp_path / "0f1e2d3c")
    assert open_tensors(tmp_path / "w.pt").tensors["a"].tolist() == [1, 1]
    assert open_tensors(tmp_path / "0f1e2d3c").tensors["a"].tolist() == [1, 1]


def test_a_torch_file_called_safetensors_is_named_as_such(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="Rename it"):
        open_tensors(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><title>404</title>", "not a checkpoint"),
        (b"{", "not a checkpoint"),
    ],
)
def test_other_files_are_named_for_what_they_are(content, message, tmp_path):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        open_tensors(tmp_path / "w.pt")


def test_a_zip_that_is_not_torchs_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        archive.writestr("a.txt", "hello")
    with pytest.raises(CheckpointError, match="damaged or incomplete torch file"):
        open_tensors(tmp_path / "w.zip")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(3)])
def test_a_torch_file_without_named_tensors_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="holds no tensors by name"):
        open_tensors(tmp_path / "w.pt")


def test_a_missing_file_and_a_folder_cannot_be_read(tmp_path):
    for path in (tmp_path / "absent.pt", tmp_path):
        with pytest.raises(CheckpointError, match="cannot be read"):
            open_tensors(path)


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="pipe: cannot be read"):
        open_tensors(tmp_path / "pipe")
