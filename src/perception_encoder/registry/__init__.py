"""Every model's config, names, sources and license, as plain data.

`find` ignores case, the `perception-encoder/` prefix and `_` for `-` in it, and also knows the
models' hub repositories.
"""

import difflib
from typing import Final

from perception_encoder.errors import UnknownModelError
from perception_encoder.registry import clip, perception_encoder
from perception_encoder.registry import perception_encoder as nano
from perception_encoder.registry.config import (
    ImageConfig,
    License,
    ModelConfig,
    ModelEntry,
    TextConfig,
    VisionConfig,
    WeightSource,
)

MODELS: Final[tuple[ModelEntry, ...]] = (
    nano.ENTRY,
    *perception_encoder.ENTRIES,
    *clip.ENTRIES,
)


def _names(entry: ModelEntry) -> list[str]:
    return [entry.id, *entry.aliases, *(source.repo for source in entry.sources)]


_BY_NAME: Final = {name.lower(): entry for entry in MODELS for name in _names(entry)}


def find(name: str) -> ModelEntry:
    """Return the registered model of that id, alias or hub repository.

    Raises:
        UnknownModelError: no such model; the message lists the nearest names.
    """
    entry = _BY_NAME.get(name.strip().lower())
    if entry is not None:
        return entry
    near = difflib.get_close_matches(name.lower(), _BY_NAME, n=3, cutoff=0.5)
    hint = ", ".join(dict.fromkeys(_BY_NAME[key].id for key in near))
    known = ", ".join(entry.id for entry in MODELS)
    raise UnknownModelError(
        f"no model is named {name!r}, and no file or folder of that name exists. "
        + (f"Did you mean {hint}? " if hint else f"Known: {known}. ")
        + "`pe models` lists what there is."
    )


__all__ = [
    "MODELS",
    "ImageConfig",
    "License",
    "ModelConfig",
    "ModelEntry",
    "TextConfig",
    "VisionConfig",
    "WeightSource",
    "find",
]
