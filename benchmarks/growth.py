"""How do time and memory grow from ten thousand rows to ten million, on one machine?

Clustered vectors of E = 1024 (`synthetic_vectors.py`), made in blocks and never held as a whole;
one row of a thousand is a near copy of another. For each size every phase is a process of its own,
one after the other on an idle machine: rows are appended, the index is optimized, opened cold,
asked (approximate, exact, with filters), clustered, mapped, searched for near pairs, run over again
with nothing changed, added to and deleted from. One query at a time, as a person asks; recall@10 is
against a product in float32 with the stored vectors. Private memory is what must be there; the
index's mapped files come on top, as far as the machine has room.

    python -m benchmarks.growth --folder /tmp/growth [--rows 10000 100000 1000000 10000000]

A row takes 6.3 KB of disk at most, while the index is optimized. Sizes that are not asked for keep
their figures.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.million import recall, timed
from benchmarks.phases import make_parser, memory, run_all, run_one_phase
from benchmarks.report import RESULTS, write_report
from benchmarks.synthetic_vectors import BLOCK_ROWS, SyntheticVectors

NAME = "growth"
EMBED_DIM = 1024
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
NUM_QUERIES = 200
NUM_EARLIER = 1000  # approximate queries that come before those that are timed
NUM_SLOW_QUERIES = 10  # of searches that take long
NUM_ADDED = 10_000
NUM_DELETED = 1_000
K = 10
SHARES = (0.1, 1, 10, 50)  # percent of the rows that meet a filter
EVERY = 1000  # of so many rows one has a near copy
COSINE = 0.98  # of near pairs
LIMITS = {"near_pairs": 3600.0, "clusters": 1800.0, "map": 1800.0}
PHASES = (
    "ingest",
    "optimize",
    "cold",
    "query",
    "filtered",
    "clusters",
    "map",
    "near_pairs",
    "rerun",
    "add",
    "delete",
)
Floats = NDArray[np.float32]


def main() -> None:
    """Run every phase for every size, and write the results."""
    parser = make_parser(__doc__, PHASES)
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES)
    arguments = parser.parse_args()
    run_one_phase(arguments)
    for num_rows in arguments.rows:
        found = run_all("benchmarks.growth", PHASES, arguments, num_rows, LIMITS)
        path = RESULTS / f"{NAME}.json"
        sizes = json.loads(path.read_bytes())["sizes"] if path.exists() else {}
        sizes[str(num_rows)] = found
        ordered = {key: sizes[key] for key in sorted(sizes, key=int)}
        write_report(
            NAME,
            "how time and memory of an index grow with its rows, synthetic vectors",
            ["faiss-cpu", "pylance", "numpy", "pyarrow", "openTSNE", "scikit-learn"],
            {"embed_dim": EMBED_DIM, "k": K, "sizes": ordered},
            arguments.note,
        )


def uri(number: int) -> str:
    """Name a row."""
    return f"/images/{number // 1000:05}/{number:08}.jpg"


def number_of(name: str) -> int:
    """The opposite of `uri`."""
    return int(Path(name).stem)


def blocks(num_rows: int) -> Iterator[tuple[int, Floats]]:
    """Yield the rows as they are stored, with the number of the first of each block."""
    made = SyntheticVectors(EMBED_DIM)
    random = np.random.default_rng(7)
    first = 0
    for block in made.blocks(num_rows):
        copied = np.arange(EVERY // 2, len(block) - 1, EVERY)
        noise = random.standard_normal((len(copied), EMBED_DIM), np.float32)
        noise *= 0.1 / np.linalg.norm(noise, axis=1, keepdims=True)  # a cosine of 0.995
        near = block[copied] + noise
        block[copied + 1] = near / np.linalg.norm(near, axis=1, keepdims=True)
        yield first, block.astype(np.float16).astype(np.float32)
        first += len(block)


def num_copies(num_rows: int) -> int:
    """How many rows of `blocks` are near copies."""
    whole, rest = divmod(num_rows, BLOCK_ROWS)
    return sum(
        len(range(EVERY // 2, length - 1, EVERY)) for length in (*[BLOCK_ROWS] * whole, rest)
    )


def shares_of(first: int, count: int) -> NDArray[np.int64]:
    """The column that is filtered by: 0 to 999, evenly, apart from what the vectors are."""
    return np.random.default_rng((3, first)).integers(0, 1000, count)


class Truth:
    """The best rows of some queries, while blocks are added.

    Args:
        queries: (Q, E) float32.
    """

    def __init__(self, queries: Floats) -> None:
        import faiss

        self._queries = queries
        self._best = faiss.ResultHeap(len(queries), K, keep_max=True)

    def add(self, vectors: Floats, numbers: NDArray[np.int64]) -> None:
        """Add (R, E) rows with their numbers, (R,)."""
        import faiss

        if len(vectors):
            k = min(K, len(vectors))
            found = faiss.knn(self._queries, vectors, k, faiss.METRIC_INNER_PRODUCT)
            self._best.add_result(found[0], numbers[found[1]])

    def result(self) -> list[list[int]]:
        """The numbers of the best rows of each query."""
        self._best.finalize()
        return cast("list[list[int]]", self._best.I.tolist())


def phase_ingest(folder: Path, num_rows: int) -> dict[str, Any]:
    """Append all rows in blocks, and find the true best ten of the queries meanwhile."""
    from perception_encoder.index import Index

    made = SyntheticVectors(EMBED_DIM)
    half = (NUM_QUERIES + NUM_EARLIER) // 2
    pairs = np.stack([made.image_queries(half), made.word_queries(half)], axis=1)
    queries = pairs.reshape(-1, EMBED_DIM)
    np.save(folder / "queries.npy", queries[:NUM_QUERIES])
    np.save(folder / "earlier.npy", queries[NUM_QUERIES:])
    truths = {"all": Truth(queries[:NUM_QUERIES])}
    truths |= {str(share): Truth(queries[:NUM_SLOW_QUERIES]) for share in SHARES}
    index = Index.create(folder / "index.lance", identity())
    seconds = 0.0
    for first, block in blocks(num_rows):
        shares = shares_of(first, len(block))
        numbers = np.arange(first, first + len(block))
        truths["all"].add(block, numbers)
        for share in SHARES:
            here = shares < 10 * share
            truths[str(share)].add(block[here], numbers[here])
        started = time.perf_counter()
        index.append([row(first + place, int(share)) for place, share in enumerate(shares)], block)
        seconds += time.perf_counter() - started
    (folder / "truth.json").write_text(
        json.dumps({name: truth.result() for name, truth in truths.items()})
    )
    return {"seconds": seconds, "rows_per_second": num_rows / seconds}


def phase_optimize(folder: Path, num_rows: int) -> dict[str, Any]:
    """Compact and build the searcher."""
    done = opened(folder).optimize(older_than=timedelta(0))
    stored = sum(file.stat().st_size for file in (folder / "index.lance/data").rglob("*.lance"))
    return {
        "seconds": done.seconds,
        "build_seconds": done.build_seconds,
        "searcher": done.searcher,
        "measured_recall": done.recall,
        "index_bytes_per_row": stored / num_rows,
        "searcher_bytes_per_row": done.searcher_bytes / num_rows,
    }


def phase_cold(folder: Path, num_rows: int) -> dict[str, Any]:
    """New processes that open the index and ask once, without a model."""
    del num_rows
    code = (
        "import sys, time; began = time.perf_counter()\n"
        "import numpy as np\n"
        "from perception_encoder.index import Index\n"
        "query = np.load(sys.argv[1] + '/queries.npy', mmap_mode='r')[:1]\n"
        "index = Index.open(sys.argv[1] + '/index.lance'); opened = time.perf_counter()\n"
        "index.search(query, k=10); print(opened - began, time.perf_counter() - opened)"
    )
    runs = []
    for _ in range(5):
        command = [sys.executable, "-c", code, str(folder)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        runs.append([float(part) for part in done.stdout.split()])
    at_first, median = runs[0], np.median(runs, axis=0).tolist()
    return {
        "first_process": {"open_seconds": at_first[0], "first_query_seconds": at_first[1]},
        "open_seconds": median[0],
        "first_query_seconds": median[1],
    }


def phase_query(folder: Path, num_rows: int) -> dict[str, Any]:
    """Approximate and exact queries in one open index."""
    del num_rows
    index, truth = opened(folder), json.loads((folder / "truth.json").read_text())["all"]
    queries = np.load(folder / "queries.npy")

    def ask(query: Floats, exact: bool = False) -> list[int]:
        hits = index.search(query[None], k=K, exact=exact)[0]
        return [number_of(hit.uri) for hit in hits]

    before, _ = timed(ask, np.load(folder / "earlier.npy"))
    fast, answers = timed(ask, queries)
    fast |= {"recall_at_10": recall(answers, truth), "the_1000_before": before}
    fast["private_bytes"] = memory("self").private
    ask(queries[0], exact=True)
    exact, answers = timed(lambda query: ask(query, exact=True), queries[:NUM_SLOW_QUERIES])
    return {"approximate": fast, "exact": exact | {"recall_at_10": recall(answers, truth)}}


def phase_filtered(folder: Path, num_rows: int) -> dict[str, Any]:
    """Queries among a share of the rows."""
    del num_rows
    index, truths = opened(folder), json.loads((folder / "truth.json").read_text())
    queries = np.load(folder / "queries.npy")[:NUM_SLOW_QUERIES]
    figures: dict[str, Any] = {}
    for share in SHARES:
        where = f"share < {10 * share:g}"

        def ask(query: Floats, where: str = where) -> list[int]:
            return [number_of(hit.uri) for hit in index.search(query[None], k=K, where=where)[0]]

        started = time.perf_counter()
        ask(queries[0])
        first = time.perf_counter() - started
        found, answers = timed(ask, queries)
        found |= {"recall_at_10": recall(answers, truths[str(share)])}
        figures[f"{share:g}_percent"] = found | {"first_ms": 1000 * first}
    return figures


def phase_clusters(folder: Path, num_rows: int) -> dict[str, Any]:
    """Divide the index into clusters."""
    del num_rows
    from perception_encoder.analysis.clusters import find_clusters

    started = time.perf_counter()
    found = find_clusters(opened(folder))
    return {"seconds": time.perf_counter() - started, "clusters": len(found.clusters)}


def phase_map(folder: Path, num_rows: int) -> dict[str, Any]:
    """Place the images, or a sample of them, on a map."""
    del num_rows
    from perception_encoder.analysis.index_map import map_index
    from perception_encoder.analysis.ranked_images import rank_images

    index = opened(folder)
    started = time.perf_counter()
    placed = map_index(index, rank_images(index, "first", None))
    return {"seconds": time.perf_counter() - started, "places": len(placed.places)}


def phase_near_pairs(folder: Path, num_rows: int) -> dict[str, Any]:
    """Find the pairs of near embeddings, as `pe duplicates` does before it looks at the files."""
    from perception_encoder.analysis.near_pairs import find_near_pairs
    from perception_encoder.analysis.ranked_images import rank_images

    index = opened(folder)
    started = time.perf_counter()
    images = rank_images(index, "first", None)
    chosen = np.arange(len(images))
    pairs = find_near_pairs(index, images, chosen, threshold=COSINE, where=None)
    seconds = time.perf_counter() - started
    numbers = np.array([number_of(str(name)) for name in images.columns["uri"]])
    ends = np.stack([numbers[pairs.earlier], numbers[pairs.later]])
    planted = (np.abs(ends[0] - ends[1]) == 1) & (ends.min(axis=0) % BLOCK_ROWS % EVERY == 500)
    num_found = len(np.unique(ends[:, planted].min(axis=0)))
    copies = num_copies(num_rows)
    return {
        "seconds": seconds,
        "pairs": len(pairs.scores),
        "planted": copies,
        "recall_of_planted": num_found / copies,
    }


def phase_rerun(folder: Path, num_rows: int) -> dict[str, Any]:
    """Run over sources that list what the index has: nothing is embedded."""
    from perception_encoder.embedder import EmbeddingModel
    from perception_encoder.indexing.run import Run
    from perception_encoder.sources.item import Item

    class Listing:
        """A source that lists every row as it is in the index."""

        name = "a listing"

        def items(self) -> Iterator[Item]:
            for number in range(num_rows):
                yield Item(uri(number), unread, bytes=number, mtime=number)

        def covers(self, name: str, member: str | None) -> bool:
            del name, member
            return True

    def unread() -> bytes:
        raise AssertionError("an unchanged file was read")

    model = SimpleNamespace(
        identity=identity(), processor=None, backend=SimpleNamespace(concurrency=1)
    )
    started = time.perf_counter()
    run = Run(cast("EmbeddingModel", model), opened(folder), [Listing()])
    for _ in run.outcomes():
        pass
    return {"seconds": time.perf_counter() - started, "counts": dict(run.progress.counts)}


def phase_add(folder: Path, num_rows: int) -> dict[str, Any]:
    """Add ten thousand rows, and find some of them at once."""
    index = opened(folder)
    vectors = SyntheticVectors(EMBED_DIM).image_queries(NUM_ADDED)
    index.search(vectors[:1], k=K)
    started = time.perf_counter()
    index.append([row(num_rows + place, 0) for place in range(NUM_ADDED)], vectors)
    seconds = time.perf_counter() - started
    figures, answers = timed(
        lambda query: [number_of(hit.uri) for hit in index.search(query[None], k=K)[0]],
        vectors[:: NUM_ADDED // 50],
    )
    wanted = range(num_rows, num_rows + NUM_ADDED, NUM_ADDED // 50)
    found = [answer[0] == number for answer, number in zip(answers, wanted, strict=True)]
    return {"seconds": seconds, "search": figures, "found_first": sum(found) / len(found)}


def phase_delete(folder: Path, num_rows: int) -> dict[str, Any]:
    """Delete a thousand rows, and look for some of them."""
    index = opened(folder)
    numbers = np.random.default_rng(5).choice(num_rows, NUM_DELETED, replace=False).tolist()
    vectors = index.by_ids([row(number, 0).id for number in numbers[:20]])
    started = time.perf_counter()
    deleted = index.delete(row(number, 0).id for number in numbers)
    seconds = time.perf_counter() - started
    gone, still = set(numbers), 0
    times = []
    for _, vector in vectors.values():
        began = time.perf_counter()
        hits = index.search(vector.reshape(1, -1), k=K)[0]
        times.append(time.perf_counter() - began)
        still += sum(number_of(hit.uri) in gone for hit in hits)
    return {
        "seconds": seconds,
        "deleted": deleted,
        "deleted_rows_found": still,
        "search_p50_ms": 1000 * float(np.median(times)),
    }


def row(number: int, share: int) -> Any:
    """A row of the index; size and time are what a listing tells again."""
    from perception_encoder.index import Row

    return Row(
        uri(number),
        width=640 + number % 7,
        height=480,
        bytes=number,
        mtime=number,
        sha256=f"{number:032x}" + 32 * "0",
        metadata={"share": share},
    )


def identity() -> Any:
    """The model that the index says it is of."""
    from perception_encoder.types import ModelIdentity

    return ModelIdentity("pe-nano", "0" * 16, "standard", EMBED_DIM)


def opened(folder: Path) -> Any:
    """The index of the phases."""
    from perception_encoder.index import Index

    return Index.open(folder / "index.lance")


if __name__ == "__main__":
    main()
