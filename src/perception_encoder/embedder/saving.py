"""Writes an open model as a folder. Weights are read anew: a backend may have rounded them."""

import os
from functools import partial
from pathlib import Path

from perception_encoder.checkpoints import Checkpoint
from perception_encoder.errors import CheckpointError
from perception_encoder.forking import on_usable_thread
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.registry import ModelConfig
from perception_encoder.types import PreprocessName


def save(
    source: Checkpoint | ModelConfig,
    fingerprint: str,
    tokenizer: Tokenizer | None,
    preprocess: PreprocessName,
    folder: str | os.PathLike[str],
) -> Path:
    """Write a model's weights, vocabulary and preprocessing, and return the folder.

    Args:
        source: what the model was opened from; its numbers where its weights are made up.
        fingerprint: of the weights that it was opened with.
        tokenizer: its vocabulary, where it reads text.
        preprocess: how it prepares images.
        folder: see `EmbeddingModel.save_pretrained`.

    Raises:
        CheckpointError: the folder holds something else, or the weights are others by now.
    """
    return on_usable_thread(partial(_save, source, fingerprint, tokenizer, preprocess, folder))


def _save(
    source: Checkpoint | ModelConfig,
    fingerprint: str,
    tokenizer: Tokenizer | None,
    preprocess: PreprocessName,
    folder: str | os.PathLike[str],
) -> Path:
    from perception_encoder.checkpoints.load import load_model, random_model
    from perception_encoder.checkpoints.save import save_model
    from perception_encoder.checkpoints.tensors import weights_fingerprint

    model = random_model(source) if isinstance(source, ModelConfig) else load_model(source).model
    if weights_fingerprint(model) != fingerprint:
        raise CheckpointError(
            f"{model.config.id}: its weights are not in the file that it was opened from any "
            "more, so they cannot be saved; open it again"
        )
    path = Path(folder).expanduser()
    save_model(model, path, tokenizer, preprocess=preprocess)
    return path
