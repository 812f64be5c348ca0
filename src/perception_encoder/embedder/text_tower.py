"""The text tower of a vision-only model: that of its twin, which has the same vision tower.

Where the twin's whole file is in the cache, the fingerprint of its vision tower must be the
model's. A text tower that was fetched alone comes out of the twin's file in its own repository; the
first and last tensors of the vision tower, which come with it, must equal the model's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from perception_encoder.checkpoints import Checkpoint, is_cached, locate
from perception_encoder.checkpoints.known_weights import identify_towers
from perception_encoder.checkpoints.locate import find_tokenizer
from perception_encoder.checkpoints.text_towers import fetch_text_tower, has_vision_tower_of
from perception_encoder.errors import (
    CheckpointError,
    DownloadError,
    TokenizerNotFoundError,
    UnknownModelError,
    UnsupportedOperationError,
)
from perception_encoder.forking import run_on_usable_thread
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.registry import ModelConfig, ModelEntry, find

if TYPE_CHECKING:
    from perception_encoder.backends import Backend


@dataclass(frozen=True, slots=True)
class TextTower:
    """What embeds texts into the space of a vision-only model.

    Attributes:
        backend: its `encode_text` and `logit_scale` are used.
        tokenizer: turns texts into its token ids.
    """

    backend: Backend
    tokenizer: Tokenizer


def find_text_twin(model_id: str) -> ModelEntry | None:
    """Return the model with the same vision tower and a text tower, if there is one."""
    try:
        twin = find(model_id).text_twin
    except UnknownModelError:
        return None
    return None if twin is None else find(twin)


def describe_missing_text(model_id: str) -> str:
    """Say that a model reads no text, and which one does in the same space."""
    twin = find_text_twin(model_id)
    if twin is None:
        return f"{model_id} reads no text; use a PE-Core or CLIP model"
    return (
        f"{model_id} reads no text. Its twin {twin.id} has the same vision tower and a text "
        "tower: use that model, also with indexes of this one, or attach its text tower in Python "
        "(model.attach_text_tower())"
    )


def open_text_tower(
    model_id: str,
    fingerprint: str,
    *,
    weights: Path | None = None,
    local_files_only: bool = False,
) -> TextTower:
    """Open the text tower of a model's twin, from the cache or the hub.

    Only the text tower is downloaded where the hub sends parts of the file.

    Args:
        model_id: of the vision-only model.
        fingerprint: of its weights.
        weights: its file, to compare the first and last tensors of the vision tower with.
        local_files_only: never use the network.

    Raises:
        UnsupportedOperationError: the model has no twin.
        CheckpointError: the twin's vision tower is another one, or its file is damaged.
        DownloadError: the twin could not be fetched.
        TokenizerNotFoundError: no vocabulary was found.
        BackendUnavailableError: the twin's file was never read, and torch is not installed.
    """
    twin = find_text_twin(model_id)
    if twin is None:
        raise UnsupportedOperationError(describe_missing_text(model_id))
    try:
        part = None
        if is_cached(twin) is None:
            part = fetch_text_tower(twin, local_files_only=local_files_only)
        if part is None:
            checkpoint = locate(twin.id, local_files_only=local_files_only)
        else:
            vocabulary = find_tokenizer(twin.config, part.parent, local_files_only=local_files_only)
            checkpoint = Checkpoint(
                config=twin.config,
                path=part,
                tokenizer=vocabulary,
                entry=twin,
                preprocess=None,
                source=f"the text tower of {twin.id}, in {part}",
            )
    except DownloadError as err:
        raise type(err)(
            f"{model_id} reads no text, and the text tower of its twin could not be had: {err}"
        ) from err
    if part is None:
        found = run_on_usable_thread(partial(identify_towers, checkpoint))[1]
        is_twin = found == fingerprint
    else:
        is_twin = weights is None or has_vision_tower_of(part, weights) is not False
    if not is_twin:
        raise CheckpointError(
            f"{checkpoint.path}: its vision tower is not the one of {model_id} that is open "
            f"(fingerprint {fingerprint}), so its texts cannot be compared with these images. Use "
            "a model that has both towers"
        )
    if checkpoint.tokenizer is None:
        raise TokenizerNotFoundError(describe_missing_vocabulary(twin.id))
    tokenizer = open_tokenizer(checkpoint.config, checkpoint.tokenizer)
    assert tokenizer is not None  # the twin reads text
    return TextTower(_open_backend(checkpoint, fingerprint), tokenizer)


def _open_backend(checkpoint: Checkpoint, fingerprint: str) -> Backend:
    """Open what reads no more than the text tower of a file, if its format allows that."""
    from perception_encoder.backends import ComputeOptions, open_backend
    from perception_encoder.backends.numpy_text import NumpyTextBackend

    if checkpoint.path.suffix == ".safetensors":
        return NumpyTextBackend(checkpoint, fingerprint)
    return open_backend(checkpoint, ComputeOptions(device="cpu", precision="fp32"))


def open_tokenizer(config: ModelConfig, vocabulary: Path | None) -> Tokenizer | None:
    """Open the vocabulary of a model; None where it reads no text or none was found.

    Raises:
        CheckpointError: it is another model's.
    """
    if config.text is None or vocabulary is None:
        return None
    tokenizer = Tokenizer.from_file(vocabulary, config.text.context_length)
    if tokenizer.vocab_size != config.text.vocab_size:
        raise CheckpointError(
            f"{vocabulary}: it has {tokenizer.vocab_size} tokens, but {config.id} was trained with "
            f"{config.text.vocab_size}, so text would be misread. Use the model's own vocabulary"
        )
    return tokenizer


def describe_missing_vocabulary(model_id: str) -> str:
    """Say that a model's vocabulary was not found, and where to get it."""
    return (
        f"no vocabulary was found for {model_id}. Put tokenizer.json or "
        "bpe_simple_vocab_16e6.txt.gz beside the weights, install open_clip_torch "
        "(pip install --no-deps open_clip_torch), or allow the download of "
        "openai/clip-vit-base-patch32"
    )
