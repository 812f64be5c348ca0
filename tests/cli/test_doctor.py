"""`pe doctor`: its golden check, and how it tells what is wrong with an index."""

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from cli.command import pe

from perception_encoder.cli.doctor import compare_golden
from perception_encoder.index import Index, Row
from perception_encoder.types import ModelIdentity


@pytest.mark.parametrize(
    ("noise", "is_right", "words"),
    [(0.0, True, "identical"), (0.003, True, "another encoding"), (0.05, False, "NOT")],
)
def test_the_verdict_tells_equal_near_and_wrong_apart(
    noise: float, is_right: bool, words: str
) -> None:
    path = files("perception_encoder").joinpath("data/golden/pe_core_b16_dog.json")
    expected = np.array(json.loads(path.read_text())["values"], np.float32)
    assert expected.shape == (1024,)
    assert np.linalg.norm(expected) == pytest.approx(1, abs=1e-4)
    disturbed = expected + np.random.default_rng(0).normal(0, noise, 1024)
    vector = (disturbed / np.linalg.norm(disturbed)).astype(np.float32)
    verdict = compare_golden(vector, expected, 1e-3)
    assert verdict[0] is is_right
    assert words in verdict[1]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    made = Index.create(tmp_path / "t", ModelIdentity("pe-nano", "0" * 16, "standard", 4))
    made.add([Row("a"), Row("b")], np.eye(4, dtype=np.float32)[:2])
    return tmp_path / "t"


def test_an_index_that_is_whole_is_told_so(index: Path) -> None:
    done = pe("doctor", "--index", "t", folder=index.parent)
    assert done.returncode == 0
    assert "2 rows in 1 files are unchanged; 1 files match" in done.stderr
    assert done.stdout == ""


def test_an_index_that_is_damaged_is_told_with_what_to_do_and_exit_code_1(index: Path) -> None:
    (file,) = (index / "data").iterdir()
    data = bytearray(file.read_bytes())
    data[10] ^= 4
    file.write_bytes(data)
    done = pe("doctor", "--index", "t", folder=index.parent)
    assert done.returncode == 1
    assert f"data/{file.name} (2 rows): not as it was written" in done.stdout
    assert "back from a copy" in done.stdout
    assert "1 problems" in done.stderr
    done = pe("doctor", "--index", "t", "--json", folder=index.parent)
    assert done.returncode == 1
    (problem,) = json.loads(done.stdout)["problems"]
    assert problem["place"] == f"data/{file.name}"
    assert problem["num_rows"] == 2


def test_where_no_index_is_the_doctor_says_so(tmp_path: Path) -> None:
    done = pe("doctor", "--index", "none", folder=tmp_path)
    assert done.returncode == 1
    assert "there is no index at none" in done.stderr
