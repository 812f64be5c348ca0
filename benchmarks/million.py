"""How quickly does an index of a million vectors fill, open and answer, beside other ways to do it?

Clustered vectors of E = 1024 (`synthetic_vectors.py`). Each phase is a process of its own, one
after the other on an idle machine, so that its peak memory is its own: our index (ingest, optimize,
exact, approximate and filtered queries, a cold process), a numpy float32 product, LanceDB's own
search and usearch. One query at a time, as a person asks; recall@10 is against numpy's product.
Approximate searches are timed after a thousand other queries, as in a service that has been up for
a while: files that are mapped come into a process's memory with the queries that touch them. What
the first of these took is given as well.

    python -m benchmarks.million --folder /tmp/million [--rows 100000]
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.phases import run_phases
from benchmarks.report import write_report
from benchmarks.synthetic_vectors import BLOCK_ROWS, SyntheticVectors

EMBED_DIM = 1024
NUM_ROWS = 1_000_000
NUM_QUERIES = 200
NUM_EARLIER = 1000  # queries that come before those that are timed
NUM_SLOW_QUERIES = 20  # of searches that take long
K = 10
SHARES = (1, 10, 50)  # percent of the rows that meet a filter
PHASES = ("make", "numpy", "ingest", "optimize", "query", "cold", "lancedb", "usearch")
MOST_OF_USEARCH = 200_000
PEER_SECONDS = 420  # a peer that takes longer is left out, and that is said


def main() -> None:
    """Run every phase and write the results."""
    limits = dict.fromkeys(("lancedb", "usearch"), PEER_SECONDS)
    found, arguments = run_phases("benchmarks.million", __doc__, PHASES, NUM_ROWS, limits)
    figures = {"rows": arguments.rows, "embed_dim": EMBED_DIM, "k": K, **found}
    figures["ratios"] = ratios(figures)
    packages = ["faiss-cpu", "pylance", "lancedb", "usearch", "numpy", "pyarrow"]
    path = write_report(
        "million" if arguments.rows == NUM_ROWS else f"million-{arguments.rows}",
        "an index of synthetic vectors beside numpy, LanceDB and usearch, one query at a time",
        packages,
        figures,
        arguments.note,
    )
    print(path.read_text(encoding="utf-8"))


def ratios(figures: dict[str, Any]) -> dict[str, float]:
    """Compare with numpy's product and with the peers."""
    ours, numpy_ms = figures["query"], figures["numpy"]["p50_ms"]
    found = {"exact_p50_against_numpy": ours["exact"]["p50_ms"] / numpy_ms}
    for peer in ("lancedb", "usearch"):
        if "p50_ms" in figures[peer]:
            found[f"{peer}_p50_against_ours"] = figures[peer]["p50_ms"] / ours["fast"]["p50_ms"]
    if "flat_p50_ms" in figures["lancedb"]:
        flat = figures["lancedb"]["flat_p50_ms"]
        found["lancedb_flat_p50_against_ours_exact"] = flat / ours["exact"]["p50_ms"]
    return found


def phase_make(folder: Path, num_rows: int) -> dict[str, Any]:
    """Write rows.npy, float32, and queries.npy and earlier.npy: half images, half words."""
    made = SyntheticVectors(EMBED_DIM)
    rows = np.lib.format.open_memmap(
        folder / "rows.npy", mode="w+", dtype=np.float32, shape=(num_rows, EMBED_DIM)
    )
    for number, block in enumerate(made.blocks(num_rows)):
        rows[number * BLOCK_ROWS :][: len(block)] = block
    half = (NUM_QUERIES + NUM_EARLIER) // 2
    pairs = np.stack([made.image_queries(half), made.word_queries(half)], axis=1)
    queries = pairs.reshape(-1, EMBED_DIM)
    np.save(folder / "queries.npy", queries[:NUM_QUERIES])
    np.save(folder / "earlier.npy", queries[NUM_QUERIES:])
    return {}


def phase_numpy(folder: Path, num_rows: int) -> dict[str, Any]:
    """A float32 product with all rows in memory, and the true best ten."""
    del num_rows
    rows, queries = np.load(folder / "rows.npy"), np.load(folder / "queries.npy")

    def ask(query: NDArray[np.float32]) -> list[int]:
        scores = rows @ query
        best = np.argpartition(-scores, K)[:K]
        return [int(row) for row in best[np.argsort(-scores[best])]]

    ask(queries[0])
    figures, answers = timed(ask, queries)
    (folder / "truth.json").write_text(json.dumps(answers))
    return figures


