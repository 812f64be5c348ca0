"""A bucket that refuses requests, loses answers or is slow: a real S3-speaking server that does."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from buckets import Bucket, Fault, open_bucket
from numpy.typing import NDArray
from small_models import open_tiny, save_drawings

from perception_encoder.errors import IndexStorageError
from perception_encoder.index import Index, Row
from perception_encoder.index.optimize import optimize_index
from perception_encoder.index.searcher.build import SearcherSizes
from perception_encoder.indexing import Run
from perception_encoder.sources import SourceOptions, open_sources
from perception_encoder.types import ModelIdentity


@pytest.fixture(scope="module")
def server() -> Iterator[Bucket]:
    with open_bucket() as opened:
        yield opened


@pytest.fixture
def bucket(server: Bucket) -> Iterator[Bucket]:
    """A bucket without faults, as which it is left."""
    server.release.clear()
    yield server
    server.release.set()
    server.find_fault = lambda _method, _path: None


def unit(rows: int) -> NDArray[np.float32]:
    made = np.random.default_rng(0).standard_normal((rows, 16))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def make(path: str, rows: int) -> Index:
    index = Index.create(path, ModelIdentity("pe-nano", "0123", "standard", 16))
    index.append([Row(f"{number}") for number in range(rows)], unit(rows))
    return index


def uris(path: str) -> list[str]:
    return sorted(row.uri for row in Index.open(path).rows())


def refuse_first_attempts(bucket: Bucket) -> None:
    seen: set[tuple[str, str]] = set()

    def find_fault(method: str, path: str) -> Fault | None:
        is_first = (method, path) not in seen
        seen.add((method, path))
        return "refused" if is_first else None

    bucket.find_fault = find_fault


def run_over(index: Index, folder: Path) -> dict[str, int]:
    run = Run(open_tiny(), index, open_sources([str(folder)], SourceOptions()))
    for _ in run.outcomes():
        pass
    return dict(run.progress.counts)


def test_a_run_goes_on_where_requests_are_refused_at_first(bucket: Bucket, tmp_path: Path) -> None:
    save_drawings(tmp_path, 3)
    index = Index.create(f"{bucket.uri}/some.lance", open_tiny().identity)
    refuse_first_attempts(bucket)
    assert run_over(index, tmp_path) == {"embedded": 3}
    assert len(uris(index.path)) == 3


def test_a_run_ends_with_an_error_where_all_is_refused_and_goes_on_later(
    bucket: Bucket, tmp_path: Path
) -> None:
    model, path = open_tiny(), f"{bucket.uri}/always.lance"
    files = save_drawings(tmp_path, 3)
    hidden = files[0].rename(tmp_path / "hidden")
    index = Index.create(path, model.identity)
    assert run_over(index, tmp_path) == {"embedded": 2}
    hidden.rename(files[0])
    before = uris(path)
    bucket.find_fault = lambda method, _path: "refused" if method in ("PUT", "POST") else None
    with pytest.raises(IndexStorageError, match=r"always.lance.*the object store failed.*503"):
        run_over(index, tmp_path)
    bucket.find_fault = lambda _method, _path: None
    assert uris(path) == before
    assert run_over(Index.open(path), tmp_path) == {"embedded": 1, "skipped": 2}


def test_reading_ends_with_an_error_that_says_what_failed(bucket: Bucket) -> None:
    index = make(f"{bucket.uri}/read.lance", 5)
    bucket.find_fault = lambda _method, _path: "refused"
    with pytest.raises(IndexStorageError, match=r"read.lance.*after \d+ retries.*503.*are kept"):
        index.refresh()
    assert len(bucket.requests) < 1000
    bucket.find_fault = lambda _method, _path: None
    index.refresh()
    assert index.search(unit(1), k=1)[0][0].uri == "0"


def test_a_commit_whose_answer_is_lost_is_not_done_twice(bucket: Bucket) -> None:
    index = make(f"{bucket.uri}/lost.lance", 5)
    lost: list[str] = []

    def find_fault(method: str, path: str) -> Fault | None:
        if method == "PUT" and path.endswith(".manifest") and not lost:
            lost.append(path)
            return "answer lost"
        return None

    bucket.find_fault = find_fault
    index.append([Row("new")], unit(6)[5:])
    assert lost
    assert uris(index.path) == ["0", "1", "2", "3", "4", "new"]


def test_an_optimization_that_fails_leaves_the_index_as_it_was(bucket: Bucket) -> None:
    path = make(f"{bucket.uri}/optimized.lance", 300).path
    expected = [hit.uri for hit in Index.open(path).search(unit(1), k=10)[0]]
    bucket.find_fault = lambda method, name: (
        "refused" if method in ("PUT", "POST") and "_indices" in name else None
    )
    sizes = SearcherSizes(copy=1, lists=1)
    with pytest.raises(IndexStorageError, match="the object store failed"):
        optimize_index(path, None, sizes=sizes)
    assert [hit.uri for hit in Index.open(path).search(unit(1), k=10)[0]] == expected
    bucket.find_fault = lambda _method, _path: None
    assert optimize_index(path, None, sizes=sizes).searcher == "vector-index"


def test_a_slow_bucket_is_waited_for(bucket: Bucket) -> None:
    index = make(f"{bucket.uri}/slow.lance", 5)
    bucket.find_fault = lambda _method, _path: "held"
    bucket.arrived.clear()
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(index.search, unit(1), k=1)
        assert bucket.arrived.wait(100)
        assert not found.done()
        bucket.release.set()
        assert found.result()[0][0].uri == "0"


def test_a_bucket_that_never_answers_is_given_up(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(f"{bucket.uri}/silent.lance", 5).path
    monkeypatch.setenv("AWS_TIMEOUT", "200ms")
    bucket.find_fault = lambda _method, _path: "held"
    with pytest.raises(IndexStorageError, match="the object store failed"):
        Index.open(path)
