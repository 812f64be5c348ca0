"""Bytes of an index's files change: what comes of it is an error of ours, never a traceback."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_encoder.errors import ImageIndexError
from perception_encoder.index import Index, Outcome, OutcomeLog, Row
from perception_encoder.index.optimize import describe_index
from perception_encoder.search.null_distribution import (
    NullDistribution,
    load_null_distribution,
    store_null_distribution,
)
from perception_encoder.types import ModelIdentity

FEWER = max(10, settings.default.max_examples // 4)  # an example copies and opens an index
NEAR = np.eye(8, dtype=np.float32)[:2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of two fragments, one with a deletion, and outcomes."""
    path = tmp_path_factory.mktemp("damage") / "whole"
    vectors = np.random.default_rng(0).standard_normal((40, 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    rows = [Row(f"u{n}", width=n, mtime=n, metadata={"label": f"l{n % 3}"}) for n in range(40)]
    index = Index.create(path, ModelIdentity("pe-nano", "0" * 16, "standard", 8))
    index.append(rows[:25], vectors[:25])
    index.append(rows[25:], vectors[25:])
    index.delete([rows[3].id])
    OutcomeLog(index.path).append([Outcome(row.uri, "embedded") for row in rows], "run")
    return path


def read(path: Path) -> list[Any]:
    """All that an index answers."""
    index = Index.open(path)
    return [
        list(index.rows()),
        index.vectors().tolist(),
        index.search(NEAR, k=5),
        index.by_ids([Row("u7").id])[Row("u7").id][0],
        list(index.rows(where="width > 20 AND label = 'l1'")),
        len(index.known_rows()),
        index.needs_optimize(),
        describe_index(path).num_rows,
        dict(OutcomeLog(index.path).counts()),
    ]


def write(path: Path) -> None:
    index = Index.open(path)
    index.add([Row("u1"), Row("new")], NEAR)
    index.delete([Row("u2").id])
    index.optimize()


@pytest.fixture(scope="module")
def expected(whole: Path) -> list[Any]:
    return read(whole)


flips = st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
damages = st.one_of(
    flips.map(lambda flip: ("flip", *flip)),
    flips.map(lambda flip: ("zeros", *flip)),
    flips.map(lambda flip: ("cut", *flip)),
)


def damaged(data: bytes, how: str, place: float, change: int) -> bytes:
    start = int(place * len(data))
    if how == "cut":
        return data[:start]
    end = start + (1 if how == "flip" else change)
    changed = bytes([data[start] ^ change]) if how == "flip" else bytes(len(data[start:end]))
    return data[:start] + changed + data[end:]


def answers(copy: Path, ask: Callable[[Path], Any]) -> Any:
    """What comes of it; None for an error of ours, which names the index."""
    message = str(copy)
    try:
        return ask(copy)
    except ImageIndexError as err:
        message = str(err)
        return None
    finally:
        assert str(copy) in message


def newest(folder: Path) -> Path:
    """A manifest's name counts down."""
    return min((folder / "_versions").glob("*.manifest"))


def copied(whole: Path) -> Path:
    copy = whole.parent / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
    return copy


@settings(max_examples=FEWER)
@given(damage=damages)
def test_a_damaged_manifest_never_gives_a_wrong_answer(
    whole: Path, expected: list[Any], damage: tuple[str, float, int]
) -> None:
    copy = copied(whole)
    newest(copy).write_bytes(damaged(newest(copy).read_bytes(), *damage))
    assert answers(copy, read) in (None, expected)
    answers(copy, write)


@settings(max_examples=FEWER)
@given(damage=damages, is_outcomes=st.booleans())
def test_a_damaged_manifest_that_is_not_in_the_journal_is_no_traceback(
    whole: Path, damage: tuple[str, float, int], is_outcomes: bool
) -> None:
    """It was committed by another program, or by an earlier version of this package."""
    copy = copied(whole)
    (copy / "_pe" / "journal").unlink()
    manifest = newest(copy / "_pe" / "outcomes.lance" if is_outcomes else copy)
    manifest.write_bytes(damaged(manifest.read_bytes(), *damage))
    answers(copy, read)
    answers(copy, write)


@settings(max_examples=FEWER)
@given(damage=damages, pick=st.integers(0, 99))
def test_any_other_damaged_file_is_no_traceback(
    whole: Path, damage: tuple[str, float, int], pick: int
) -> None:
    copy = copied(whole)
    files = sorted(file for file in copy.rglob("*") if file.is_file())
    chosen = files[pick % len(files)]
    chosen.write_bytes(damaged(chosen.read_bytes(), *damage))
    answers(copy, read)
    answers(copy, write)


@given(damage=damages)
def test_a_damaged_background_is_none_or_as_it_was(
    background: tuple[Index, NullDistribution], damage: tuple[str, float, int]
) -> None:
    index, stored = background
    file = Path(index.path, "_pe", "background.npz")
    kept = file.read_bytes()
    file.write_bytes(damaged(kept, *damage))
    try:
        found = load_null_distribution(index)
    finally:
        file.write_bytes(kept)
    if found is not None:
        for name in NullDistribution.__slots__:
            np.testing.assert_array_equal(getattr(found, name), getattr(stored, name))


@pytest.fixture(scope="module")
def background(tmp_path_factory: pytest.TempPathFactory) -> tuple[Index, NullDistribution]:
    path = tmp_path_factory.mktemp("background") / "t"
    vectors = np.random.default_rng(0).standard_normal((60, 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    index = Index.create(path, ModelIdentity("pe-nano", "0" * 16, "standard", 8))
    index.add([Row(f"u{number}") for number in range(60)], vectors)
    made = NullDistribution.of(index, vectors[:20])
    store_null_distribution(index, made)
    return index, made
