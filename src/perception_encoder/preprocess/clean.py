"""Text cleaning as CLIP's tokenizer does it, before any splitting. Knows nothing of vocabularies.

Reproduces `_clean_lower` of open_clip 3.3.0 `open_clip/tokenizer.py` (the same function as in
facebookresearch/perception_models `core/vision_encoder/tokenizer.py`): repair what was decoded
wrongly, undo HTML entities twice, squeeze white space, lower the case.
"""

import html


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
    if not (text.isascii() and text.isprintable() and "&" not in text):
        # Printable ASCII without entities is what both steps leave untouched; they cost 20 times
        # the rest, and nearly every caption is such a text.
        import ftfy  # here, as it is seldom needed and takes longer to import than a query to clean

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()
