"""Text cleaning as CLIP's tokenizer does it, before any splitting. Knows nothing of vocabularies.

Reproduces `_clean_lower` of open_clip 3.3.0 `open_clip/tokenizer.py` (the same function as in
facebookresearch/perception_models `core/vision_encoder/tokenizer.py`): repair what was decoded
wrongly, undo HTML entities twice, squeeze white space, lower the case.
"""

import html
import re
from collections.abc import Iterator
from typing import Final

from perception_encoder.errors import TextTooLargeError

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
