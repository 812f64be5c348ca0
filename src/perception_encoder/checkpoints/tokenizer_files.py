"""Where a model's vocabulary lies. Finds files; `preprocess` reads them."""

import logging
from pathlib import Path

from perception_encoder.checkpoints import hub
from perception_encoder.checkpoints.folder import TOKENIZER_NAME
from perception_encoder.errors import DownloadError
from perception_encoder.registry import ModelConfig

logger = logging.getLogger(__name__)

_CLIP_VOCAB_SIZE = 49_408
_CLIP_REPO = "openai/clip-vit-base-patch32"


def find_tokenizer(
    config: ModelConfig,
    folder: Path,
    *,
    local_files_only: bool = False,
    cache_dir: Path | None = None,
) -> Path | None:
    """Find the vocabulary of a model.

    Looks in the model's own folder; then, for models with CLIP's 49,408 tokens, which PE shares, in
    the hub cache, in an installed open_clip_torch, and on the hub.

    Returns:
        A tokenizer.json or CLIP's merges file. None where the model reads no text, or where nothing
        was found: pictures can be embedded all the same, so that is a warning.
    """
    from perception_encoder.preprocess.vocabulary import MERGES_FILE_NAME, installed_vocabulary

    if config.text is None:
        return None
    for name in (TOKENIZER_NAME, MERGES_FILE_NAME):
        if (folder / name).is_file():
            return folder / name
    if config.text.vocab_size != _CLIP_VOCAB_SIZE:
        logger.warning(
            "%s: %s has no %s, so text cannot be embedded", config.id, folder, TOKENIZER_NAME
        )
        return None
    found = hub.cached(_CLIP_REPO, TOKENIZER_NAME, cache_dir=cache_dir) or installed_vocabulary()
    if found is not None:
        return found
    try:
        return hub.fetch(
            _CLIP_REPO, TOKENIZER_NAME, local_files_only=local_files_only, cache_dir=cache_dir
        )
    except (DownloadError, hub.NotOnHubError) as err:
        logger.warning("%s: no vocabulary, so text cannot be embedded: %s", config.id, err)
        return None
