"""Which index should the searcher be? Kinds of faiss index, side by side, at several sizes.

Vectors and queries are those of `synthetic_vectors`. Every kind is built, written, opened and asked
in a process of its own, so that its peak memory is its own. `build_s` is everything from the
vectors to the file: training (a sample of 64 vectors a list), assigning, encoding, writing. Queries
come one at a time; kinds with few bits fetch more candidates than asked for (`refine`) and score
them again with the float16 vectors, and that time counts. recall@10 is against exact search, for
images and for words. The second part asks how to look at every vector: exact scans, with as many
threads.

    python -m benchmarks.index_experiments [--sizes 10000 100000 1000000] [--only ivf-fp16 …]
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks.exact_scans import BLOCK, SCANS, K
from benchmarks.synthetic_vectors import SyntheticVectors

RESULTS = Path(__file__).parent / "results" / "index_experiments.json"
EMBED_DIM = 1024
NUM_QUERIES = 200  # of each of the two sorts
PER_LIST = 64  # training vectors
ITERATIONS = 8
NPROBES = (1, 2, 4, 8, 16, 32, 64, 128)
EFS = (16, 32, 64, 128, 256)
HNSW_LIMIT = 100_000  # more rows take too long to build: docs/reference/experiments.md

# kind: lists as a multiple of sqrt(rows), and candidates fetched for one result
KINDS: dict[str, tuple[float, int]] = {
    "ivf-fp16": (1, 1),
    "ivf-fp16-2x": (2, 1),
    "ivf-fp16-super": (1, 1),
    "ivf-sq8": (1, 3),
    "ivf-sq4": (1, 5),
    "ivf-pq128": (1, 20),
    "ivf-rabitq": (1, 20),
    "ivf-rabitq-fs": (1, 20),
    "hnsw-sq8": (0, 3),
}


def main() -> None:
    """Run what was asked for, in child processes, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--only", nargs="+", default=[*KINDS, *SCANS])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--folder", type=Path, help="keep and reuse the vectors there")
    parser.add_argument("--note", default="", help="what else the machine was doing")
    options = parser.parse_args()
    report = {
        "question": "kinds of index: build, memory, opening, recall@10 and time of a query",
        "date": datetime.now(tz=UTC).date().isoformat(),
        "machine": _machine(),
        "note": options.note,
        "versions": _versions(),
        "commit": _commit(),
        "embed_dim": EMBED_DIM,
        "queries": NUM_QUERIES,
        "training_vectors_per_list": PER_LIST,
        "cases": [],
    }
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        for size in sorted(options.sizes):
            _child("make", size, folder)
            for kind in options.only:
                if kind == "hnsw-sq8" and size > HNSW_LIMIT:
                    continue
                case = _child(kind, size, folder)
                report["cases"].append({"rows": size, "kind": kind, **case})
                print(json.dumps(report["cases"][-1]), flush=True)
                options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _child(task: str, size: int, folder: Path) -> dict:
    command = [
        sys.executable,
        "-m",
        "benchmarks.index_experiments",
        "--child",
        task,
        str(size),
        str(folder),
    ]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def _machine() -> str:
    import os

    cores = len(os.sched_getaffinity(0))
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        flags = ""
    extra = ", AVX-512" if "avx512f" in flags else ""
    return f"{platform.machine()}, {cores} cores{extra}, {platform.system()}"


def _versions() -> dict:
    from importlib.metadata import version

    return {name: version(name) for name in ("faiss-cpu", "numpy", "pylance", "perception-encoder")}


