"""How quickly are names and captions found among a million images, alone and fused with a query?

Clustered vectors of E = 1024 (`synthetic_vectors.py`), captions of nine and keywords of three
synthetic words whose frequencies follow Zipf's law, and file names with a word and a number. A few
hundred rows hold a planted name, half of them in the caption and half in a file name such as
`BeachZorvalek2023.jpg`. Each phase is a process of its own, so that its peak memory is its own. One
query at a time. Memory is told apart: what the process holds itself, and pages of mapped files,
which the system takes back when others need them. The last phase asks Lance for a quarter of the
texts in three columns instead of one.

    python -m benchmarks.text_search --folder /tmp/texts [--rows 100000]
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.phases import run_phases
from benchmarks.report import write_report
from benchmarks.synthetic_vectors import BLOCK_ROWS, SyntheticVectors

EMBED_DIM = 1024
NUM_ROWS = 1_000_000
NUM_WORDS = 30_000
NUM_PLANTED = 200
NUM_QUERIES = 100
NUM_SLOW_QUERIES = 10  # of searches that take long
NUM_ADDED = (1_000, 10_000)  # rows that the inverted index does not cover yet
K = 10
PHASES = ("ingest", "optimize", "query", "filtered", "uncovered", "columns")
_SYLLABLES = ("ba", "dor", "fi", "gul", "ke", "lam", "no", "pri", "sut", "tav", "vo", "zer")


def main() -> None:
    """Run every phase and write the results."""
    found, arguments = run_phases("benchmarks.text_search", __doc__, PHASES, NUM_ROWS)
    is_whole = arguments.rows == NUM_ROWS
    path = write_report(
        "text_search" if is_whole else f"text_search-{arguments.rows}",
        "names and captions of an index, searched alone and fused with an embedding",
        ["faiss-cpu", "pylance", "numpy", "pyarrow"],
        {"rows": arguments.rows, "embed_dim": EMBED_DIM, "k": K, **found},
        arguments.note,
    )
    print(path.read_text(encoding="utf-8"))


def word(number: int) -> str:
    """Return a pronounceable word; another number gives another one."""
    letters = ""
    number += len(_SYLLABLES) ** 2  # three syllables at least
    while number:
        number, digit = divmod(number, len(_SYLLABLES))
        letters += _SYLLABLES[digit]
    return letters


def planted_rows(num_rows: int) -> dict[int, str]:
    """Return the rows that hold a planted name, and the names."""
    rows = np.random.default_rng(7).choice(num_rows, NUM_PLANTED, replace=False)
    return {int(row): word(NUM_WORDS + place).capitalize() for place, row in enumerate(rows)}


def iter_texts(num_rows: int) -> Iterator[tuple[str, str, str]]:
    """Yield the path, caption and keywords of each row."""
    words = np.array([word(number) for number in range(NUM_WORDS)])
    planted = planted_rows(num_rows)
    for start in range(0, num_rows, BLOCK_ROWS):
        random = np.random.default_rng([1, start])
        chosen = words[(random.zipf(1.2, size=(BLOCK_ROWS, 13)) - 1) % NUM_WORDS]
        for row, own in enumerate(chosen[: num_rows - start], start):
            path = f"/home/me/Photos/{row % 300}/IMG_{row}-{own[12]}.jpg"
            caption = " ".join(own[:9])
            if row in planted and row % 2:
                caption = f"{caption} {planted[row]}"
            elif row in planted:
                path = f"/home/me/Photos/{row % 300}/Beach{planted[row]}2023.jpg"
            yield path, caption, "; ".join(own[9:12])


def phase_ingest(folder: Path, num_rows: int) -> dict[str, Any]:
    """Append all rows in batches."""
    from perception_encoder.index import Index, Row
    from perception_encoder.types import ModelIdentity

    identity = ModelIdentity("pe-nano", "0" * 16, "standard", EMBED_DIM)
    index = Index.create(folder / "index.lance", identity)
    texts = iter_texts(num_rows)
    seconds = 0.0
    for start, vectors in enumerate(SyntheticVectors(EMBED_DIM).blocks(num_rows)):
        rows = []
        for number, (path, caption, keywords) in zip(range(len(vectors)), texts, strict=False):
            metadata = {"caption": caption, "keywords": keywords, "stars": number % 5}
            rows.append(Row(path, width=start, metadata=metadata))
        began = time.perf_counter()
        index.append(rows, vectors)
        seconds += time.perf_counter() - began
    return {"seconds": round(seconds, 1), "rows_per_second": round(num_rows / seconds)}


def phase_optimize(folder: Path, num_rows: int) -> dict[str, Any]:
    """Build the inverted index, then everything else that `pe optimize` does."""
    from perception_encoder.index import Index

    del num_rows
    index = Index.open(folder / "index.lance")
    began = time.perf_counter()
    index.update_full_text()
    seconds = time.perf_counter() - began
    num_bytes = sum(
        path.stat().st_size for path in (folder / "index.lance" / "_indices").rglob("*.*")
    )
    began = time.perf_counter()
    index.optimize()
    return {
        "full_text_seconds": round(seconds, 1),
        "full_text_bytes": num_bytes,
        "optimize_seconds": round(time.perf_counter() - began, 1),
    }


def phase_query(folder: Path, num_rows: int) -> dict[str, Any]:
    """Texts of several kinds, alone and fused; planted names."""
    from perception_encoder.index.full_text import TextQuery

    ask = Asking(folder)
    figures: dict[str, Any] = {"memory_bytes": {}}
    for name in ("text", "image_only", "hybrid"):
        figures[name] = ask.timed(name, NUM_QUERIES)
        figures["memory_bytes"][f"after_{name}"] = memory()
    for name in ("text", "hybrid"):
        found = 0
        for place, (row, planted) in enumerate(planted_rows(num_rows).items()):
            (hit,) = ask(name, place % NUM_QUERIES, TextQuery.parse(planted.lower()), k=1)
            is_right = planted in hit.uri or planted in str(hit.metadata["caption"])
            found += is_right and int(row) >= 0
        figures[f"planted_{name}_recall_at_1"] = found / NUM_PLANTED
    return figures


def phase_filtered(folder: Path, num_rows: int) -> dict[str, Any]:
    """Texts fused with an embedding, among a fifth of the rows: every embedding is compared."""
    del num_rows
    ask = Asking(folder, where="stars = 3")
    figures: dict[str, Any] = {"hybrid": ask.timed("hybrid", NUM_SLOW_QUERIES)}
    figures["image_only"] = ask.timed("image_only", NUM_SLOW_QUERIES)
    return figures | {"memory_bytes": memory()}


class Asking:
    """Asks an index by texts, by embeddings, or by both."""

    def __init__(self, folder: Path, where: str | None = None) -> None:
        from perception_encoder.index import Index
        from perception_encoder.index.full_text import TextQuery

        self._index = Index.open(folder / "index.lance")
        self._where = where
        self._vectors = SyntheticVectors(EMBED_DIM).word_queries(NUM_QUERIES)
        random = np.random.default_rng(3)
        kinds: dict[str, Callable[[], str]] = {
            "one_rare_word": lambda: word(int(random.integers(5_000, NUM_WORDS))),
            "one_common_word": lambda: word(int(random.integers(3))),
            "three_words": lambda: " ".join(
                word(int(place)) for place in (random.zipf(1.2, 3) - 1) % NUM_WORDS
            ),
            "phrase_of_two_words": lambda: f'"{word(int(random.integers(20)))} {word(0)}"',
        }
        self._texts = {
            kind: [TextQuery.parse(choose()) for _ in range(NUM_QUERIES)]
            for kind, choose in kinds.items()
        }

    def __call__(self, name: str, place: int, text: Any, k: int = K) -> Any:
        """Return the hits of one question: of a text, of an embedding ("image_only"), of both."""
        from perception_encoder.search.fusion import search
        from perception_encoder.search.queries import Query
        from perception_encoder.search.ranking import SearchOptions

        query = None if name == "text" else Query((), self._vectors[place])
        return search(self._index, query, SearchOptions(k=k, where=self._where), text=text)

    def timed(self, name: str, count: int) -> dict[str, Any]:
        """Ask some questions of each kind."""
        if name == "image_only":
            return timed(lambda place: self(name, place, None), count)
        return {
            kind: timed(partial(self._ask_one, name, texts), count)
            for kind, texts in self._texts.items()
        }

    def _ask_one(self, name: str, texts: Sequence[Any], place: int) -> object:
        return self(name, place, texts[place])


def memory() -> dict[str, int]:
    """Return what the process holds itself, and the mapped files that are in memory for it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    values = dict(line.split(":", 1) for line in status.splitlines())
    names = {"own": "RssAnon", "mapped_files": "RssFile"}
    return {name: 1024 * int(values[key].split()[0]) for name, key in names.items()}


