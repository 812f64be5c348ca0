"""Ways to look at every vector, with as many threads, for `index_experiments.py`.

Each takes the vectors, (R, E) float16 in a mapped file, and gives a function from a query, (E,)
float32, to its nearest `K` rows, best first but where the products are taken as they are.
"""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

K = 10
BLOCK = 16_384

Ask = Callable[[np.ndarray], list[int]]


def _as_float32(stored: np.ndarray) -> np.ndarray:
    vectors = np.empty(stored.shape, np.float32)
    for first in range(0, len(stored), BLOCK):
        vectors[first : first + BLOCK] = stored[first : first + BLOCK]
    return vectors


def _numpy_scan(stored: np.ndarray, _: int) -> Ask:
    vectors = _as_float32(stored)
    return lambda query: np.argpartition(-(vectors @ query), K)[:K].tolist()


def _einsum_scan(stored: np.ndarray, threads: int) -> Ask:
    vectors = _as_float32(stored)
    pool = ThreadPoolExecutor(threads)

    def ask(query: np.ndarray) -> list[int]:
        parts = pool.map(lambda part: np.einsum("re,e->r", part, query), _parts(vectors, threads))
        return np.argpartition(-np.concatenate(list(parts)), K)[:K].tolist()

    return ask


def _flat_scan(stored: np.ndarray, threads: int) -> Ask:
    import faiss

    return _in_parts(stored, threads, lambda: faiss.IndexFlatIP(stored.shape[1]))


def _fp16_scan(stored: np.ndarray, threads: int) -> Ask:
    import faiss

    sq, ip, width = faiss.ScalarQuantizer, faiss.METRIC_INNER_PRODUCT, stored.shape[1]
    return _in_parts(stored, threads, lambda: faiss.IndexScalarQuantizer(width, sq.QT_fp16, ip))


def _panorama_scan(stored: np.ndarray, threads: int) -> Ask:
    """Turned along the main axes first, so that the first levels hold most of the length."""
    import faiss

    sample = stored[:: max(1, len(stored) // 50_000)].astype(np.float32)
    width = stored.shape[1]
    turn = faiss.PCAMatrix(width, width)
    turn.train(sample)
    matrix = faiss.vector_to_array(turn.A).reshape(width, width)
    made = _in_parts(
        stored, threads, lambda: faiss.IndexFlatIPPanorama(width, 8), lambda x: x @ matrix.T
    )
    return lambda query: made(matrix @ query)


def _in_parts(
    stored: np.ndarray,
    threads: int,
    empty: Callable[[], object],
    turned: Callable[[np.ndarray], np.ndarray] = lambda vectors: vectors,
) -> Ask:
    """One faiss index for each thread; faiss itself uses one thread for one query."""
    import faiss

    indexes, offsets, offset = [], [], 0
    for part in _parts(stored, threads):
        index = empty()
        index.is_trained = True
        for first in range(0, len(part), BLOCK):
            index.add(np.ascontiguousarray(turned(part[first : first + BLOCK].astype(np.float32))))
        indexes.append(index)
        offsets.append(offset)
        offset += len(part)
    faiss.omp_set_num_threads(1)
    pool = ThreadPoolExecutor(threads)

    def ask(query: np.ndarray) -> list[int]:
        answers = list(pool.map(lambda index: index.search(query[None], K), indexes))
        scores = np.concatenate([answer[0][0] for answer in answers])
        pairs = zip(answers, offsets, strict=True)
        rows = np.concatenate([answer[1][0] + start for answer, start in pairs])
        return rows[np.argsort(-scores)[:K]].tolist()

    return ask


def _int8_scan(stored: np.ndarray, threads: int) -> Ask:
    """Propose by int8, keep all whose error bound (Cauchy-Schwarz) allows them, score again."""
    import faiss

    peak = max(float(np.abs(part).max()) for part in _parts(stored, 64))
    scale = np.float32(127 / peak)
    parts = _parts(stored, threads)
    indexes, bound = [], 0.0
    for part in parts:
        index = faiss.IndexScalarQuantizer(
            stored.shape[1], faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT
        )
        index.is_trained = True
        for first in range(0, len(part), BLOCK):
            vectors = part[first : first + BLOCK].astype(np.float32) * scale
            rounded = np.round(vectors)
            lengths = np.linalg.norm(vectors - rounded, axis=1)
            bound = max(bound, float(lengths.max()) / float(scale))
            index.add(rounded)
        indexes.append(index)
    faiss.omp_set_num_threads(1)
    pool = ThreadPoolExecutor(threads)
    starts = np.cumsum([0, *map(len, parts)])

    def ask(query: np.ndarray) -> list[int]:
        candidates = 1_000
        while True:
            answers = list(pool.map(partial(_searched, query, candidates), indexes))
            scores = np.concatenate([answer[0][0] for answer in answers]) / scale
            rows = np.concatenate([answers[i][1][0] + starts[i] for i in range(len(answers))])
            floor = np.partition(scores, -K)[-K] - 2 * bound
            if all(answer[0][0][-1] / scale < floor for answer in answers):
                break
            candidates *= 4
        rows = np.sort(rows[scores >= floor])
        exact = stored[rows].astype(np.float32) @ query
        return rows[np.argsort(-exact)[:K]].tolist()

    return ask


def _searched(query: np.ndarray, candidates: int, index: Any) -> tuple:
    return index.search(query[None], candidates)


def _parts(vectors: np.ndarray, number: int) -> list[np.ndarray]:
    edges = np.linspace(0, len(vectors), number + 1).astype(int)
    return [vectors[a:b] for a, b in itertools.pairwise(edges) if b > a]


SCANS: dict[str, Callable[[np.ndarray, int], Ask]] = {
    "numpy-f32": _numpy_scan,
    "einsum-f32": _einsum_scan,
    "flat-f32": _flat_scan,
    "fp16": _fp16_scan,
    "int8-bounded": _int8_scan,
    "panorama-f32": _panorama_scan,
}