def _commit() -> str:
    command = ["git", "-C", str(RESULTS.parent.parent), "rev-parse", "HEAD"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _resident_bytes() -> int:
    """Memory in use now, without pages of mapped files."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


# What the children do


def _make(size: int, folder: Path) -> dict:
    """Write the vectors as float16, the queries, and the true answers."""
    vectors_path, truth_path = folder / f"{size}.npy", folder / f"{size}-truth.npy"
    if truth_path.exists():
        return {}
    made = SyntheticVectors(EMBED_DIM)
    queries = np.concatenate([made.image_queries(NUM_QUERIES), made.word_queries(NUM_QUERIES)])
    np.save(folder / "queries.npy", queries)
    stored = np.lib.format.open_memmap(vectors_path, "w+", np.float16, (size, EMBED_DIM))
    best = np.full((len(queries), K), -2.0, np.float32)
    rows = np.zeros((len(queries), K), np.int64)
    start = 0
    for block in made.blocks(size):
        stored[start : start + len(block)] = block
        scores = queries @ stored[start : start + len(block)].astype(np.float32).T
        scores = np.concatenate([best, scores], axis=1)
        numbers = np.arange(start, start + len(block))
        keys = np.concatenate([rows, np.broadcast_to(numbers, (len(queries), len(block)))], axis=1)
        order = np.argsort(-scores, axis=1)[:, :K]
        best = np.take_along_axis(scores, order, axis=1)
        rows = np.take_along_axis(keys, order, axis=1)
        start += len(block)
    stored.flush()
    np.save(truth_path, rows)
    return {}


def _train_centroids(vectors: np.ndarray, num_lists: int, super_kmeans: bool) -> np.ndarray:
    import faiss

    random = np.random.default_rng(0)
    chosen = np.sort(random.choice(len(vectors), min(len(vectors), PER_LIST * num_lists), False))
    sample = vectors[chosen].astype(np.float32)
    kmeans = faiss.Kmeans(
        EMBED_DIM,
        num_lists,
        niter=ITERATIONS,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=PER_LIST,
        use_super_kmeans=super_kmeans,
        seed=1,
    )
    kmeans.train(sample)
    return kmeans.centroids


def _empty(kind: str, quantizer: object, num_lists: int) -> object:
    import faiss

    sq, ip = faiss.ScalarQuantizer, faiss.METRIC_INNER_PRODUCT
    shape = (quantizer, EMBED_DIM, num_lists)
    if kind.startswith("ivf-fp16"):
        return faiss.IndexIVFScalarQuantizer(*shape, sq.QT_fp16, ip, False)
    if kind == "ivf-sq8":
        return faiss.IndexIVFScalarQuantizer(*shape, sq.QT_8bit, ip, False)
    if kind == "ivf-sq4":
        return faiss.IndexIVFScalarQuantizer(*shape, sq.QT_4bit, ip, True)
    if kind == "ivf-pq128":
        return faiss.IndexIVFPQFastScan(*shape, 128, 4, ip)
    if kind == "ivf-rabitq":
        return faiss.IndexIVFRaBitQ(*shape, ip)
    return faiss.IndexIVFRaBitQFastScan(*shape, ip)


def _build(kind: str, vectors: np.ndarray) -> tuple[object, dict]:
    import faiss

    multiple, _ = KINDS[kind]
    start = time.perf_counter()
    if kind == "hnsw-sq8":
        index = faiss.IndexHNSWSQ(
            EMBED_DIM, faiss.ScalarQuantizer.QT_8bit, 32, faiss.METRIC_INNER_PRODUCT
        )
        index.hnsw.efConstruction = 80
        num_lists = 0
    else:
        num_lists = round(multiple * len(vectors) ** 0.5)
        quantizer = faiss.IndexFlatIP(EMBED_DIM)
        quantizer.add(_train_centroids(vectors, num_lists, kind.endswith("super")))
        index = _empty(kind, quantizer, num_lists)
        index.own_fields = False
    step = max(1, len(vectors) // 50_000)
    index.train(vectors[::step].astype(np.float32))
    trained = time.perf_counter()
    for first in range(0, len(vectors), BLOCK):
        index.add(vectors[first : first + BLOCK].astype(np.float32))
    added = time.perf_counter()
    facts = {
        "lists": num_lists,
        "train_s": round(trained - start, 2),
        "add_s": round(added - trained, 2),
    }
    return index, facts


def _case(kind: str, size: int, folder: Path) -> dict:
    import faiss

    vectors = np.load(folder / f"{size}.npy", mmap_mode="r")
    path = folder / "index.faiss"
    index, facts = _build(kind, vectors)
    start = time.perf_counter()
    faiss.write_index(index, str(path))
    facts["write_s"] = round(time.perf_counter() - start, 2)
    facts["build_s"] = round(facts["train_s"] + facts["add_s"] + facts["write_s"], 2)
    facts["build_anonymous_bytes"] = _resident_bytes()
    facts["file_bytes"] = path.stat().st_size
    opened = _child(f"query:{kind}", size, folder)
    path.unlink()
    return {**facts, **opened}


def _query(kind: str, size: int, folder: Path) -> dict:
    import faiss

    faiss.omp_set_num_threads(1)
    vectors = np.load(folder / f"{size}.npy", mmap_mode="r")
    queries = np.load(folder / "queries.npy")
    truth = np.load(folder / f"{size}-truth.npy")
    start = time.perf_counter()
    index = faiss.read_index(str(folder / "index.faiss"), faiss.IO_FLAG_MMAP)
    opened = time.perf_counter() - start
    if kind.startswith("ivf") and hasattr(faiss.downcast_InvertedLists(index.invlists), "totsize"):
        faiss.downcast_InvertedLists(index.invlists).prefetch_nthread = 0  # 32 threads a query
    refine = KINDS[kind][1]
    curve = []
    for value in EFS if kind.startswith("hnsw") else NPROBES:
        if kind.startswith("hnsw"):
            index.hnsw.efSearch = max(value, K * refine)
        elif value > index.nlist:
            break
        else:
            index.nprobe = value
        for query in queries[::7]:
            _ask(index, query, refine, vectors)  # the pages are read
        found, times = [], []
        for query in queries:
            start = time.perf_counter()
            found.append(_ask(index, query, refine, vectors))
            times.append(time.perf_counter() - start)
        hits = [len(set(a) & set(b)) / K for a, b in zip(found, truth.tolist(), strict=True)]
        curve.append(
            {
                "probes": value,
                "recall_images": round(float(np.mean(hits[:NUM_QUERIES])), 4),
                "recall_words": round(float(np.mean(hits[NUM_QUERIES:])), 4),
                "p50_ms": round(float(np.percentile(times, 50)) * 1e3, 3),
                "p95_ms": round(float(np.percentile(times, 95)) * 1e3, 3),
            }
        )
    return {
        "open_ms": round(opened * 1e3, 1),
        "query_anonymous_bytes": _resident_bytes(),
        "refine": refine,
        "curve": curve,
    }


def _ask(index: object, query: np.ndarray, refine: int, vectors: np.ndarray) -> list[int]:
    found = index.search(query[None], K * refine)[1][0]
    if refine == 1:
        return found.tolist()
    found = found[found >= 0]
    scores = vectors[found].astype(np.float32) @ query
    return found[np.argsort(-scores)[:K]].tolist()


# Exact scans


def _scan(kind: str, size: int, folder: Path) -> dict:
    import faiss

    stored = np.load(folder / f"{size}.npy", mmap_mode="r")
    queries = np.load(folder / "queries.npy")[:: NUM_QUERIES // 10]
    truth = np.load(folder / f"{size}-truth.npy")[:: NUM_QUERIES // 10]
    threads = faiss.omp_get_max_threads()
    ask = SCANS[kind](stored, threads)
    memory = _resident_bytes()
    ask(queries[0])
    times, right = [], []
    for query, rows in zip(queries, truth, strict=True):
        start = time.perf_counter()
        found = ask(query)
        times.append(time.perf_counter() - start)
        right.append(len(set(found) & set(rows.tolist())) / K)
    return {
        "threads": threads,
        "recall": round(float(np.mean(right)), 4),
        "anonymous_bytes": memory,
        "p50_ms": round(float(np.percentile(times, 50)) * 1e3, 2),
        "p95_ms": round(float(np.percentile(times, 95)) * 1e3, 2),
    }


def _run_child(task: str, size: int, folder: Path) -> dict:
    if task == "make":
        return _make(size, folder)
    if task.startswith("query:"):
        return _query(task.removeprefix("query:"), size, folder)
    return {**(_scan if task in SCANS else _case)(task, size, folder), "peak_bytes": _peak_bytes()}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(_run_child(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))))
    else:
        main()
