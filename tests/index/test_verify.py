"""`verify_index` finds whatever is not as it was written, and says which rows it is about."""

import shutil
from collections.abc import Callable
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from perception_encoder.errors import IndexNotFoundError
from perception_encoder.index import Index, Outcome, OutcomeLog, Row
from perception_encoder.index.commits import files_of
from perception_encoder.index.optimize import optimize_index
from perception_encoder.index.searcher.build import SearcherSizes
from perception_encoder.index.verify import VerifyReport, verify_index
from perception_encoder.types import ModelIdentity

EMBED_DIM = 16


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two fragments, one with a deletion; a searcher; outcomes."""
    path = tmp_path_factory.mktemp("verify") / "t"
    index = Index.create(path, ModelIdentity("pe-nano", "0" * 16, "standard", EMBED_DIM))
    vectors = np.random.default_rng(0).standard_normal((300, EMBED_DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = [Row(f"u{n}", width=n) for n in range(300)]
    index.append(rows[:200], vectors[:200])
    optimize_index(str(path), None, sizes=SearcherSizes(copy=1, lists=1 << 40))
    index.refresh()
    index.append(rows[200:], vectors[200:])
    index.delete([rows[0].id])
    OutcomeLog(index.path).append([Outcome("u1", "embedded")], "run")
    return path


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "t")
    return tmp_path / "t"


def flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def data_files(path: Path) -> list[Path]:
    return [path / name for name in files_of(lance.dataset(str(path))) if name.startswith("data")]


def test_an_index_that_is_whole_has_no_problems(path: Path) -> None:
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert verify_index(path) == VerifyReport(str(path), 299, 3, 3, has_searcher=True, problems=())
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_every_flipped_bit_of_the_data_is_found_with_its_rows(path: Path) -> None:
    """Lance itself reads many of them as other embeddings, without a word."""
    file = data_files(path)[1]
    kept = file.read_bytes()
    for place in range(0, len(kept), max(1, len(kept) // 60)):
        flip(file, place)
        problems = verify_index(path).problems
        file.write_bytes(kept)
        assert {problem.place for problem in problems} == {f"data/{file.name}"}
        problem = problems[0]
        assert problem.num_rows == 100
        named = {row.uri for row in Index.open(path).rows(where=problem.where)}
        assert named == {f"u{n}" for n in range(200, 300)}


def change_vectors(path: Path) -> None:
    """As another program could do."""
    dataset = lance.dataset(str(path))
    rows = dataset.to_table(filter="width IN (5, 6, 250)")
    place = rows.schema.get_field_index("vector")
    half = pa.array(np.full(3 * EMBED_DIM, 0.1, np.float16))
    rows = rows.set_column(
        place, rows.schema.field(place), pa.FixedSizeListArray.from_arrays(half, EMBED_DIM)
    )
    dataset.merge_insert("id").when_matched_update_all().execute(rows)


def change_names(path: Path) -> None:
    lance.dataset(str(path)).update({"uri": "'moved'"}, where="width = 7")


def add_twice(path: Path) -> None:
    dataset = lance.dataset(str(path))
    dataset.insert(dataset.to_table(filter="width IN (8, 9)"))


def cut_deletions(path: Path) -> None:
    (file,) = (path / "_deletions").iterdir()
    file.write_bytes(file.read_bytes()[:-8])


def lose_data(path: Path) -> None:
    data_files(path)[0].unlink()


def zero_page_of_searcher(path: Path) -> None:
    (file,) = (path / "_pe" / "searcher").glob("*.vectors")
    data = bytearray(file.read_bytes())
    data[4096:] = bytes(len(data) - 4096)
    file.write_bytes(data)


def break_searcher_header(path: Path) -> None:
    flip(path / "_pe" / "searcher" / "searcher.json", 40)


def break_outcomes(path: Path) -> None:
    (file,) = (path / "_pe" / "outcomes.lance" / "data").iterdir()
    file.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "place", "reason", "num_rows"),
    [
        (change_vectors, "data/", "embedding is not of unit length", 3),
        (change_names, "data/", "id is not that of their name", 1),
        (add_twice, "rows", "same id as another row", 2),
        (cut_deletions, "_deletions/", "not as it was written", 199),
        (lose_data, "data/", "missing", 199),
        (zero_page_of_searcher, "_pe/searcher/", "damaged at byte", 0),
        (break_searcher_header, "_pe/searcher/searcher.json", "damaged", 0),
        (break_outcomes, "_pe/outcomes.lance", "cannot be read", 0),
    ],
)
def test_what_is_damaged_is_named_with_what_to_do(
    path: Path, damage: Callable[[Path], None], place: str, reason: str, num_rows: int
) -> None:
    damage(path)
    found = verify_index(path)
    assert found.problems
    problem = found.problems[0]
    assert problem.place.startswith(place)
    assert reason in problem.reason
    assert problem.num_rows == num_rows
    assert str(path) in problem.remedy


def test_rows_that_were_changed_are_named(path: Path) -> None:
    change_vectors(path)
    (problem,) = verify_index(path).problems
    assert sorted(problem.names) == ["u250", "u5", "u6"]


def test_without_checksums_rows_are_looked_at_all_the_same(path: Path) -> None:
    (path / "_pe" / "journal").unlink()
    found = verify_index(path)
    assert (found.num_files, found.num_compared, found.problems) == (3, 0, ())
    change_vectors(path)
    assert [problem.num_rows for problem in verify_index(path).problems] == [3]


def test_optimizing_adds_the_checksums_that_are_missing(path: Path) -> None:
    (path / "_pe" / "journal").unlink()
    Index.open(path).optimize()
    found = verify_index(path)
    assert found.num_compared == found.num_files > 0


def test_an_index_that_cannot_be_opened_is_a_problem_and_none_is_an_error(
    path: Path, tmp_path: Path
) -> None:
    flip(min((path / "_versions").glob("*.manifest")), 100)
    (problem,) = verify_index(path).problems
    assert ".manifest is damaged" in problem.reason
    with pytest.raises(IndexNotFoundError):
        verify_index(tmp_path / "none")


def test_progress_tells_each_step_from_none_to_all(path: Path) -> None:
    steps: dict[str, list[tuple[int, int]]] = {}
    verify_index(path, lambda step, done, total: steps.setdefault(step, []).append((done, total)))
    assert list(steps) == ["files", "rows", "searcher"]
    for told in steps.values():
        done, totals = zip(*told, strict=True)
        assert list(done) == sorted(done)
        assert done[0] == 0
        assert done[-1] == totals[0] > 0
        assert len(set(totals)) == 1
