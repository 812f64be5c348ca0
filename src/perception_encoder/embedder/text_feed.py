"""Feeds a model with texts: numbered, sorted by length, cut into batches with little padding."""

import logging
from collections.abc import Iterator, Sequence

from perception_encoder.embedder.cache import EmbeddingCache
from perception_encoder.embedder.chunk import Chunk, check_batch_size
from perception_encoder.errors import TokenizerNotFoundError, UnsupportedOperationError
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.registry import ModelConfig
from perception_encoder.types import TokenIds

logger = logging.getLogger(__name__)


def tokenizer_of(config: ModelConfig, found: Tokenizer | None) -> Tokenizer:
    """Return what was found, or say why a model can be given no words.

    Raises:
        TokenizerNotFoundError: the model's vocabulary was not found.
        UnsupportedOperationError: the model reads no text.
    """
    if config.text is None:
        raise UnsupportedOperationError(f"{config.id} reads no text; use a PE-Core or CLIP model")
    if found is None:
        raise TokenizerNotFoundError(
            f"no vocabulary was found for {config.id}. Put tokenizer.json or "
            "bpe_simple_vocab_16e6.txt.gz beside the weights, install open_clip_torch "
            "(pip install --no-deps open_clip_torch), or allow the download of "
            "openai/clip-vit-base-patch32"
        )
    return found


class TextFeed:
    """Cuts texts into chunks of similar length; those the cache knows come first."""

    def __init__(self, tokenizer: Tokenizer, cache: EmbeddingCache | None) -> None:
        self._tokenizer = tokenizer
        self._cache = cache

    def chunks(self, texts: Sequence[str], batch_size: int) -> Iterator[Chunk[TokenIds]]:
        """Yield every text once, at most `batch_size` to compute in a chunk.

        Raises:
            TypeError: an item is not a string.
            ValueError: `batch_size` is below 1.
        """
        check_batch_size(batch_size)
        token_rows = self._tokenizer.encode(texts)
        self._warn_of_cut_text(token_rows)
        keys: list[bytes] = []
        todo = list(range(len(texts)))
        if self._cache is not None:
            cache = self._cache
            # Of the numbers, not the words: another vocabulary reads the same words otherwise.
            keys = [cache.key("text", self._tokenizer.pad([row]).tobytes()) for row in token_rows]
            vectors = cache.get(keys)
            known = {row: vectors[key] for row, key in enumerate(keys) if key in vectors}
            todo = [row for row in todo if row not in known]
            yield Chunk([], self._tokenizer.pad([]), [], known)
        # Neighbours of one length share a batch, so few columns are padding.
        todo.sort(key=lambda row: len(token_rows[row]))
        for start in range(0, len(todo), batch_size):
            rows = todo[start : start + batch_size]
            token_ids = self._tokenizer.pad([token_rows[row] for row in rows])
            yield Chunk(rows, token_ids, [keys[row] for row in rows] if keys else [], {})

    def _warn_of_cut_text(self, token_rows: Sequence[Sequence[int]]) -> None:
        limit = self._tokenizer.context_length
        num_cut = sum(len(row) > limit for row in token_rows)
        if num_cut:
            logger.warning(
                "%d of %d texts are longer than the %d tokens this model reads; "
                "their ends were cut off",
                num_cut,
                len(token_rows),
                limit,
            )
