"""Names clusters by the words that distinguish them from the other clusters.

The cosines of words and centers would give every cluster the same names: all images of an index
have much in common, some words are near to everything, and the embeddings of images and texts
occupy different parts of the space (Liang et al. 2022, "Mind the gap"). So the mean of all centers
is subtracted from each center, and the mean of all words from each word.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final

import numpy as np

from perception_encoder.atomic import atomic_write
from perception_encoder.errors import ExchangeError, QueryError
from perception_encoder.index import Index
from perception_encoder.index.schema import VECTOR
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    import pyarrow as pa


NUM_WORDS: Final = 3
_TINY: Final = 1e-6
MOST_WORDS: Final = 1000

_WORD: Final = re.compile(r"[^\W\d_]{3,}")
_LARGEST_SHARE: Final = 0.5  # of the texts; a word in more of them distinguishes nothing
_FEWEST: Final = 2  # texts with the word, so that a misspelling is no name
_STOP_WORDS: Final = (
    "about above after all also and another any are around behind below beside between both but "
    "can down each for from front has have her his image img into its jpeg jpg left like many more "
    "most near next not off one other out over photo picture png right several showing side small "
    "some that the their them there these they this those through together top two under various "
    "very view was webp were which while who with without you your"
)


@dataclass(frozen=True)
class ClusterName:
    """The name of a cluster.

    Attributes:
        text: the best word, with further words as long as another cluster has the same: "cat,
            kitten".
        words: the `NUM_WORDS` best words, the best first.
        scores: of each word, the cosine of its contrast with the cluster's, from -1 to 1.
    """

    text: str
    words: tuple[str, ...]
    scores: tuple[float, ...]


def name_clusters(
    centers: Embeddings, words: Sequence[str], word_vectors: Embeddings
) -> list[ClusterName]:
    """Name each cluster.

    Args:
        centers: (K, E) float32, unit length.
        words: W words, at least one.
        word_vectors: (W, E) float32, unit length, their embeddings by the index's model.
    """
    scores = _contrast(centers) @ _contrast(word_vectors).T  # (K, W)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :NUM_WORDS]
    chosen = [tuple(words[place] for place in row) for row in best.tolist()]
    return [
        ClusterName(
            text=_shortest(own, chosen),
            words=own,
            scores=tuple(round(float(score), 4) for score in scores[number, best[number]]),
        )
        for number, own in enumerate(chosen)
    ]


def _contrast(vectors: Embeddings) -> Embeddings:
    """Return the normalized differences from the mean; the vectors themselves if all are equal."""
    differences = vectors - vectors.mean(axis=0)
    lengths = np.linalg.norm(differences, axis=1, keepdims=True)
    if not (lengths > _TINY).any():
        return vectors
    return np.asarray(differences / np.maximum(lengths, _TINY), np.float32)


def _shortest(own: tuple[str, ...], chosen: Sequence[tuple[str, ...]]) -> str:
    """Return the fewest of a cluster's words that no other cluster begins with."""
    for length in range(1, len(own)):
        if sum(other[:length] == own[:length] for other in chosen) == 1:
            return ", ".join(own[:length])
    return ", ".join(own)


def read_words(
    index: Index, names: str | Sequence[str] | None, where: str | None = None
) -> Sequence[str]:
    """Return the words to name clusters by.

    Args:
        index: the index.
        names: "everyday", "column:NAME", a list of words, or None for no words.
        where: an SQL condition; other rows of a column are left out.

    Raises:
        QueryError: there is no such column, or the condition is wrong.
        ValueError: another string.
    """
    if names is None:
        return ()
    if not isinstance(names, str):
        return list(dict.fromkeys(names))
    if names == "everyday":
        return load_everyday_words()
    if names.startswith("column:"):
        return read_column_words(index, names.removeprefix("column:"), where=where)
    raise ValueError(f'names must be "everyday", "column:NAME" or a list of words, got {names!r}')


@cache
def load_everyday_words() -> list[str]:
    """Return about 350 words for things in images."""
    text = files("perception_encoder").joinpath("data/everyday_words.txt").read_text("utf-8")
    lines = (line.strip() for line in text.splitlines())
    return list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))


def read_column_words(index: Index, column: str, *, where: str | None = None) -> list[str]:
    """Return the words in a column's texts, the most frequent first, at most `MOST_WORDS`.

    Left out are words of less than three letters, stop words, and words in a single text or in more
    than half of all texts.

    Args:
        index: the index.
        column: a text column; "uri" gives the words of folders and files.
        where: an SQL condition; other rows are left out.

    Raises:
        QueryError: there is no such text column, or the condition is wrong.
    """
    from pyarrow import types

    texts = [field.name for field in index.schema if types.is_string(field.type)]
    if column not in texts:
        raise QueryError(f"{index.path} has no text column {column!r}; it has {', '.join(texts)}")
    counts: Counter[str] = Counter()
    num_texts = 0
    for batch in index.scan([column], where=where):
        for text in batch[column].to_pylist():
            if text:
                num_texts += 1
                counts.update(set(_WORD.findall(text.lower())))
    most = num_texts * _LARGEST_SHARE
    stop_words = set(_STOP_WORDS.split())
    usable = [
        (-count, word)
        for word, count in counts.items()
        if _FEWEST <= count <= most and word not in stop_words
    ]
    return [word for _, word in sorted(usable)[:MOST_WORDS]]


def write_rows_with(
    index: Index, where: str | None, columns: Mapping[str, pa.Array], path: str | os.PathLike[str]
) -> None:
    """Write the file; it appears, or replaces the one that is there, when it is whole.

    A column of the index that has the name of a further one gives way to it.

    Args:
        index: the index.
        where: an SQL condition; other rows are left out.
        columns: further columns, by name, for each of these rows, in the index's order.
        path: of the file.

    Raises:
        ExchangeError: it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    own = [name for name in index.schema.names if name != VECTOR and name not in columns]
    fields = [index.schema.field(name) for name in own]
    fields += [pa.field(name, column.type) for name, column in columns.items()]
    schema = pa.schema(fields)
    start = 0
    # Arrow takes no name that is not valid Unicode, but any open file.
    with (
        atomic_write(path, ExchangeError) as partial,
        partial.open("wb") as file,
        pq.ParquetWriter(file, schema) as writer,
    ):
        for batch in index.scan(own, where=where):
            further = [column.slice(start, len(batch)) for column in columns.values()]
            laid_out = [*(batch[name] for name in own), *further]
            writer.write_batch(pa.record_batch(laid_out, schema=schema))
            start += len(batch)
