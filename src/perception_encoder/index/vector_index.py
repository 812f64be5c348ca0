"""Lance's own vector index on the embeddings of an index: built, extended, measured and searched.

It is part of the dataset, so every reader of a version finds it there, also in a bucket, and other
programs that read Lance use it. Its codes only propose rows. These are scored again with the
stored embeddings, each of which is a request to the bucket, so few candidates matter more than
small codes (`benchmarks/vector_index.py`).

How many partitions are probed and how many candidates are scored again is measured when it is
built, and stored in the metadata of the schema. Without that, the index is not used.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_encoder.index.schema import VECTOR, vectors_of
from perception_encoder.index.searcher.recall import TARGET, RecallSample, split_kinds
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    import lance
    import pyarrow as pa

logger = logging.getLogger(__name__)

INDEX_NAME: Final = "vector_idx"
"""LanceDB's default name too, so that a table has one index of the column, whoever built it."""

BuildVectorIndex: TypeAlias = "Callable[[lance.LanceDataset], object]"
"""Builds the vector index of the latest version, with `index_parameters`; the dataset shows it."""

INDEX_TYPE: Final = "IVF_RQ"
NUM_BITS: Final = 3
METRIC: Final = "cosine"

_SAMPLE_PER_PARTITION: Final = 40  # rows that its center is trained with; Lance takes 256
_ITERATIONS: Final = 8  # of training; Lance makes 50

_STORED: Final = "perception_encoder.vector_index"
_FORMAT: Final = 1
_ROW_ID: Final = "_rowid"
_QUERY: Final = "query_index"  # Lance's name of the column
_RESULT_COUNTS: Final = (10, 100, 1024)  # lists of hits double: `search_index`
_SPARE: Final = 16  # candidates more for fewer results, among which codes err more
_MOST_CANDIDATES: Final = 4  # for one result
_STEP: Final = 1.5  # from one number of probes to the next
_RESERVE: Final = 0.01  # of recall, that scoring fewer candidates again may cost
_GROWTH: Final = 2.0  # of the rows, after which the partitions are trained again
_CHANGED: Final = 0.1  # share of the rows, after which recall is measured again
_SAMPLE_ROWS: Final = 1024
_BLOCK_BYTES: Final = 32 << 20  # of float32 vectors
_ROWS_AT_ONCE: Final = 16_384  # that one search of several queries returns


@dataclass(frozen=True)
class VectorTuning:
    """How the best k rows are searched.

    Attributes:
        k: the number of results; fewer are searched in the same way.
        probes: partitions that are probed.
        candidates: rows that are scored again, for k results.
        recall: measured share of the true best k that are found.
    """

    k: int
    probes: int
    candidates: int
    recall: float


@dataclass(frozen=True)
class VectorIndex:
    """A vector index of a version, and how it is searched.

    Attributes:
        kind: such as IVF_RQ.
        num_partitions: of the rows.
        fragment_ids: those whose rows it covers.
        num_bytes: size of its files.
        tuning: for several k, ascending; empty where it would find too little.
        trained_rows: rows when its partitions were trained.
        measured_rows: rows when its recall was measured.
    """

    kind: str
    num_partitions: int
    fragment_ids: frozenset[int]
    num_bytes: int
    tuning: tuple[VectorTuning, ...] = ()
    trained_rows: int = 0
    measured_rows: int = 0

    @property
    def recall(self) -> float | None:
        """The measured recall of the best 10."""
        return self.tuning[0].recall if self.tuning else None

    def plan(self, k: int, share: float = 1.0) -> VectorTuning | None:
        """Return how to search for the best k; None if every row has to be compared.

        Args:
            k: the number of results.
            share: of the rows that meet a condition. The best k of these are among the best
                k / share of all rows, so as many partitions are probed as for those.
        """
        own = next((one for one in self.tuning if one.k >= k), None)
        if own is None:
            return None
        wide = next((one for one in self.tuning if one.k * share >= k), None)
        probes = self.num_partitions if wide is None else wide.probes
        candidates = min(own.candidates, math.ceil(own.candidates / own.k * k) + _SPARE)
        return VectorTuning(k, max(own.probes, probes), candidates, own.recall)


def choose_partitions(num_rows: int) -> int:
    """Return the number of partitions for an index of so many rows."""
    return max(1, round(math.sqrt(num_rows)))


def index_parameters(num_rows: int) -> dict[str, Any]:
    """Return the arguments of Lance's `create_index`, except the column."""
    return {
        "index_type": INDEX_TYPE,
        "name": INDEX_NAME,
        "metric": METRIC,
        "num_partitions": choose_partitions(num_rows),
        "num_bits": NUM_BITS,
        "sample_rate": _SAMPLE_PER_PARTITION,
        "max_iters": _ITERATIONS,
    }


