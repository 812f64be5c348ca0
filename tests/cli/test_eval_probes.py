"""`pe eval linear-probe` and `knn`, and results that CLIP_benchmark's table builder reads."""

import csv
import json
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from perception_encoder.analysis.probing import (
    probe_linearly,
    split_examples,
    vote_by_neighbors,
)
from perception_encoder.cli.main import app
from perception_encoder.vectors import normalize_rows

GALLERY = files("perception_encoder") / "data" / "gallery"
KINDS = {
    "animal": ["cat", "dog", "camel", "bear", "butterfly", "bee"],
    "vehicle": ["bus", "ambulance", "airplane", "bicycle", "bullet-train", "sailboat"],
}

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two kinds of drawings: four of each to learn from, two to measure with."""
    root = tmp_path_factory.mktemp("probes")
    for kind, names in KINDS.items():
        for part, chosen in (("train", names[:4]), ("test", names[4:])):
            (root / part / kind).mkdir(parents=True)
            for name in chosen:
                source = GALLERY / f"{name}.webp"
                if source.is_file():
                    shutil.copy(str(source), root / part / kind)
    return root


@pytest.fixture
def evaluate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(folder)

    def run(*arguments: str, returns: int = 0) -> Result:
        done = CliRunner().invoke(app, ["eval", *arguments])
        assert done.exit_code == returns, done.output
        return done

    return run


def records(done: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("command", ["linear-probe", "knn"])
def test_kinds_of_drawings_are_learned_from_examples(evaluate: Run, command: str) -> None:
    (found,) = records(evaluate(command, "train", "--test", "test", "--json"))
    assert found["task"] == command.replace("-", " ")
    assert found["examples"] == 8
    assert found["labels"] == 2
    assert found["top1"]["value"] >= 0.75
    assert "top-1" in evaluate(command, "train", "--test", "test").stdout


def test_without_a_test_source_a_part_of_each_class_is_held_out(evaluate: Run) -> None:
    (found,) = records(evaluate("knn", "train", "--json"))
    assert (found["images"], found["examples"]) == (2, 6)


def test_what_is_measured_with_is_not_learned_from(evaluate: Run, folder: Path) -> None:
    shutil.copytree(folder / "test", folder / "more" / "test")
    shutil.copy(folder / "train" / "animal" / "cat.webp", folder / "more" / "test" / "animal")
    done = evaluate("knn", "train", "--test", "more/test", "--json")
    assert records(done)[0]["examples"] == 7
    assert "not learned from, because it is measured with: 1 image" in done.stderr


def test_classes_without_examples_are_left_out(evaluate: Run, folder: Path) -> None:
    shutil.copytree(folder / "test", folder / "strange")
    (folder / "strange" / "vehicle").rename(folder / "strange" / "plant")
    done = evaluate("knn", "train", "--test", "strange", "--json")
    assert "2 images of classes without examples left out: plant" in done.stderr
    shutil.rmtree(folder / "strange" / "animal")
    done = evaluate("knn", "train", "--test", "strange", returns=1)


def test_results_are_read_by_the_table_builder_of_clip_benchmark(
    evaluate: Run, folder: Path
) -> None:
    evaluate("linear-probe", "train", "--test", "test", "-o", "results")
    evaluate("knn", "train", "--test", "test", "-o", "results")
    evaluate("classification", "test", "-o", "results")
    (folder / "captions.csv").write_text("image,caption\ntest/animal/bee.webp,a bee\n")
    evaluate("retrieval", "captions.csv", "-o", "results")
    rows = build_table(folder / "results")
    tasks = {row["task"]: row for row in rows}
    assert set(tasks) == {
        "linear_probe",
        "knn",
        "zeroshot_classification",
        "zeroshot_retrieval",
    }
    assert all(row["model"] == "pe-nano" and row["language"] == "en" for row in rows)
    assert all(row["model_fullname"].startswith("pe-nano ") for row in rows)
    assert tasks["linear_probe"]["dataset"] == "test"
    assert 0 <= tasks["linear_probe"]["lp_acc1"] <= 1
    assert 0 <= tasks["zeroshot_classification"]["mean_per_class_recall"] <= 1
    assert tasks["zeroshot_retrieval"]["image_retrieval_recall@5"] == 1


def build_table(folder: Path) -> list[dict[str, Any]]:
    """Do what `clip_benchmark build` does: one row from each file (its cli.py, `main_build`)."""
    rows, names = [], set()
    for path in folder.glob("*.json"):
        data = json.loads(path.read_text())
        row = {**data["metrics"], **data}
        del row["metrics"]
        row["model_fullname"] = row["model"] + " " + row["pretrained"]
        names |= row.keys()
        rows.append(row)
    with (folder / "table.csv").open("w", newline="") as file:
        csv.DictWriter(file, fieldnames=sorted(names)).writerows(rows)
    return rows


def test_a_folder_that_is_a_file_is_refused(evaluate: Run, folder: Path) -> None:
    (folder / "taken").write_text("")
    assert "is a file" in evaluate("knn", "train", "-o", "taken", returns=2).output


def clusters(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    numbers = np.repeat([0, 1, 3], count)
    centers = np.eye(8, dtype=np.float32)[[0, 1, 3]].repeat(count, axis=0)
    noisy = centers + 0.2 * generator.standard_normal((3 * count, 8))
    return normalize_rows(noisy.astype(np.float32)), numbers


@pytest.mark.parametrize("score", [probe_linearly, vote_by_neighbors])
def test_scores_tell_clusters_apart(score: Any) -> None:
    examples, numbers = clusters(20, 0)
    images, truth = clusters(30, 1)
    scores = score(examples, numbers, 5, images)
    assert scores.shape == (90, 5)
    assert scores.dtype == np.float32
    assert (scores.argmax(axis=1) == truth).mean() > 0.95
    assert (scores[:, [2, 4]] <= scores[:, [0, 1, 3]].min(axis=1, keepdims=True)).all()


def test_two_labels_have_a_logit_each() -> None:
    examples, numbers = clusters(20, 0)
    scores = probe_linearly(examples[:40], numbers[:40], 2, examples[:40])
    assert (scores.argmax(axis=1) == numbers[:40]).all()
    np.testing.assert_allclose(scores[:, 0], -scores[:, 1])


def test_nearer_neighbors_count_more() -> None:
    examples = normalize_rows(np.array([[1, 0], [0.6, 0.8], [0.6, 0.81]], np.float32))
    votes = vote_by_neighbors(
        examples, np.array([0, 1, 1]), 2, np.array([[1, 0]], np.float32), k=50
    )
    weights = np.exp(examples @ [1, 0] / 0.07)
    expected = [weights[0], weights[1:].sum()] / weights.sum()
    np.testing.assert_allclose(votes[0], expected, rtol=1e-4)
    assert votes[0, 0] > 0.98


def test_every_label_keeps_an_example() -> None:
    learned, held_out = split_examples(np.array([0] * 10 + [1] + [2] * 2))
    assert len(held_out) == 3
    assert {10} <= set(learned.tolist())
    assert sorted([*learned, *held_out]) == list(range(13))
