"""What files of weights hold, noted when they are read, so that nothing has to read them again.

The notes are in the hub's assets folder, one for each file and model config. They can be deleted
at any time.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from perception_encoder.atomic import atomic_write
from perception_encoder.checkpoints.locate import Checkpoint
from perception_encoder.errors import BackendUnavailableError
from perception_encoder.forking import run_on_usable_thread

if TYPE_CHECKING:
    from perception_encoder.checkpoints.load import LoadedModel

FileSignature: TypeAlias = list[int | str]
"""Each file's path, size, times and inode: what changes when the file does."""


@dataclass(frozen=True, slots=True)
class KnownWeights:
    """What is known of a model's weights without reading them.

    Attributes:
        fingerprint: names the weights, whatever file they are in.
        logit_scale: the factor of a cosine before a softmax; 1.0 for models without text.
        vision_fingerprint: what the fingerprint would be without the text tower; None where nobody
            asked for it yet.
    """

    fingerprint: str
    logit_scale: float
    vision_fingerprint: str | None = None


def default_cache_folder() -> Path:
    """Return where notes and graphs are cached: beside the hub's cache, which HF_HOME moves."""
    from huggingface_hub import constants

    return Path(constants.HF_ASSETS_CACHE) / "perception-encoder"


def sign_files(checkpoint: Checkpoint) -> FileSignature:
    """Return the signature of all files that a checkpoint's weights are read from.

    The time of an entry's last change is part of it, because copying tools cannot set it back as
    they do with the time of the content.

    Raises:
        OSError: no such file.
        CheckpointError: the index of several files cannot be used.
    """
    signature: FileSignature = []
    for path in checkpoint.list_files():
        status = path.stat()
        numbers = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        signature += [str(path.absolute()), *numbers]
    return signature


def find_known_weights(checkpoint: Checkpoint, folder: Path | None = None) -> KnownWeights | None:
    """Return what a checkpoint's file holds; None if it was never read, or has changed since.

    Args:
        checkpoint: of weights.
        folder: of the cache; None is `default_cache_folder`.
    """
    try:
        note = json.loads(_note_path(checkpoint, folder).read_bytes())
        known = KnownWeights(**note["weights"])
        if note == _note(sign_files(checkpoint), known):
            return known
    except (OSError, ValueError, KeyError, TypeError):  # no note, or a damaged one
        pass
    return None


def store_known_weights(
    checkpoint: Checkpoint,
    signature: FileSignature,
    known: KnownWeights,
    folder: Path | None = None,
) -> None:
    """Note what a checkpoint's file holds, unless it has changed meanwhile.

    Args:
        checkpoint: of weights.
        signature: of the files, from before they were read.
        known: what was read.
        folder: of the cache; None is `default_cache_folder`. If it cannot be written, nothing is
            noted.
    """
    with suppress(OSError):
        if signature != sign_files(checkpoint):
            return
        stored = find_known_weights(checkpoint, folder)
        if stored is not None and known.vision_fingerprint is None:
            known = replace(known, vision_fingerprint=stored.vision_fingerprint)
        if stored == known:
            return
        path = _note_path(checkpoint, folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(_note(signature, known)))


def identify_weights(checkpoint: Checkpoint, folder: Path | None = None) -> KnownWeights:
    """Return what a checkpoint holds; the weights are read only if that is not known.

    Raises:
        BackendUnavailableError: it is not known and torch is not installed.
        CheckpointError: the weights do not fit their model.
    """
    known = find_known_weights(checkpoint, folder)
    if known is None:
        signature = sign_files(checkpoint)
        loaded = read_weights(checkpoint)
        known = KnownWeights(loaded.fingerprint, loaded.logit_scale)
        store_known_weights(checkpoint, signature, known, folder)
    return known


def identify_towers(checkpoint: Checkpoint, folder: Path | None = None) -> tuple[str, str]:
    """Return the fingerprint of a checkpoint's weights, and that of its vision tower alone.

    The second is the fingerprint of a vision-only model with this vision tower.

    Raises:
        BackendUnavailableError, CheckpointError: as `identify_weights`.
    """
    if checkpoint.config.text is None:
        fingerprint = identify_weights(checkpoint, folder).fingerprint
        return fingerprint, fingerprint
    known = find_known_weights(checkpoint, folder)
    if known is not None and known.vision_fingerprint is not None:
        return known.fingerprint, known.vision_fingerprint
    signature = sign_files(checkpoint)
    loaded = read_weights(checkpoint)
    from perception_encoder.checkpoints.tensors import fingerprint_of

    vision = {
        name: parameter
        for name, parameter in loaded.model.named_parameters()
        if name.startswith("vision.")
    }
    found = fingerprint_of(vision, checkpoint.config)
    known = KnownWeights(loaded.fingerprint, loaded.logit_scale, found)
    store_known_weights(checkpoint, signature, known, folder)
    return loaded.fingerprint, found


def read_weights(checkpoint: Checkpoint) -> LoadedModel:
    """Read a checkpoint in float32.

    Raises:
        BackendUnavailableError: torch is not installed.
        CheckpointError: the weights do not fit their model.
    """
    require_torch()
    import torch

    from perception_encoder.checkpoints.load import load_model

    return run_on_usable_thread(lambda: load_model(checkpoint, dtype=torch.float32))


def require_torch() -> None:
    """Refuse to go on without torch.

    Raises:
        BackendUnavailableError: torch is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise BackendUnavailableError(
            "torch is needed once, to build graphs of these weights: "
            "pip install 'perception-encoder[cpu]'"
        )


def _note_path(checkpoint: Checkpoint, folder: Path | None) -> Path:
    named = os.fsencode(checkpoint.path.absolute()) + checkpoint.config.digest().encode()
    if not checkpoint.ema:
        named += b" without averages"
    if checkpoint.adapter is not None:
        named += os.fsencode(checkpoint.adapter.weights.absolute())
    name = hashlib.sha256(named).hexdigest()[:16]
    return (folder or default_cache_folder()) / "weights" / f"{name}.json"


def _note(signature: FileSignature, known: KnownWeights) -> dict[str, object]:
    """Return a note with a checksum: one wrong digit of a fingerprint would name other weights."""
    weights = {name: value for name, value in asdict(known).items() if value is not None}
    content = {"file": signature, "weights": weights}
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    return {**content, "checksum": digest}
