"""Texts to rows of token ids, equal to those of open_clip's `SimpleTokenizer`.

A row is the start token, the text's tokens, the end token, then zeros.
"""

import html
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import tokenizers

from perception_encoder.errors import TextTooLargeError
from perception_encoder.preprocess.vocabulary import END, START, read_vocabulary
from perception_encoder.types import TokenIds

MAX_TEXT_BYTES: Final = 2**20
"""The largest text that is read, as UTF-8. A model reads at most 77 tokens, a few hundred bytes;
this leaves room for documents that are passed whole, and bounds the time spent on any of them."""

SEGMENT: Final = 4096
"""Characters cleaned at once. Repairing takes time that grows with the square of some texts (a run
of combining marks: 100,000 take 22 s), and `int` refuses entities of more than 4300 digits."""

_MAX_LINES: Final = 512
"""ftfy takes 0.1 ms for each line, however short; a segment of more lines is repaired as one."""

_PLAIN: Final = re.compile(r"[\t\n\r -%'-~]*")  # printable ASCII but "&", and white space
_DROPPED: Final = "\u0345"  # the one character besides white space that is part of no token


def check_text_size(text: str, name: str, position: int = 0) -> None:
    """Refuse a text that is too large to be worth reading.

    Args:
        text: any string.
        name: what the error calls it, such as "text 3".
        position: of the text among those of a call, for the error.

    Raises:
        TextTooLargeError: more than `MAX_TEXT_BYTES`.
    """
    num_bytes = len(text)
    if MAX_TEXT_BYTES // 4 < num_bytes <= MAX_TEXT_BYTES and not text.isascii():
        num_bytes = len(text.encode("utf-8", "surrogatepass"))
    if num_bytes > MAX_TEXT_BYTES:
        raise TextTooLargeError(
            f"{name}: at least {num_bytes:,} bytes, the limit is {MAX_TEXT_BYTES:,}; "
            "the model reads only the first words of a text: give its beginning",
            position=position,
        )


def clean(text: str) -> str:
    """Bring a text into the form the vocabulary was made from.

    Mojibake and curly quotes are repaired, control characters and terminal escapes dropped,
    unpaired surrogates become U+FFFD, HTML entities (also escaped twice) become characters,
    every run of white space one space, and capitals small letters.

    Args:
        text: any string.

    Returns:
        The cleaned text: no white space but single spaces between words, none at the ends.
    """
    return _squeezed(_repaired(text))


def clean_beginning(text: str, enough: int) -> str:
    """Clean only as much of a text as a model can read.

    The result begins as that of `clean` does, and what is cut off begins beyond `enough`
    characters. That is exact where no line has more than `SEGMENT` characters. Longer lines are
    repaired in parts, as ftfy itself does from a million characters on: of these only mojibake that
    shows as such by what comes much later may be repaired otherwise.

    Args:
        text: any string.
        enough: how many characters that become part of tokens are wanted.
    """
    if len(text) <= SEGMENT:
        return clean(text)
    parts: list[str] = []
    num_found = 0
    for segment, may_unescape in _segments(text):
        part = _repaired(segment, may_unescape=may_unescape)
        parts.append(part)
        num_found += sum(map(len, part.replace(_DROPPED, "").split()))
        if num_found >= enough:
            break
    return _squeezed("".join(parts))


def _repaired(text: str, *, may_unescape: bool = True) -> str:
    if _PLAIN.fullmatch(text):
        # Printable ASCII without entities is what both steps leave untouched; they cost 20 times
        # the rest, and nearly every caption is such a text.
        return text
    import ftfy  # here, as it is seldom needed and takes longer to import than a query to clean

    config = ftfy.TextFixerConfig(unescape_html="auto" if may_unescape else False, explain=False)
    if text.count("\n") <= _MAX_LINES:
        fixed = ftfy.fix_text(text, config)
    else:
        fixed = ftfy.fix_and_explain(text, config).text
    return html.unescape(html.unescape(fixed))


def _squeezed(text: str) -> str:
    return " ".join(text.split()).lower()


def _segments(text: str) -> Iterator[tuple[str, bool]]:
    """Yield parts of a text, and whether ftfy undoes entities in them.

    It stops to do so from the first line on that holds a "<".
    """
    tag = text.find("<")
    end_of_unescaping = len(text) if tag < 0 else text.rfind("\n", 0, tag) + 1
    start = 0
    while start < len(text):
        end = _end_of_segment(text, start)
        may_unescape = start < end_of_unescaping
        if may_unescape:
            end = min(end, end_of_unescaping)
        yield text[start:end], may_unescape
        start = end


