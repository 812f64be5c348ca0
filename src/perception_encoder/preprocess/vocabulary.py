"""CLIP's byte-pair vocabulary: its layout, its files, and the pipeline built from its merges.

Every vocabulary here has CLIP's layout, so the list of merges determines all ids:
256 byte symbols, the same 256 ending a word (`</w>`), one symbol for each merge, then the two
special tokens, the end token last.

The layout and the pattern are those of open_clip 3.3.0 `open_clip/tokenizer.py`.
"""

import gzip
import json
import zlib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from perception_encoder.errors import CheckpointError, TokenizerNotFoundError

START: Final = "<start_of_text>"
END: Final = (
    "<end_of_text>"  # the text tower reads its vector at the highest id: this must be the last
)
WORD_END: Final = "</w>"
MERGES_FILE_NAME: Final = "bpe_simple_vocab_16e6.txt.gz"

_NUM_CLIP_MERGES: Final = (
    48_894  # the file holds more; the original reads the first 49152 - 256 - 2
)
_OPENAI_NAMES: Final = {"<|startoftext|>": START, "<|endoftext|>": END}

# The original matches without regard to case, on text already in small letters. What that adds is
# spelled out here: the long s is another form of "s", and U+0345 (a combining iota, another form of
# a letter) is in none of the classes, so it separates words and is dropped.
# What is a letter or a number is the library's to say (Unicode 16); a character assigned later may
# be one in the original, whose table comes with the `regex` package, and a sign here.
_PATTERN: Final = (
    r"<[sſ]tart_of_text>|<end_of_text>"
    r"|'[sſ]|'t|'re|'ve|'m|'ll|'d"
    r"|\p{L}+|\p{N}|[^\s\p{L}\p{N}\x{0345}]+"
)


def byte_symbols() -> list[str]:
    """List the character that stands for each byte, in the order of the vocabulary's first ids.

    Returns:
        256 one-character strings: the printable bytes as themselves, then the others, each as a
        character from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    num_others = 256 - len(printable)
    return [chr(code) for code in (*printable, *range(0x100, 0x100 + num_others))]


def build(merges: Sequence[tuple[str, str]]) -> Tokenizer:
    """Build the splitting and merging pipeline from a list of merges.

    The special tokens have ids but are not registered with the library: it would find them
    anywhere in a text, while the original finds them only where its pattern does.

    Args:
        merges: pairs of symbols, most frequent first.

    Returns:
        A pipeline for cleaned text that adds no special tokens.

    Raises:
        ValueError: a merge joins symbols that are not in the vocabulary.
    """
    symbols = byte_symbols()
    tokens = dict.fromkeys([*symbols, *(symbol + WORD_END for symbol in symbols)])
    for left, right in merges:
        if left not in tokens or right not in tokens:
            raise ValueError(f"merge {left!r} + {right!r} joins symbols not made by earlier merges")
        tokens[left + right] = None
    vocabulary = {token: index for index, token in enumerate([*tokens, START, END])}
    pipeline = Tokenizer(
        models.BPE(vocab=vocabulary, merges=list(merges), end_of_word_suffix=WORD_END)
    )
    pipeline.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return pipeline


def read_vocabulary(path: Path) -> Tokenizer:
    """Read a vocabulary file and build the pipeline from it.

    Args:
        path: a `tokenizer.json` of the `tokenizers` library with CLIP's layout (ours, or that of
            OpenAI's hub repositories, whose normalizer and pre-tokenizer are replaced), or CLIP's
            own `bpe_simple_vocab_16e6.txt.gz`.

    Returns:
        As `build`.

    Raises:
        TokenizerNotFoundError: there is no such file, or it cannot be read.
        CheckpointError: the file is damaged or its ids are not laid out as CLIP's.
    """
    try:
        content = path.read_bytes()
    except OSError as err:
        raise TokenizerNotFoundError(
            f"no vocabulary could be read from {path} ({err.strerror}): "
            f"give a tokenizer.json or {MERGES_FILE_NAME}"
        ) from err
    try:
        if content[:2] == b"\x1f\x8b":
            return build(_merges_from_gzip(content))
        return _from_json(json.loads(content))
    except (ValueError, KeyError, TypeError, EOFError, OSError, zlib.error) as err:
        raise CheckpointError(
            f"{path} is not a vocabulary with CLIP's layout ({err}): "
            f"use the model's own tokenizer.json or {MERGES_FILE_NAME}"
        ) from err


def installed_vocabulary() -> Path | None:
    """Find CLIP's merges file inside an installed `open_clip_torch`, without importing it.

    Returns:
        The file's path, or None where that package or its file is absent.
    """
    try:
        files = metadata.files("open_clip_torch") or []
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.name == MERGES_FILE_NAME:
            path = Path(str(file.locate()))
            return path if path.is_file() else None
    return None


def _merges_from_gzip(content: bytes) -> list[tuple[str, str]]:
    # The first line is a heading; those past the last merge stay one long string, left alone.
    lines = gzip.decompress(content).decode("utf-8").split("\n", maxsplit=1 + _NUM_CLIP_MERGES)
    merges = [_pair(line) for line in lines[1 : 1 + _NUM_CLIP_MERGES]]
    if len(merges) < _NUM_CLIP_MERGES:
        raise ValueError(f"it has {len(merges)} merges, CLIP's has {_NUM_CLIP_MERGES}")
    return merges


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _from_json(content: dict[str, dict[str, object]]) -> Tokenizer:
    merges, vocabulary = content["model"]["merges"], content["model"]["vocab"]
    if not isinstance(merges, list) or not isinstance(vocabulary, dict):
        raise TypeError("merges must be a list and vocab an object")
    pipeline = build([_pair(merge) for merge in merges])
    # OpenAI's hub repositories have other names for the special tokens.
    renamed = {_OPENAI_NAMES.get(token, token): index for token, index in vocabulary.items()}
    if renamed != pipeline.get_vocab():
        raise ValueError(f"its {len(vocabulary)} ids do not follow from its {len(merges)} merges")
    return pipeline
