"""`Index.optimize` keeps every row, wherever it is interrupted, and touches nothing but its own."""

import datetime
import json
import os
import time
from functools import partial
from pathlib import Path

import lance
import numpy as np
import pytest
from cli.command import pe
from numpy.typing import NDArray

from perception_encoder.errors import IndexBusyError
from perception_encoder.index import Index, Outcome, OutcomeLog, Row, write_lock
from perception_encoder.index.optimize import OptimizeReport, needs_optimize, optimize_index
from perception_encoder.index.searcher.build import SearcherSizes
from perception_encoder.types import ModelIdentity

LISTS = SearcherSizes(copy=1, lists=1)
NOW = datetime.timedelta(0)


def unit(rows: int, embed_dim: int = 16, seed: int = 0) -> NDArray[np.float32]:
    made = np.random.default_rng(seed).standard_normal((rows, embed_dim))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def make(path: Path, commits: int, rows: int = 3, embed_dim: int = 16) -> Index:
    index = Index.create(path, ModelIdentity("pe-nano", "0123", "standard", embed_dim))
    for number in range(commits):
        names = [Row(uri=f"{number}-{row}", metadata={"n": number}) for row in range(rows)]
        index.append(names, unit(rows, embed_dim, seed=number))
    return index


def contents(index: Index) -> dict[str, tuple[Row, list[float]]]:
    vectors = index.vectors().tolist()
    return {row.id: (row, vector) for row, vector in zip(index.rows(), vectors, strict=True)}


def test_rows_added_to_an_optimized_index_are_joined_with_it(tmp_path: Path) -> None:
    index = make(tmp_path / "t", commits=3)
    index.optimize()
    index.append([Row("new.png")], unit(1, index.identity.embed_dim, seed=5))
    before = contents(index)
    done = index.optimize()
    assert (done.fragments_before, done.fragments_after) == (2, 1)
    assert contents(index) == before


def test_small_files_are_joined_and_every_row_stays(tmp_path: Path) -> None:
    index = make(tmp_path / "t", commits=12)
    before = contents(index)
    done = index.optimize()
    assert (done.num_rows, done.fragments_before, done.fragments_after) == (36, 12, 1)
    assert (done.versions_removed, done.bytes_freed) == (0, 0)
    assert contents(index) == before == contents(Index.open(tmp_path / "t"))
    again = index.optimize()
    assert (again.fragments_before, again.fragments_after, again.build_seconds) == (1, 1, 0)


def test_old_versions_go_by_age_and_their_bytes_with_them(tmp_path: Path) -> None:
    index = make(tmp_path / "t", commits=6)
    before = contents(index)
    assert index.optimize(datetime.timedelta(days=1)).versions_removed == 0
    size = sum(file.stat().st_size for file in (tmp_path / "t").rglob("*") if file.is_file())
    done = index.optimize(NOW)
    now = sum(file.stat().st_size for file in (tmp_path / "t").rglob("*") if file.is_file())
    assert done.versions_removed > 5
    assert 0 < done.bytes_freed <= size - now + 1000
    assert contents(index) == before
    assert len(lance.dataset(str(tmp_path / "t")).versions()) == 1


def test_what_lies_beside_the_index_is_never_cleaned_away(tmp_path: Path) -> None:
    index = make(tmp_path / "t", commits=4)
    log = OutcomeLog(index.path)
    for number in range(3):
        log.append([Outcome(uri=f"{number}", status="failed", reason="x")], run=f"run {number}")
    optimize_index(index.path, None, sizes=LISTS)
    (tmp_path / "t" / "_pe" / "somebody's file").write_text("x")
    old = time.time() - 90 * 86400  # Lance deletes files that it does not know after a week
    own = tmp_path / "t" / "_pe"
    for file in own.rglob("*"):
        os.utime(file, (old, old))
    before = {file: file.read_bytes() for file in own.rglob("*") if file.is_file()}
    index.refresh()
    assert index.optimize(NOW).versions_removed > 0
    kept = {file: file.read_bytes() for file in before if file.exists()}
    searcher = own / "searcher"
    assert {f for f in before if searcher not in f.parents} <= kept.keys()
    assert log.counts() == {"failed": 3}


def test_the_searcher_is_made_for_what_is_there_now(tmp_path: Path) -> None:
    index = make(tmp_path / "t", commits=5, rows=200)
    first = optimize_index(index.path, None, sizes=LISTS)
    assert first.build_seconds >= 0
    assert first.searcher in ("exact", "approximate")
    assert first.searcher_bytes > 0
    again = optimize_index(index.path, None, sizes=LISTS)
    assert again.build_seconds == 0
    assert again.searcher_bytes == first.searcher_bytes
    index.refresh()
    index.delete([Row(uri="0-0").id])
    changed = optimize_index(index.path, None, sizes=LISTS)
    assert changed.num_rows == 999


def test_it_says_when_it_is_worth_while(tmp_path: Path) -> None:
    index = make(tmp_path / "t", commits=65, rows=1)
    assert index.needs_optimize()
    index.optimize()
    assert not index.needs_optimize()
    sizes = SearcherSizes(copy=1, lists=1 << 40)
    assert needs_optimize(lance.dataset(index.path), index.path, sizes=sizes)
    optimize_index(index.path, None, sizes=sizes)
    assert not needs_optimize(lance.dataset(index.path), index.path, sizes=sizes)
    for number, expected in ((12, False), (12, True)):
        new = [Row(uri=f"new {index.count()} {row}") for row in range(number)]
        index.append(new, unit(number))
        found = needs_optimize(lance.dataset(index.path), index.path, sizes=sizes)
        assert found is expected


def test_it_refuses_while_another_writes(tmp_path: Path) -> None:
    index = make(tmp_path / "t", commits=2)
    with write_lock(index.path), pytest.raises(IndexBusyError):
        index.optimize()


def test_the_command_tells_what_it_did(tmp_path: Path) -> None:
    make(tmp_path / "t", commits=3)

    run = partial(pe, "optimize", folder=tmp_path)
    said = run("--index", "t")
    assert said.returncode == 0
    assert said.stdout == ""
    assert "9 images in 1 files (before: 3)" in said.stderr
    assert "searcher: not needed" in said.stderr
    found = json.loads(run("--index", "t", "--keep-days", "0", "--json").stdout)
    assert found["num_rows"] == 9
    assert found["versions_removed"] > 0
    assert found.keys() == set(OptimizeReport.__dataclass_fields__)
    missing = run("--index", "none")
    assert missing.returncode == 1
    assert "there is no index" in missing.stderr
