"""The golden check of `pe doctor`, on vectors near to and far from the recorded one."""

import json
from importlib.resources import files

import numpy as np
import pytest

from perception_encoder.cli.doctor import golden_verdict


@pytest.mark.parametrize(
    ("noise", "is_right", "words"),
    [(0.0, True, "the very vector"), (0.003, True, "another encoding"), (0.05, False, "NOT")],
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
    verdict = golden_verdict(vector, expected, 1e-3)
    assert verdict[0] is is_right
    assert words in verdict[1]
