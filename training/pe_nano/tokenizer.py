"""Learns pe-nano's small vocabulary from captions, in CLIP's layout and with CLIP's cleaning."""

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, trainers

from perception_encoder.preprocess.tokenizer import clean
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
    symbols = byte_symbols()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2,  # start and end token are added by build
        initial_alphabet=symbols,
        # Else the trainer numbers word endings in the order of a randomly seeded hash map, and
        # breaks ties between equally frequent pairs by those numbers.
        special_tokens=[symbol + WORD_END for symbol in symbols],
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    learner = build([])
    learner.train_from_iterator(map(clean, texts), trainer)
    merges = json.loads(learner.to_str())["model"]["merges"]
    pipeline = build([(left, right) for left, right in merges])
    if pipeline.get_vocab_size() < vocab_size:
        raise ValueError(f"the texts give only {pipeline.get_vocab_size()} ids, not {vocab_size}")
    return pipeline
