"""Full text of an index: the text of each row, Lance's inverted index of it, and queries.

The text of a row is one hidden column. It is derived from the row when the row is written: the
words of the file's name and its nearest folders, and all metadata that is text. One column is
searched in a fraction of the time of a query over several (benchmarks/text_search.py), and it can
split names such as `BeachParty2023.jpg`, for which Lance has no tokenizer that suits
captions as well.

Rows that the inverted index does not cover yet are read for each query, so every row is always
found; `update_full_text` covers them. It makes the index anew instead of joining parts, and
`reset_full_text` empties it before rows move: Lance 14 ends the process when it reads a part of
some million rows to join it or to follow the rows (it asks for 60 GB), and is no faster.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from perception_encoder.errors import QueryError
from perception_encoder.index.condition_tokens import shorten
from perception_encoder.index.schema import TEXT, build_text, rows_of
from perception_encoder.index.storage import storage_errors

if TYPE_CHECKING:
    import lance
    import pyarrow as pa

MAX_TEXT_QUERY: Final = 1000
"""Characters of a text query."""

MAX_TEXT_TERMS: Final = 32
"""Words and phrases of a text query."""

SCORE: Final = "_score"
"""Lance's name of the BM25 score."""

_NAME: Final = "full_text"
_TERM: Final = re.compile(r'"([^"]*)"?|([^\s"]+)')
_WORD_CHARACTER: Final = re.compile(r"[^\W_]")
_UNINDEXED_ROWS: Final = 1000  # each query reads them: 5 ms
_MAX_PARTS: Final = 16  # of the inverted index; each run of many rows adds one
_MEMORY_MB: Final = 256  # to build the inverted index; its parts become larger with more
_BLOCK_ROWS: Final = 8192
_ANALYSIS: Final[dict[str, Any]] = {
    "base_tokenizer": "icu/split",  # words of all scripts, also of those without spaces
    "stem": True,
    "language": "English",
    "lower_case": True,
    "ascii_folding": True,
    "remove_stop_words": False,  # phrases need them; BM25 gives them little weight
    "with_position": True,  # for phrases
    "memory_limit": _MEMORY_MB,
}


@dataclass(frozen=True, slots=True)
class TextQuery:
    """A text query: a row has to hold every phrase, or any of the words if there is no phrase.

    Attributes:
        words: in any order; more and rarer ones rank higher.
        phrases: each has to occur as it is written.
    """

    words: tuple[str, ...]
    phrases: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read words, and phrases in double quotes. No other character has a meaning.

        Raises:
            QueryError: there is no word, or the text is too long or not valid Unicode.
        """
        if len(text) > MAX_TEXT_QUERY:
            raise QueryError(
                f"the text to search for has {len(text):,} characters; {MAX_TEXT_QUERY:,} is the "
                "limit"
            )
        try:
            text.encode()
        except UnicodeEncodeError as err:
            raise QueryError(
                f"the text {shorten(text)} is not valid Unicode at character {err.start + 1}"
            ) from err
        words, phrases = list[str](), list[str]()
        for found in _TERM.finditer(unicodedata.normalize("NFC", text)):
            quoted, word = found.groups()
            term = word if quoted is None else quoted
            if _WORD_CHARACTER.search(term):
                (words if quoted is None else phrases).append(term)
        if not words and not phrases:
            raise QueryError(f"the text {shorten(text)} has no word to search for; write one")
        if len(words) + len(phrases) > MAX_TEXT_TERMS:
            raise QueryError(
                f"the text to search for has {len(words) + len(phrases)} words and phrases; "
                f"{MAX_TEXT_TERMS} is the limit"
            )
        return cls(tuple(words), tuple(phrases))


class TextMatch(NamedTuple):
    """A row that holds a text: Lance's id of it in one version, and its BM25 score."""

    row_id: int
    score: float


def scan_full_text(
    dataset: lance.LanceDataset, query: TextQuery, *, limit: int, where: str | None = None
) -> pa.Table:
    """Return the best rows that hold a text: the columns `_rowid` and `SCORE`.

    Args:
        dataset: one version of an index.
        query: the text.
        limit: the most rows.
        where: a condition, translated for Lance.

    Raises:
        QueryError: the index has no texts yet.
    """
    if TEXT not in dataset.schema.names:
        raise QueryError(
            "this index was made before texts could be searched; prepare it with: pe optimize"
        )
    return dataset.scanner(
        columns=[SCORE],
        with_row_id=True,
        full_text_query=_build(query),
        filter=where,
        prefilter=True,
        limit=limit,
        disable_scoring_autoprojection=True,
    ).to_table()


