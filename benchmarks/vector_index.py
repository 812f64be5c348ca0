"""Which of Lance's vector indexes should an index in a bucket have?

Clustered vectors of E = 1024 (`synthetic_vectors.py`), stored as an index stores them. Each kind is
built on the same dataset with the partitions and the training of `pe optimize`. A query asks for
candidates, which are scored again with the stored vectors, as `pe search` does; that time counts,
and so do its reads, as each is a request to the bucket. Images and texts are measured apart. For
each kind, the least candidates that lose at most 0.015 are chosen, and then the least partitions
that find 0.965 of the true best ten of both. Times are those of this machine's disk, with the index
in memory.

    python -m benchmarks.vector_index [--rows 50000 200000]
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from benchmarks.report import RESULTS, write_report
from benchmarks.synthetic_vectors import Floats, SyntheticVectors
from perception_encoder.index.vector_index import index_parameters

EMBED_DIM = 1024
NUM_QUERIES = 50  # of each sort
K = 10
TARGET = 0.965
FACTORS = (1, 1.5, 2, 3, 5, 8, 12)  # candidates for one result
LOSS = 0.015  # that codes may cause where every partition is probed
PROBED = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)  # shares of the partitions
KINDS: dict[str, dict[str, Any]] = {
    "IVF_RQ, 1 bit, cosine": {"index_type": "IVF_RQ", "num_bits": 1, "metric": "cosine"},
    "IVF_RQ, 2 bits, cosine": {"index_type": "IVF_RQ", "num_bits": 2, "metric": "cosine"},
    "IVF_RQ, 3 bits, cosine": {"index_type": "IVF_RQ", "num_bits": 3, "metric": "cosine"},
    "IVF_RQ, 3 bits, dot": {"index_type": "IVF_RQ", "num_bits": 3, "metric": "dot"},
    "IVF_RQ, 5 bits, cosine": {"index_type": "IVF_RQ", "num_bits": 5, "metric": "cosine"},
    "IVF_PQ, 128 bytes, cosine": {
        "index_type": "IVF_PQ", "num_sub_vectors": 128, "metric": "cosine"
    },
}  # fmt: skip


def main() -> None:
    """Measure every kind at every size and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 200_000])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    parser.add_argument("--add", action="store_true", help="keep other sizes of the last run")
    parser.add_argument("--note", default="", help="what else the machine was doing")
    options = parser.parse_args()
    earlier = RESULTS / "vector_index.json"
    kept = json.loads(earlier.read_text(encoding="utf-8"))["sizes"] if options.add else []
    sizes = [one for one in kept if one["rows"] not in options.rows]
    for rows in options.rows:
        for size in _measure_size(rows, options.kinds):
            write_report(
                "vector_index",
                "kinds of Lance's vector index: build, size, recall@10 and time of a query",
                ["pylance", "numpy", "pyarrow"],
                {"embed_dim": EMBED_DIM, "k": K, "sizes": [*sizes, size]},
                options.note,
            )
        sizes.append(size)


def _measure_size(num_rows: int, kinds: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the figures of one size after every kind."""
    made = SyntheticVectors(EMBED_DIM)
    queries = np.concatenate([made.image_queries(NUM_QUERIES), made.word_queries(NUM_QUERIES)])
    with tempfile.TemporaryDirectory() as folder:
        path, truth = f"{folder}/vectors.lance", _write(f"{folder}/vectors.lance", made, num_rows)
        best = truth(queries)
        partitions = index_parameters(num_rows)["num_partitions"]
        cases = []
        for kind in kinds:
            started = time.perf_counter()
            dataset = lance.dataset(path)
            training = {**index_parameters(num_rows), **KINDS[kind]}
            if training["index_type"] != "IVF_RQ":
                del training["num_bits"]
            dataset.create_index("vector", replace=True, **training)
            seconds = time.perf_counter() - started
            found = {
                "kind": kind,
                "build_s": round(seconds, 1),
                "bytes_per_row": round(_index_bytes(path) / num_rows),
                **_tune(path, queries, best, partitions),
            }
            print(num_rows, found, flush=True)
            cases.append(found)
            yield {"rows": num_rows, "partitions": partitions, "cases": cases}


def _write(path: str, made: SyntheticVectors, num_rows: int) -> Any:
    """Write the vectors, and return a function that finds the true best of queries."""
    stored = np.empty((num_rows, EMBED_DIM), np.float16)
    start = 0
    for block in made.blocks(num_rows):
        stored[start : start + len(block)] = block
        start += len(block)
    column = pa.FixedSizeListArray.from_arrays(pa.array(stored.ravel()), EMBED_DIM)
    lance.write_dataset(pa.table({"vector": column}), path, mode="overwrite")

    def truth(queries: Floats) -> np.ndarray:
        scores = np.concatenate(
            [queries @ stored[at : at + 16_384].astype(np.float32).T
             for at in range(0, num_rows, 16_384)], axis=1
        )  # fmt: skip
        return np.argpartition(-scores, K, axis=1)[:, :K]

    return truth


def _index_bytes(path: str) -> int:
    """Return the size of the newest index."""
    folders = [one for one in Path(path, "_indices").iterdir() if one.is_dir()]
    newest = max(folders, key=lambda one: one.stat().st_mtime)
    return sum(file.stat().st_size for file in newest.rglob("*") if file.is_file())


def _tune(path: str, queries: Floats, best: np.ndarray, partitions: int) -> dict[str, Any]:
    dataset = lance.dataset(path)
    for factor in FACTORS:
        candidates = round(factor * K)
        if min(_recall(dataset, queries, best, candidates, partitions)) >= 1 - LOSS:
            break
    for share in PROBED:
        probes = max(1, round(share * partitions))
        images, texts = _recall(dataset, queries, best, candidates, probes)
        if min(images, texts) >= TARGET:
            break
    times = []
    dataset.io_stats_incremental()
    for query in queries:
        started = time.perf_counter()
        _search(dataset, query, candidates, probes)
        times.append(1e3 * (time.perf_counter() - started))
    read = dataset.io_stats_incremental()
    return {
        "candidates": candidates,
        "probes": probes,
        "recall_images": round(images, 3),
        "recall_texts": round(texts, 3),
        "reads_per_query": round(read.read_iops / len(queries), 1),
        "bytes_read_per_query": round(read.read_bytes / len(queries)),
        "p50_ms": round(float(np.percentile(times, 50)), 2),
        "p95_ms": round(float(np.percentile(times, 95)), 2),
    }


def _recall(
    dataset: lance.LanceDataset, queries: Floats, best: np.ndarray, candidates: int, probes: int
) -> tuple[float, float]:
    """Return the recall of images and of texts."""
    shares = [
        np.isin(rows, _search(dataset, query, candidates, probes)).mean()
        for query, rows in zip(queries, best, strict=True)
    ]
    return float(np.mean(shares[:NUM_QUERIES])), float(np.mean(shares[NUM_QUERIES:]))


def _search(dataset: lance.LanceDataset, query: Floats, candidates: int, probes: int) -> np.ndarray:
    """Return the best rows of the candidates, scored with the stored vectors."""
    found = dataset.scanner(
        columns=["vector"],
        with_row_id=True,
        nearest={"column": "vector", "q": query, "k": candidates, "nprobes": probes},
        disable_scoring_autoprojection=True,
    ).to_table()
    vectors = np.asarray(found["vector"].combine_chunks().flatten()).reshape(-1, EMBED_DIM)
    order = np.argsort(-(vectors.astype(np.float32) @ query))[:K]
    return found["_rowid"].to_numpy()[order]


if __name__ == "__main__":
    main()
