"""Every model's config, names, sources and license, as plain data.

`find` ignores case, the `perception-encoder/` prefix and `_` for `-` in it, and also knows the
models' hub repositories.
"""

import difflib
import re
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

_OTHER_FAMILIES: Final = (
    (
        re.compile(r"(facebook/)?eupe-.*|(timm/)?.*[.]eupe_.*", re.IGNORECASE),
        "EUPE (Efficient Universal Perception Encoder, arXiv 2603.22387): vision-only models of "
        "another architecture, under the FAIR Noncommercial Research License. It is no PE-Core and "
        "reads no text. Use timm for it; here, PE-Core-T16-384, PE-Core-S16-384 and "
        "PE-Core-B16-224 are the models of its sizes",
    ),
    (
        re.compile(r"(facebook/)?pe-(av|a-frame)-.*", re.IGNORECASE),
        "PE-AV (Perception Encoder Audiovisual): models of audio, video and text, which need an "
        "audio codec and another text tower. Use transformers for it (`PeAudioVideoModel`); here, "
        "PE-Core models embed images, video frames and texts",
    ),
)
"""Models whose names look like those of Perception Encoder, and what they are."""


def _names(entry: ModelEntry) -> list[str]:
    return [entry.id, *entry.aliases, *(source.repo for source in entry.sources)]


_BY_NAME: Final = {name.lower(): entry for entry in MODELS for name in _names(entry)}


def find(name: str) -> ModelEntry:
    """Return the registered model of that id, alias or hub repository.

    Raises:
        UnknownModelError: no such model; the message lists the nearest names, or says what a
            similar name of another family is.
    """
    entry = _BY_NAME.get(name.strip().lower())
    if entry is not None:
        return entry
    refuse_other_family(name)
    near = difflib.get_close_matches(name.lower(), _BY_NAME, n=3, cutoff=0.5)
    hint = ", ".join(dict.fromkeys(_BY_NAME[key].id for key in near))
    known = ", ".join(entry.id for entry in MODELS)
    raise UnknownModelError(
        f"no model is named {name!r}, and no file or folder of that name exists. "
        + (f"Did you mean {hint}? " if hint else f"Known: {known}. ")
        + "`pe models` lists what there is."
    )


def refuse_other_family(name: str) -> None:
    """Refuse the names of EUPE and PE-AV models, which only sound like Perception Encoder.

    Raises:
        UnknownModelError: it is one of them; the message says what that is.
    """
    for names, description in _OTHER_FAMILIES:
        if names.fullmatch(name.strip()):
            raise UnknownModelError(f"{name.strip()!r} cannot be opened here. It is {description}.")


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
    "refuse_other_family",
]