def _build(query: TextQuery) -> Any:
    from lance.query import BooleanQuery, FullTextQuery, MatchQuery, Occur, PhraseQuery

    parts: list[tuple[Occur, FullTextQuery]] = [
        (Occur.MUST, PhraseQuery(phrase, TEXT)) for phrase in query.phrases
    ]
    if query.words:
        parts.append((Occur.SHOULD, MatchQuery(" ".join(query.words), TEXT)))
    return parts[0][1] if len(parts) == 1 else BooleanQuery(parts)


def create_full_text(dataset: lance.LanceDataset, path: str) -> None:
    """Create the inverted index, which covers no row yet."""
    with storage_errors(path):
        dataset.create_scalar_index(TEXT, "INVERTED", name=_NAME, train=False, **_ANALYSIS)


def needs_full_text(dataset: lance.LanceDataset) -> bool:
    """Whether `update_full_text` would make text queries faster, or possible."""
    if TEXT not in dataset.schema.names:
        return True
    return _count_unindexed(dataset) > _UNINDEXED_ROWS


def update_full_text(dataset: lance.LanceDataset, *, is_thorough: bool) -> None:
    """Add what is missing to the text column and the inverted index. Each step is a commit.

    Args:
        dataset: the latest version, which shows the result; the caller holds the lock.
        is_thorough: leave one part of the inverted index.
    """
    if TEXT not in dataset.schema.names:
        _add_column(dataset)
    if not _has_index(dataset):
        dataset.create_scalar_index(TEXT, "INVERTED", name=_NAME, **_ANALYSIS)
        return
    unindexed = _count_unindexed(dataset)
    num_parts = int(dataset.stats.index_stats(_NAME)["num_indices"])
    if num_parts + bool(unindexed) > (1 if is_thorough else _MAX_PARTS):
        dataset.create_scalar_index(TEXT, "INVERTED", name=_NAME, **_ANALYSIS)
    elif unindexed:
        dataset.optimize.optimize_indices(index_names=[_NAME], num_indices_to_merge=0)


def reset_full_text(dataset: lance.LanceDataset) -> None:
    """Let the inverted index cover no row, in one commit."""
    if _has_index(dataset):
        dataset.create_scalar_index(TEXT, "INVERTED", name=_NAME, train=False, **_ANALYSIS)


def _has_index(dataset: lance.LanceDataset) -> bool:
    return any(index.name == _NAME for index in dataset.describe_indices())


def _count_unindexed(dataset: lance.LanceDataset) -> int:
    indexed = {
        fragment
        for index in dataset.describe_indices()
        if index.name == _NAME
        for segment in index.segments
        for fragment in segment.fragment_ids
    }
    return sum(
        int(fragment.count_rows())
        for fragment in dataset.get_fragments()
        if fragment.fragment_id not in indexed
    )


def _add_column(dataset: lance.LanceDataset) -> None:
    """Add the text column to an index that was made without it."""
    import lance
    import pyarrow as pa

    @lance.batch_udf(output_schema=pa.schema([pa.field(TEXT, pa.string())]))
    def compute(batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch([_texts_of(batch)], [TEXT])

    dataset.add_columns(compute, read_columns=_text_columns(dataset), batch_size=_BLOCK_ROWS)


def find_stale_texts(dataset: lance.LanceDataset, fragment: lance.LanceFragment) -> pa.Table | None:
    """Return the ids and new texts of the rows whose text differs from what the row says now."""
    import pyarrow as pa

    ids, texts = list[str](), list[str]()
    scanner = dataset.scanner(
        columns=["id", TEXT, *_text_columns(dataset)],
        fragments=[fragment],
        batch_size=_BLOCK_ROWS,
    )
    for batch in scanner.to_batches():
        computed = _texts_of(batch.drop_columns(["id", TEXT]))
        for key, stored, text in zip(
            batch["id"].to_pylist(), batch[TEXT].to_pylist(), computed.to_pylist(), strict=True
        ):
            if stored != text:
                ids.append(key)
                texts.append(text)
    if not ids:
        return None
    schema = pa.schema([dataset.schema.field("id"), dataset.schema.field(TEXT)])
    return pa.table([ids, texts], schema=schema)


def _texts_of(batch: pa.RecordBatch) -> pa.Array:
    import pyarrow as pa

    return pa.array([build_text(row) for row in rows_of(batch)], pa.string())


def _text_columns(dataset: lance.LanceDataset) -> list[str]:
    """Return the columns that the texts are derived from."""
    from pyarrow import types

    return [
        field.name
        for field in dataset.schema
        if field.name not in ("id", "sha256", TEXT)
        and (types.is_string(field.type) or types.is_large_string(field.type))
    ]
