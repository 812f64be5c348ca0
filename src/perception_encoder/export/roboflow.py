"""Export a model as a folder that Roboflow's `inference_models` opens with this package.

Their `AutoModel.from_pretrained(folder)` reads `model_config.json` and calls the class it names.
"""

import json
import os
from pathlib import Path
from typing import Final

from perception_encoder.checkpoints import locate
from perception_encoder.errors import CheckpointWriteError
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.types import PreprocessName

_CLASS: Final = "PerceptionEncoderTorch"
_MODULE: Final = f'''"""Opens this folder with perception-encoder, inside inference_models."""

try:
    from perception_encoder.integrations.roboflow_model import {_CLASS}
except ModuleNotFoundError as err:
    raise ImportError(f"{{err}}; pip install 'perception-encoder[torch]'") from err

__all__ = ["{_CLASS}"]
'''
# Without a backend_type: with one, theirs would take the folder for a model of its own library.
_CONFIG: Final = {
    "model_architecture": "perception-encoder",
    "task_type": "embedding",
    "model_module": "model.py",
    "model_class": _CLASS,
}


def export_roboflow_package(
    name_or_path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    model: str | None = None,
    preprocess: PreprocessName | None = None,
    local_files_only: bool = False,
) -> None:
    """Write a model as a saved folder with a module that Roboflow's loader runs.

    The folder holds the weights as they are, and needs nothing outside it but this package. It is
    also a model for `perception_encoder.AutoModel.from_pretrained`.

    Args:
        name_or_path: as in `AutoModel.from_pretrained`.
        folder: where it goes; an earlier package or saved model there is replaced.
        model: as in `AutoModel.from_pretrained`.
        preprocess: what opening the folder will choose; None takes what the model was saved with.
        local_files_only: never use the network.

    Raises:
        UnknownModelError, DownloadError: as `AutoModel.from_pretrained`.
        CheckpointError: the weights are damaged or an export, or the folder holds something else.
    """
    from perception_encoder.checkpoints.load import load_model
    from perception_encoder.checkpoints.save import save_model

    checkpoint = locate(name_or_path, model=model, local_files_only=local_files_only)
    text, vocabulary = checkpoint.config.text, checkpoint.tokenizer
    tokenizer = (
        Tokenizer.from_file(vocabulary, text.context_length) if text and vocabulary else None
    )
    preprocess = preprocess or checkpoint.preprocess or "standard"
    folder = Path(folder).expanduser()
    save_model(load_model(checkpoint).model, folder, tokenizer, preprocess=preprocess)
    try:
        (folder / _CONFIG["model_module"]).write_text(_MODULE, encoding="utf-8")
        (folder / "model_config.json").write_text(json.dumps(_CONFIG, indent=2) + "\n")
    except OSError as err:
        raise CheckpointWriteError(f"{folder}: cannot be written ({err.strerror or err})") from err
