"""Write a model as a snapshot that open_clip 3.3 opens: `open_clip.create_model("local-dir:…")`.

Only what open_clip can describe is written: PE-Core's five towers, which it builds by their timm
names, and OpenAI's CLIP of any size, both with CLIP's vocabulary. What was written is read again by
our own reader before it is put in place, and must be the same model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from perception_encoder.checkpoints.folder import OPEN_CLIP_WEIGHTS_NAMES, TOKENIZER_NAME
from perception_encoder.checkpoints.foreign_configs import (
    OPEN_CLIP_CONFIG_NAME,
    describe_for_open_clip,
    parse_open_clip,
)
from perception_encoder.checkpoints.names import choose_open_clip_scheme
from perception_encoder.checkpoints.save import move_into_place, stage_folder, write_tensors
from perception_encoder.errors import CheckpointError
from perception_encoder.registry import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor

    from perception_encoder.model import DualEncoder
    from perception_encoder.preprocess.tokenizer import Tokenizer

_WEIGHTS_NAME: Final = OPEN_CLIP_WEIGHTS_NAMES[0]
_FILES: Final = (_WEIGHTS_NAME, TOKENIZER_NAME, OPEN_CLIP_CONFIG_NAME)
_VOCAB_SIZE: Final = 49_408  # of CLIP's vocabulary, which is part of open_clip


def save_open_clip(model: DualEncoder, folder: Path, tokenizer: Tokenizer | None) -> None:
    """Write open_clip_config.json, open_clip_model.safetensors and tokenizer.json.

    A snapshot saved before is overwritten; as long as writing fails, it stays.

    Args:
        model: the weights and their config.
        folder: made where it does not exist.
        tokenizer: its vocabulary, which open_clip has itself; None where there is none.

    Raises:
        CheckpointError: open_clip cannot build this model, or the folder holds something else.
        CheckpointWriteError: the folder cannot be written.
    """
    config = model.config
    data = _describe(config)
    folder = folder.expanduser().absolute()
    if folder.exists() and not _may_overwrite(folder):
        raise CheckpointError(
            f"{folder} exists and holds something else than a saved snapshot. Choose another folder"
        )
    with stage_folder(folder) as new:
        write_tensors(spell_for_open_clip(model), new / _WEIGHTS_NAME)
        if tokenizer is not None:
            tokenizer.save(new / TOKENIZER_NAME)
        text = json.dumps(data, indent=2) + "\n"
        (new / OPEN_CLIP_CONFIG_NAME).write_text(text, encoding="utf-8")
        shutil.copymode(new / OPEN_CLIP_CONFIG_NAME, new / _WEIGHTS_NAME)
        move_into_place(new, folder, _FILES)


def spell_for_open_clip(model: DualEncoder) -> dict[str, Tensor]:
    """Return a model's tensors under the names, and in the shapes, of open_clip's state_dict."""
    scheme = choose_open_clip_scheme(model.config)
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        key, transform = scheme.source(name)
        tensors[key] = transform.invert(parameter.detach()).contiguous()
    head = "visual.trunk.head.weight"
    if head in tensors:  # timm's projection has a bias, Meta's has none
        tensors["visual.trunk.head.bias"] = tensors[head].new_zeros(len(tensors[head]))
    return tensors


def _describe(config: ModelConfig) -> Mapping[str, Any]:
    data = describe_for_open_clip(config)
    if data is not None and config.text is not None and config.text.vocab_size == _VOCAB_SIZE:
        read = parse_open_clip(data, config.id, has_vocabulary=False)
        if read.digest() == config.digest():
            return data
    raise CheckpointError(
        f"{config.id}: open_clip has no such model. It builds PE-Core-T16-384, S16-384, B16-224, "
        "L14-336 and G14-448, and OpenAI's CLIP, with text towers and CLIP's vocabulary. Save it "
        "in this package's own format"
    )


def _may_overwrite(folder: Path) -> bool:
    return folder.is_dir() and {path.name for path in folder.iterdir()} <= set(_FILES)