def read_vector_index(dataset: lance.LanceDataset) -> VectorIndex | None:
    """Return the vector index of a version; None if it has none that this package built."""
    stored = (dataset.schema.metadata or {}).get(_STORED.encode())
    if stored is None:
        return None
    described = _describe(dataset)
    try:
        found = json.loads(stored)
        if described is None or found["format"] != _FORMAT or found["kind"] != described.index_type:
            return None
        return VectorIndex(
            kind=str(found["kind"]),
            num_partitions=int(found["num_partitions"]),
            fragment_ids=_covered(described),
            num_bytes=int(described.total_size_bytes or 0),
            tuning=tuple(VectorTuning(**one) for one in found["tuning"]),
            trained_rows=int(found["trained_rows"]),
            measured_rows=int(found["measured_rows"]),
        )
    except (ValueError, LookupError, TypeError) as err:
        logger.warning("%s: its vector index is not used: %s", dataset.uri, err)
        return None


def count_uncovered(dataset: lance.LanceDataset) -> int:
    """Return how many rows the vector index does not cover; all if there is none."""
    described = _describe(dataset)
    covered = frozenset[int]() if described is None else _covered(described)
    return sum(
        int(part.physical_rows - part.num_deletions)
        for part in dataset.get_fragments()
        if part.fragment_id not in covered
    )


def extend_vector_index(dataset: lance.LanceDataset) -> None:
    """Add the rows that a vector index does not cover to it, and join its parts; a commit.

    To be called before small fragments are joined: Lance joins none that are inside of an index
    with others that are outside.
    """
    described = _describe(dataset)
    if described is not None and (count_uncovered(dataset) or len(described.segments) > 1):
        dataset.optimize.optimize_indices(
            index_names=[INDEX_NAME], num_indices_to_merge=len(described.segments)
        )


def build_vector_index(dataset: lance.LanceDataset) -> None:
    """Build the vector index on this machine, see `BuildVectorIndex`."""
    parameters = index_parameters(int(dataset.count_rows()))
    dataset.create_index(VECTOR, replace=True, **parameters)


def renew_vector_index(
    dataset: lance.LanceDataset, build: BuildVectorIndex = build_vector_index
) -> VectorIndex:
    """Build the vector index, or keep the present one, and measure its recall. Up to two commits.

    It is built where there is none, and where the rows have doubled since.

    Args:
        dataset: the latest version, which shows the result.
        build: where it is built.

    Raises:
        OSError, ValueError, RuntimeError: reading or writing failed; the index is as before.
    """
    num_rows = int(dataset.count_rows())
    present = read_vector_index(dataset)
    if present is None or not _is_near(num_rows, present.trained_rows, _GROWTH - 1):
        build(dataset)
        return measure_vector_index(
            dataset, num_partitions=choose_partitions(num_rows), trained_rows=num_rows
        )
    if not _is_near(num_rows, present.measured_rows, _CHANGED):
        return measure_vector_index(
            dataset, num_partitions=present.num_partitions, trained_rows=present.trained_rows
        )
    return present


def measure_vector_index(
    dataset: lance.LanceDataset, *, num_partitions: int, trained_rows: int
) -> VectorIndex:
    """Measure how a vector index has to be searched, and store that; a commit.

    It reads all embeddings once.

    Args:
        dataset: the latest version, which has the index and shows the result.
        num_partitions: of the index.
        trained_rows: rows when its partitions were trained.
    """
    described = _describe(dataset)
    assert described is not None  # it was just built
    tuning = _tune(dataset, num_partitions)
    logger.info("%s: measured %s", dataset.uri, tuning)
    stored = {
        "format": _FORMAT,
        "kind": described.index_type,
        "num_partitions": num_partitions,
        "trained_rows": trained_rows,
        "measured_rows": int(dataset.count_rows()),
        "tuning": [asdict(one) for one in tuning],
    }
    dataset.update_schema_metadata({_STORED: json.dumps(stored)})
    found = read_vector_index(dataset)
    assert found is not None  # it was just stored
    return found