def phase_ingest(folder: Path, num_rows: int) -> dict[str, Any]:
    """Append all rows in batches, with a number to filter by."""
    from perception_encoder.index import Index, Row
    from perception_encoder.types import ModelIdentity

    vectors = np.load(folder / "rows.npy", mmap_mode="r")
    identity = ModelIdentity("pe-nano", "0" * 16, "standard", EMBED_DIM)
    index = Index.create(folder / "ours.lance", identity)
    random = np.random.default_rng(1)
    shares = random.integers(0, 100, num_rows).tolist()
    sides = random.choice([480, 640, 800, 1024, 1600], (num_rows, 2)).tolist()
    started = time.perf_counter()
    for start in range(0, num_rows, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, num_rows)
        rows = [
            Row(
                f"/images/{n}.jpg",
                width=sides[n][0],
                height=sides[n][1],
                metadata={"share": shares[n]},
            )
            for n in range(start, stop)
        ]
        index.append(rows, np.asarray(vectors[start:stop]))
    seconds = time.perf_counter() - started
    return {"rows_per_second": num_rows / seconds, "seconds": seconds}


def phase_optimize(folder: Path, num_rows: int) -> dict[str, Any]:
    """Compact and build the searcher."""
    from perception_encoder.index import Index

    done = Index.open(folder / "ours.lance").optimize(older_than=timedelta(0))
    index = sum(f.stat().st_size for f in (folder / "ours.lance" / "data").rglob("*.lance"))
    return {
        "build_seconds": done.build_seconds,
        "seconds": done.seconds,
        "searcher": done.searcher,
        "measured_recall": done.recall,
        "index_bytes_per_row": index / num_rows,
        "searcher_bytes_per_row": done.searcher_bytes / num_rows,
    }


def phase_query(folder: Path, num_rows: int) -> dict[str, Any]:
    """Exact, fast and filtered queries in one open index."""
    del num_rows
    from perception_encoder.index import Index

    index = Index.open(folder / "ours.lance")
    queries = np.load(folder / "queries.npy")
    truth = json.loads((folder / "truth.json").read_text())

    def asked(exact: bool, where: str | None = None) -> Callable[[NDArray[np.float32]], list[int]]:
        def ask(query: NDArray[np.float32]) -> list[int]:
            hits = index.search(query[None], k=K, exact=exact, where=where)[0]
            return [int(hit.uri.removeprefix("/images/").removesuffix(".jpg")) for hit in hits]

        return ask

    first, _ = timed(asked(exact=False), np.load(folder / "earlier.npy"))
    fast, answers = timed(asked(exact=False), queries)
    fast |= {"recall_at_10": recall(answers, truth), "the_1000_before": first}
    peak_fast = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    asked(exact=True)(queries[0])
    exact, answers = timed(asked(exact=True), queries[:NUM_SLOW_QUERIES])
    exact["recall_at_10"] = recall(answers, truth)
    filtered = {}
    for share in SHARES:
        ask = asked(exact=False, where=f"share < {share}")
        ask(queries[0])
        filtered[f"{share}_percent"], _ = timed(ask, queries[:NUM_SLOW_QUERIES])
    return {
        "fast": fast,
        "exact": exact,
        "filtered": filtered,
        "peak_rss_bytes_of_fast_queries": peak_fast,
    }


