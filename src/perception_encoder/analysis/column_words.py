"""The words of a table's own texts, such as captions or file names, to name clusters by.

Knows no model: which word fits which cluster is `cluster_names`' to say.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from perception_encoder.errors import QueryError
from perception_encoder.index import Index

MOST_WORDS: Final = 1000

_WORD: Final = re.compile(r"[^\W\d_]{3,}")
_LARGEST_SHARE: Final = 0.5  # of the texts; a word in more of them tells nothing apart
_FEWEST: Final = 2  # texts with the word, so that a slip of the pen is no name
_JOINING: Final = (
    "about above after all also and another any are around behind below beside between both but "
    "can down each for from front has have her his image img into its jpeg jpg left like many more "
    "most near next not off one other out over photo picture png right several showing side small "
    "some that the their them there these they this those through together top two under various "
    "very view was webp were which while who with without you your"
)
_FILLERS: Final = frozenset(_JOINING.split())


def column_words(index: Index, column: str, *, where: str | None = None) -> list[str]:
    """Return the words that come in a column's texts, in most texts first, `MOST_WORDS` at most.

    Left out are words of less than three letters, those that only join others ("with"), and those
    that are in a single text or in more than half of all.

    Args:
        index: the table.
        column: of text; of "uri", for example, the words of folders and files.
        where: an SQL condition; other rows do not count.

    Raises:
        QueryError: there is no such column of text, or the condition is wrong.
    """
    from pyarrow import types

    texts = [field.name for field in index.schema if types.is_string(field.type)]
    if column not in texts:
        raise QueryError(
            f"{index.path} has no column of text {column!r}; it has {', '.join(texts)}"
        )
    counts: Counter[str] = Counter()
    num_texts = 0
    for batch in index.scan([column], where=where):
        for text in batch[column].to_pylist():
            if text:
                num_texts += 1
                counts.update(set(_WORD.findall(text.lower())))
    most = num_texts * _LARGEST_SHARE
    usable = [
        (-count, word)
        for word, count in counts.items()
        if _FEWEST <= count <= most and word not in _FILLERS
    ]
    return [word for _, word in sorted(usable)[:MOST_WORDS]]