def find_candidates(
    dataset: lance.LanceDataset,
    queries: Embeddings,
    plan: VectorTuning,
    num_partitions: int,
    *,
    columns: Sequence[str] = (),
    where: str | None = None,
) -> Iterator[pa.Table]:
    """Yield candidates of (Q, E) float32 queries, some queries at a time.

    Rows that the index does not cover are left out. If too few rows of the probed partitions meet
    the condition, further ones are probed.

    Args:
        dataset: the version.
        queries: unit length.
        plan: how to search.
        num_partitions: of the index.
        columns: to read of the candidates.
        where: a condition, translated for Lance.

    Yields:
        The columns, `_rowid`, and for several queries `query_index`; best first for each query.
    """
    size = max(1, _ROWS_AT_ONCE // plan.candidates)
    if _QUERY in dataset.schema.names:  # Lance cannot answer several at once
        size = 1
    for start in range(0, len(queries), size):
        block = queries[start : start + size]
        yield dataset.scanner(
            columns=list(columns) if len(block) == 1 else [*columns, _QUERY],
            with_row_id=True,
            nearest={
                "column": VECTOR,
                "q": block[0] if len(block) == 1 else block,
                "k": plan.candidates,
                "minimum_nprobes": plan.probes,
                "maximum_nprobes": max(plan.probes, num_partitions),
            },
            filter=where,
            prefilter=True,
            fast_search=True,
            disable_scoring_autoprojection=True,
        ).to_table()


def _describe(dataset: lance.LanceDataset) -> Any:
    described = dataset.describe_indices()
    return next((one for one in described if one.name == INDEX_NAME), None)


def _covered(described: Any) -> frozenset[int]:
    return frozenset(one for segment in described.segments for one in segment.fragment_ids)


def _is_near(num_rows: int, before: int, share: float) -> bool:
    return abs(num_rows - before) <= share * before


def _tune(dataset: lance.LanceDataset, num_partitions: int) -> tuple[VectorTuning, ...]:
    """Return how the best rows are found, for each of `_RESULT_COUNTS` where that is possible."""
    num_rows = int(dataset.count_rows())
    counts = [k for k in _RESULT_COUNTS if k < num_rows]
    if not counts:
        return ()
    sample = _draw_sample(dataset, num_rows, max(counts))
    block_rows = max(1, _BLOCK_BYTES // (4 * int(dataset.schema.field(VECTOR).type.list_size)))
    for batch in dataset.scanner(
        columns=[VECTOR], with_row_id=True, batch_size=block_rows, fragment_readahead=1
    ).to_batches():
        sample.add(vectors_of(batch), batch[_ROW_ID].to_numpy().astype(np.int64))
    truth = sample.truth()
    tunings: list[VectorTuning] = []
    for k in counts:
        probes = tunings[-1].probes if tunings else 1
        ranks = _find_ranks(dataset, sample, [rows[:k] for rows in truth], probes)
        while _recall(ranks, _MOST_CANDIDATES * k) < TARGET + _RESERVE and probes < num_partitions:
            probes = min(num_partitions, math.ceil(probes * _STEP))
            best = [rows[:k] for rows in truth]
            ranks = _find_ranks(dataset, sample, best, probes)
        candidates = next(
            (
                number
                for factor in np.arange(1, _MOST_CANDIDATES + 0.25, 0.25)
                if _recall(ranks, number := math.ceil(factor * k)) >= TARGET
            ),
            None,
        )
        if candidates is None:
            break
        tunings.append(VectorTuning(k, probes, candidates, round(_recall(ranks, candidates), 4)))
    return tuple(tunings)


def _draw_sample(dataset: lance.LanceDataset, num_rows: int, depth: int) -> RecallSample:
    generator = np.random.default_rng(0)
    count = min(num_rows, _SAMPLE_ROWS)
    chosen = np.sort(generator.choice(num_rows, count, replace=False))
    rows = dataset.take(chosen.tolist(), columns=[VECTOR, _ROW_ID]).combine_chunks()
    vectors = vectors_of(rows.to_batches()[0])
    numbers = rows[_ROW_ID].to_numpy().astype(np.int64)
    return RecallSample(vectors.astype(np.float16), numbers, vectors.mean(axis=0), depth)


def _find_ranks(
    dataset: lance.LanceDataset,
    sample: RecallSample,
    best: Sequence[NDArray[np.int64]],
    probes: int,
) -> list[NDArray[np.int64]]:
    """Return the rank of the true best rows among the candidates of each query.

    Scoring candidates again brings the true best of them to the front, so that a row is found if
    it is a candidate.
    """
    k = len(best[0])
    plan = VectorTuning(k, probes, _MOST_CANDIDATES * k, 0.0)
    tables = find_candidates(dataset, sample.queries, plan, probes)
    ranks: list[NDArray[np.int64]] = []
    for numbers in _split_queries(tables):
        rows, itself = best[len(ranks)], sample.itself[len(ranks)]
        places = {int(row): rank for rank, row in enumerate(numbers[numbers != itself])}
        ranks.append(np.array([places.get(int(row), np.iinfo(np.int64).max) for row in rows]))
    return ranks


def _split_queries(tables: Iterator[pa.Table]) -> Iterator[NDArray[np.int64]]:
    for table in tables:
        numbers = table[_ROW_ID].to_numpy().astype(np.int64)
        if _QUERY not in table.schema.names:
            yield numbers
            continue
        of = table[_QUERY].to_numpy()
        for query in range(int(of.max()) + 1):
            yield numbers[of == query]


def _recall(ranks: Sequence[NDArray[np.int64]], candidates: int) -> float:
    """Return the recall of the worse kind of query, if so many candidates are scored again."""
    shares = [float(np.mean(found < candidates)) for found in ranks]
    return float(min(np.mean(part) for part in split_kinds(shares)))