def phase_uncovered(folder: Path, num_rows: int) -> dict[str, Any]:
    """Texts while rows are not in the inverted index yet, and the time to add them."""
    from perception_encoder.index import Index, Row
    from perception_encoder.index.full_text import TextQuery

    index = Index.open(folder / "index.lance")
    made = SyntheticVectors(EMBED_DIM).rows(1)
    text = TextQuery.parse(f"{word(6_000)} {word(9_000)}")
    figures: dict[str, Any] = {}
    for count in NUM_ADDED:
        rows = [
            Row(f"/new/{count}/{number}.jpg", metadata={"caption": word(number % NUM_WORDS)})
            for number in range(count)
        ]
        index.append(rows, np.repeat(made, count, axis=0))
        latency = timed(lambda _: index.rank_text(text, limit=K), NUM_SLOW_QUERIES)
        began = time.perf_counter()
        index.update_full_text()
        figures[f"{count}_rows"] = latency | {
            "update_seconds": round(time.perf_counter() - began, 2)
        }
    del num_rows
    return figures


def phase_columns(folder: Path, num_rows: int) -> dict[str, Any]:
    """A quarter of the texts in three columns, each with an inverted index of its own."""
    import lance
    import pyarrow as pa
    from lance.query import CombinedFieldsQuery, MatchQuery, MultiMatchQuery

    num_rows //= 4
    columns = ["name", "caption", "keywords"]
    texts = list(iter_texts(num_rows))
    table = pa.table(dict(zip(columns, zip(*texts, strict=True), strict=True)))
    del texts
    dataset = lance.write_dataset(table, str(folder / "columns.lance"))
    for column in columns:
        dataset.create_scalar_index(
            column, "INVERTED", base_tokenizer="icu/split", remove_stop_words=False
        )
    text = f"{word(0)} {word(2)} {word(300)}"
    asked = {
        "one_column_ms": MatchQuery(text, "caption"),
        "best_of_three_columns_ms": MultiMatchQuery(text, columns),
        "combined_three_columns_ms": CombinedFieldsQuery(text, columns),
    }
    figures: dict[str, Any] = {"rows": num_rows}
    for name, query in asked.items():

        def ask(_: int, query: Any = query) -> object:
            scanner = dataset.scanner(
                columns=["_score"],
                full_text_query=query,
                limit=K,
                disable_scoring_autoprojection=True,
            )
            return scanner.to_table()

        figures[name] = timed(ask, NUM_SLOW_QUERIES)["p50_ms"]
    return figures


def timed(ask: Callable[[int], object], count: int) -> dict[str, Any]:
    """Ask some questions one after the other; the first one is reported apart."""
    seconds = []
    for place in range(count):
        began = time.perf_counter()
        ask(place)
        seconds.append(time.perf_counter() - began)
    later = np.sort(seconds[1:]) * 1000
    return {
        "first_ms": round(seconds[0] * 1000, 2),
        "p50_ms": round(float(np.quantile(later, 0.5)), 2),
        "p95_ms": round(float(np.quantile(later, 0.95)), 2),
        "queries": count - 1,
    }


if __name__ == "__main__":
    main()