def phase_cold(folder: Path, num_rows: int) -> dict[str, Any]:
    """A new process that opens the index and asks once, without a model."""
    del num_rows
    code = (
        "import sys, time; began = time.perf_counter()\n"
        "import numpy as np\n"
        "from perception_encoder.index import Index\n"
        "query = np.load(sys.argv[1] + '/queries.npy', mmap_mode='r')[:1]\n"
        "index = Index.open(sys.argv[1] + '/ours.lance'); opened = time.perf_counter()\n"
        "index.search(query, k=10); print(opened - began, time.perf_counter() - opened)"
    )
    runs = []
    for _ in range(7):
        began = time.perf_counter()
        command = [sys.executable, "-c", code, str(folder)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        runs.append([time.perf_counter() - began, *map(float, done.stdout.split())])
    whole, opened, first = np.median(runs, axis=0).tolist()
    return {
        "process_seconds": whole,
        "import_and_open_seconds": opened,
        "first_query_seconds": first,
    }


def phase_lancedb(folder: Path, num_rows: int) -> dict[str, Any]:
    """LanceDB's own index: flat search, then an IVF index with 8-bit vectors, refined."""
    import lancedb
    import pyarrow as pa

    vectors = np.load(folder / "rows.npy", mmap_mode="r")
    queries = np.load(folder / "queries.npy")
    truth = json.loads((folder / "truth.json").read_text())

    def batches() -> Any:
        for start in range(0, num_rows, BLOCK_ROWS):
            block = np.asarray(vectors[start : start + BLOCK_ROWS]).astype(np.float16)
            column = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), EMBED_DIM)
            number = pa.array(np.arange(start, start + len(block)))
            yield pa.RecordBatch.from_arrays([number, column], ["number", "vector"])

    schema = pa.schema([("number", pa.int64()), ("vector", pa.list_(pa.float16(), EMBED_DIM))])
    started = time.perf_counter()
    index = lancedb.connect(folder / "lancedb").create_table("t", batches(), schema=schema)
    ingest = time.perf_counter() - started

    def ask(query: NDArray[np.float32]) -> list[int]:
        search = index.search(query).metric("cosine").select(["number", "_distance"]).limit(K)
        if indexed:
            search = search.nprobes(64).refine_factor(4)
        return [int(n) for n in search.to_arrow()["number"].to_pylist()]

    indexed = False
    flat, _ = timed(ask, queries[:5])
    started = time.perf_counter()
    index.create_index(metric="cosine", index_type="IVF_SQ", num_partitions=num_rows // 1000)
    build = time.perf_counter() - started
    indexed = True
    timed(ask, np.load(folder / "earlier.npy"))
    figures, answers = timed(ask, queries)
    return {
        **figures,
        "recall_at_10": recall(answers, truth),
        "flat_p50_ms": flat["p50_ms"],
        "build_seconds": build,
        "rows_per_second": num_rows / ingest,
    }


def phase_usearch(folder: Path, num_rows: int) -> dict[str, Any]:
    """A usearch HNSW graph of 8-bit vectors in memory, of as many rows as minutes allow."""
    from usearch.index import Index

    num_rows = min(num_rows, MOST_OF_USEARCH)
    vectors = np.load(folder / "rows.npy", mmap_mode="r")[:num_rows]
    queries = np.load(folder / "queries.npy")
    truth = np.argsort(-(queries @ np.asarray(vectors).T), axis=1)[:, :K].tolist()
    index = Index(ndim=EMBED_DIM, metric="cos", dtype="i8", expansion_search=256)
    started = time.perf_counter()
    for start in range(0, num_rows, BLOCK_ROWS):
        block = np.asarray(vectors[start : min(start + BLOCK_ROWS, num_rows)])
        index.add(np.arange(start, start + len(block)), block, threads=os.cpu_count() or 1)
    build = time.perf_counter() - started

    def ask(query: NDArray[np.float32]) -> list[int]:
        return [int(key) for key in index.search(query, K).keys]

    timed(ask, np.load(folder / "earlier.npy"))
    figures, answers = timed(ask, queries)
    return {
        **figures,
        "rows": num_rows,
        "recall_at_10": recall(answers, truth),
        "build_seconds": build,
    }


def timed(
    ask: Callable[[NDArray[np.float32]], list[int]], queries: NDArray[np.float32]
) -> tuple[dict[str, Any], list[list[int]]]:
    """Ask every query and return median and 95th percentile, and the answers."""
    seconds, answers = [], []
    for query in queries:
        started = time.perf_counter()
        answers.append(ask(query))
        seconds.append(time.perf_counter() - started)
    p50, p95 = np.quantile(seconds, [0.5, 0.95]) * 1000
    return {"p50_ms": float(p50), "p95_ms": float(p95)}, answers


def recall(answers: Sequence[Sequence[int]], truth: Sequence[Sequence[int]]) -> float:
    """Return the share of the true best ten that were found."""
    pairs = zip(answers, truth, strict=False)
    return float(np.mean([len(set(found) & set(true)) / K for found, true in pairs]))


if __name__ == "__main__":
    main()
