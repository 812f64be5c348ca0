"""Learns pe-nano's small vocabulary from captions, in CLIP's layout and with CLIP's cleaning."""

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, trainers

from perception_encoder.preprocess.clean import clean
from perception_encoder.preprocess.vocabulary import WORD_END, build, byte_symbols

_NUM_FIXED = 514  # 256 bytes, the same 256 ending a word, start and end token


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn merges from texts and build the pipeline from them.

    Args:
        texts: captions as people write them; cleaned here.
        vocab_size: the number of ids wanted, at least 514.

    Returns:
        A pipeline with exactly that many ids, the end token's the highest.

    Raises:
        ValueError: the texts give too few merges for vocab_size, or it is below 514.
    """
    if vocab_size < _NUM_FIXED:
        raise ValueError(f"vocab_size must be at least {_NUM_FIXED}, got {vocab_size}")
    learner = build([])
    trainer = trainers.BpeTrainer(
        # The trainer counts only those word-ending bytes that occur: ask for all ids and cut.
        vocab_size=vocab_size,
        initial_alphabet=byte_symbols(),
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    learner.train_from_iterator(map(clean, texts), trainer)
    learned = [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]
    merges: list[tuple[str, str]] = []
    made: set[str] = set()  # two merges may make one symbol
    for left, right in learned:
        if len(made) == vocab_size - _NUM_FIXED:
            break
        merges.append((left, right))
        made.add(left + right)
    if len(made) < vocab_size - _NUM_FIXED:
        raise ValueError(f"the texts give only {len(made) + _NUM_FIXED} ids, not {vocab_size}")
    return build(merges)