def _end_of_segment(text: str, start: int) -> int:
    """Return where a segment ends: after a line, or else before a space, an entity, an escape."""
    end = start + SEGMENT
    if end >= len(text):
        return len(text)
    if (newline := text.rfind("\n", start, end)) >= 0:
        return newline + 1
    cut = max(text.rfind(sign, start + SEGMENT // 2, end) for sign in " &\x1b")
    return cut if cut >= 0 else end


class Tokenizer:
    """Clean, split and number texts. Safe to call from many threads at once."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, context_length: int) -> None:
        """Wrap a pipeline made by `vocabulary.build` or `vocabulary.read_vocabulary`.

        Args:
            tokenizer: the pipeline for cleaned text.
            context_length: the longest row, start and end token included; at least 2.

        Raises:
            ValueError: context_length is below 2, or the pipeline lacks the special tokens.
        """
        if context_length < 2:
            raise ValueError(f"context_length must be at least 2, got {context_length}")
        start_id, end_id = tokenizer.token_to_id(START), tokenizer.token_to_id(END)
        if start_id is None or end_id is None:
            raise ValueError(f"the pipeline has no {START} or no {END}: make it with build()")
        self._pipeline = tokenizer
        self.context_length = context_length
        self.vocab_size: int = tokenizer.get_vocab_size()
        self.start_id: int = start_id
        self.end_id: int = end_id

    @classmethod
    def from_file(cls, path: Path, context_length: int) -> "Tokenizer":
        """Read a `tokenizer.json` or CLIP's `bpe_simple_vocab_16e6.txt.gz`.

        Raises:
            TokenizerNotFoundError: there is no such file.
            CheckpointError: the file is damaged or its ids are not laid out as CLIP's.
            ValueError: context_length is below 2.
        """
        return cls(read_vocabulary(path), context_length)

    def save(self, path: Path) -> None:
        """Write the vocabulary to one `tokenizer.json`, which `from_file` reads back."""
        path.write_text(self._pipeline.to_str(), encoding="utf-8")

    def __call__(self, texts: str | Sequence[str], *, trim: bool = True) -> TokenIds:
        """Number texts; what does not fit the context length is cut, the end token kept.

        Args:
            texts: one string, or a sequence of them.
            trim: False fills every row up to the context length, as the original does.

        Returns:
            (B, L) int64 in the order of the texts; L is the longest row of this batch (2 where
            there are no texts), or the context length where trim is False.

        Raises:
            TypeError: an item is not a string.
            TextTooLargeError: a text has more than `MAX_TEXT_BYTES`.
        """
        return self.pad(self.encode(texts), trim=trim)

    def encode(self, texts: str | Sequence[str]) -> list[list[int]]:
        """Number texts without cutting them to the context length.

        Of a text of thousands of characters only the beginning is numbered: more than a row of the
        context length holds.

        Args:
            texts: one string, or a sequence of them.

        Returns:
            One list of ids for each text, start and end token included, of any length; longer than
            the context length exactly where calling would cut words off.

        Raises:
            TypeError: an item is not a string.
            TextTooLargeError: a text has more than `MAX_TEXT_BYTES`.
        """
        texts = _checked(texts)
        self.check_sizes(texts)
        cleaned = [
            clean_beginning(text, self._enough if len(text) > SEGMENT else 0) for text in texts
        ]
        encodings = self._pipeline.encode_batch_fast(cleaned, add_special_tokens=False)
        return [
            [self.start_id, *(self._spelled(text) or encoding.ids), self.end_id]
            for text, encoding in zip(cleaned, encodings, strict=True)
        ]

    def pad(self, rows: Sequence[Sequence[int]], *, trim: bool = True) -> TokenIds:
        """Make one array of the rows from `encode`, cut and filled as calling does."""
        longest = max((len(row) for row in rows), default=2)
        width = min(longest, self.context_length) if trim else self.context_length
        token_ids = np.zeros((len(rows), width), dtype=np.int64)
        for index, row in enumerate(rows):
            token_ids[index, : len(row)] = row[:width]
            if len(row) > width:
                token_ids[index, -1] = self.end_id
        return token_ids

    def find_truncated(self, texts: str | Sequence[str]) -> list[bool]:
        """Tell for each text whether calling would cut words off.

        Raises:
            TypeError: an item is not a string.
            TextTooLargeError: a text has more than `MAX_TEXT_BYTES`.
        """
        return [len(row) > self.context_length for row in self.encode(texts)]

    @staticmethod
    def check_sizes(texts: Sequence[str]) -> None:
        """Refuse texts that are too large to be read.

        Raises:
            TextTooLargeError: a text has more than `MAX_TEXT_BYTES`; `position` says which.
        """
        for position, text in enumerate(texts):
            check_text_size(text, f"text {position}", position)

    @cached_property
    def _enough(self) -> int:
        """How many characters surely fill a row: no token covers more than the longest one."""
        return self.context_length * max(map(len, self._pipeline.get_vocab()))

    def _spelled(self, text: str) -> list[int] | None:
        """Number a text that spells a special token; None where it does not.

        The original gives such a word the special token's own id; the library's merging never
        arrives there.
        """
        if START not in text and END not in text:
            return None
        specials = {START: self.start_id, END: self.end_id}
        ids: list[int] = []
        for word, _ in self._pipeline.pre_tokenizer.pre_tokenize_str(text):
            if word in specials:
                ids.append(specials[word])
            else:
                ids.extend(token.id for token in self._pipeline.model.tokenize(word))
        return ids


def _checked(texts: str | Sequence[str]) -> list[str]:
    texts = [texts] if isinstance(texts, str) else list(texts)
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(
                f"texts[{position}] is {type(text).__name__}, not str: give strings only"
            )
    return texts
