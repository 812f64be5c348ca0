"""The model card's scores section."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from training.pe_nano.report import BEGIN, END, NUM_EXAMPLES, examples, fill, main

CARD = f"# pe-nano\n\nbefore\n\n{BEGIN}\nold numbers\n{END}\n\nafter\n"


def scores(num_confusions: int) -> dict:
    values = {"image_to_text_top1": 0.25, "text_to_image_top1": 0.2, "top1": 0.225,
              "image_to_text_top5": 0.5, "text_to_image_top5": 0.4, "top5": 0.45}  # fmt: skip
    confusions = [{"drawing": f"drawing {i}", "taken_for": "cat"} for i in range(num_confusions)]
    held_out = {"drawings": 1914, **values, "confusions": confusions}
    trained = {"drawings": 1652, **values, "top1": 0.9, "confusions": []}
    return {"held_out_openmoji": held_out, "trained_noto": trained}


def test_the_section_is_replaced_and_the_rest_stays() -> None:
    card = fill(CARD, scores(40))

    assert "old numbers" not in card
    assert card.startswith("# pe-nano\n\nbefore\n\n")
    assert card.endswith(f"{END}\n\nafter\n")
    assert "| openmoji, held out | 1914 | 0.200 | 0.400 | 0.250 | 0.500 | 0.225 | 0.450 |" in card
    assert "| noto, trained on | 1652 |" in card
    assert "40 of the 1914 held-out drawings" in card
    assert card.count("| cat |") == NUM_EXAMPLES
    assert fill(card, scores(40)) == card


@pytest.mark.parametrize("count", [0, 1, 5, 11, 12, 13, 23, 24, 1500])
def test_examples_are_spread_evenly(count: int) -> None:
    confusions = scores(count)["held_out_openmoji"]["confusions"]
    positions = [confusions.index(chosen) for chosen in examples(confusions)]
    steps = {b - a for a, b in pairwise(positions)}

    assert len(positions) == min(count, NUM_EXAMPLES)
    assert len(steps) <= 1


def test_nothing_confused_is_said_too() -> None:
    assert "0 of the 1914 held-out drawings" in fill(CARD, scores(0))


def test_a_card_without_the_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="section between"):
        fill("# pe-nano", scores(1))


def test_the_command_writes_the_card(tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text(json.dumps(scores(3)))
    card = tmp_path / "MODEL_CARD.md"
    card.write_text(CARD)

    main(["--scores", str(tmp_path / "scores.json"), "--card", str(card)])

    assert card.read_text() == fill(CARD, scores(3))


def test_the_repository_s_own_card_has_the_section() -> None:
    card = Path(__file__).parents[2] / "MODEL_CARD.md"

    assert fill(card.read_text(encoding="utf-8"), scores(2))
