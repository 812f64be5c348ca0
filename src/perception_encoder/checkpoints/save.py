"""Write a model to a folder of our own format: beside its place first, then moved there whole."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from perception_encoder.checkpoints.folder import (
    CONFIG_NAME,
    TOKENIZER_NAME,
    format_config,
    is_own_folder,
)
from perception_encoder.checkpoints.hub import WEIGHTS_NAME
from perception_encoder.checkpoints.load import load_model, random_model
from perception_encoder.checkpoints.locate import Checkpoint
from perception_encoder.checkpoints.tensors import weights_fingerprint
from perception_encoder.errors import CheckpointError, CheckpointWriteError
from perception_encoder.model import DualEncoder
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.registry import ModelConfig
from perception_encoder.types import PreprocessName, SaveFormat

if TYPE_CHECKING:
    from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows, which removes no folder whose files are open
    fcntl = None  # type: ignore[assignment]

_MARK: Final = "saving-"
# Earlier versions left folders of other names, with what they had written until they were killed.
_EARLIER: Final = re.compile(r"[a-z0-9_]{8}")
_EARLIER_FILES: Final = {"model.safetensors", "tokenizer.json"}


@contextmanager
def stage_folder(folder: Path) -> Iterator[Path]:
    """Give a new folder beside `folder`, on the same disk; it is removed in the end.

    What processes left that were killed while they wrote to `folder` is removed first.

    Raises:
        CheckpointWriteError: something could not be written.
    """
    lock = None
    new: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_over(folder)
        new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.{_MARK}", dir=folder.parent))
        lock = _locked(new)
        yield new
    except OSError as err:
        raise CheckpointWriteError(
            f"{folder}: cannot be written ({err.strerror or err}). What was there is unchanged. "
            "Free some space on the disk, or choose another folder"
        ) from err
    finally:
        if new is not None:
            shutil.rmtree(new, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _remove_left_over(folder: Path) -> None:
    for other in folder.parent.glob(f".{folder.name}.*"):
        name = other.name.removeprefix(f".{folder.name}.")
        with suppress(OSError):
            if name.startswith(_MARK) or (_EARLIER.fullmatch(name) and _is_unfinished(other)):
                lock = _locked(other)
                if lock is not None:
                    shutil.rmtree(other, ignore_errors=True)
                    os.close(lock)


def _is_unfinished(folder: Path) -> bool:
    return folder.is_dir() and {path.name for path in folder.iterdir()} <= _EARLIER_FILES


def _locked(folder: Path) -> int | None:
    """Lock a folder for as long as this process lives; None where another one has it."""
    if fcntl is None:
        return None
    file = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by another process, or a file system without locks
        os.close(file)
        return None
    return file


def save_checkpoint(
    source: Checkpoint | ModelConfig,
    folder: Path,
    tokenizer: Tokenizer | None,
    *,
    fingerprint: str,
    preprocess: PreprocessName,
    format: SaveFormat = "perception-encoder",
) -> None:
    """Read a checkpoint again and save it; a backend may have rounded the weights that it holds.

    Args:
        source: what a model was opened from; its config where it has random weights.
        folder: see `save_model`.
        tokenizer: see `save_model`.
        fingerprint: of the weights that the model was opened with.
        preprocess: see `save_model`.
        format: whose: this package's, or open_clip's.

    Raises:
        CheckpointError: the folder holds something else, the checkpoint has other weights now, or
            open_clip has no such model.
        CheckpointWriteError: the folder cannot be written.
    """
    model = random_model(source) if isinstance(source, ModelConfig) else load_model(source).model
    if weights_fingerprint(model) != fingerprint:
        raise CheckpointError(
            f"{model.config.id}: the file that it was opened from has other weights now, so they "
            "cannot be saved; open it again"
        )
    if format == "open_clip":
        from perception_encoder.checkpoints.open_clip_snapshot import save_open_clip

        save_open_clip(model, folder, tokenizer)
    else:
        save_model(model, folder, tokenizer, preprocess=preprocess)


def save_model(
    model: DualEncoder,
    folder: Path,
    tokenizer: Tokenizer | None,
    *,
    preprocess: PreprocessName = "standard",
) -> None:
    """Write config.json, model.safetensors (in the model's precision) and tokenizer.json.

    Everything is written beside the folder first and then moved into place, so a failure leaves
    what was there. A folder saved before is overwritten; other files in it stay.

    Args:
        model: the weights and their numbers.
        folder: made where it does not exist.
        tokenizer: its vocabulary; None for a model without one.
        preprocess: the preprocessing that loading it will choose.

    Raises:
        CheckpointError: the folder exists, is not empty, and was not written by this function.
        CheckpointWriteError: it cannot be written, because the disk is full for instance.
    """
    folder = folder.expanduser().absolute()
    if folder.exists() and not _may_overwrite(folder):
        raise CheckpointError(
            f"{folder} exists and holds something else than a saved model. Choose another folder"
        )
    with stage_folder(folder) as new:
        tensors = {name: p.detach().contiguous() for name, p in model.named_parameters()}
        write_tensors(tensors, new / WEIGHTS_NAME)
        if tokenizer is not None:
            tokenizer.save(new / TOKENIZER_NAME)
        (new / CONFIG_NAME).write_text(format_config(model.config, preprocess), encoding="utf-8")
        # safetensors lets nobody but the owner read; let the user's umask decide, as elsewhere.
        shutil.copymode(new / CONFIG_NAME, new / WEIGHTS_NAME)
        move_into_place(new, folder, (WEIGHTS_NAME, TOKENIZER_NAME, CONFIG_NAME))


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file.

    Raises:
        OSError: it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as err:
        raise OSError(str(err)) from err


def _may_overwrite(folder: Path) -> bool:
    return folder.is_dir() and (is_own_folder(folder) or not any(folder.iterdir()))


def move_into_place(new: Path, folder: Path, names: Sequence[str]) -> None:
    """Move files one after the other; a tokenizer of before goes where there is no new one."""
    folder.mkdir(exist_ok=True)
    if not (new / TOKENIZER_NAME).exists():
        (folder / TOKENIZER_NAME).unlink(missing_ok=True)
    for name in names:
        if (new / name).exists():
            os.replace(new / name, folder / name)
