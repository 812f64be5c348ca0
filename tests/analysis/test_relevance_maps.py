"""Relevance maps over their image."""

import numpy as np
import pytest
from PIL import Image

from perception_encoder.analysis.relevance_maps import MAX_TEXTS, draw_relevance, overlay
from perception_encoder.embedder.relevance import Relevance

GRAY = Image.new("RGB", (80, 40), (120, 120, 120))


def relevance(*maps, region=(0.0, 0.0, 1.0, 1.0)):
    values = np.array(maps, np.float32)
    return Relevance(values, np.zeros(len(values), np.float32), region)


def test_red_raises_and_blue_lowers():
    values = np.array([[1.0, -1.0]], np.float32)
    colored = np.asarray(overlay(GRAY, values, (0, 0, 1, 1), 1.0)).astype(int)
    assert (colored[:, 5, 0] - colored[:, 5, 2]).min() > 80
    assert (colored[:, -5, 2] - colored[:, -5, 0]).min() > 80


def test_what_the_map_does_not_cover_stays_gray():
    colored = np.asarray(overlay(GRAY, np.ones((2, 2), np.float32), (0.25, 0, 0.75, 1), 1.0))
    outside, inside = colored[:, :19], colored[:, 22:58]
    assert np.ptp(outside.astype(int), axis=-1).max() == 0
    assert np.ptp(inside.astype(int), axis=-1).min() > 50


def test_panels_share_one_scale():
    figure = draw_relevance(GRAY, relevance([[0.1]], [[0.01]]), ["strong", "weak"], side=80)
    strong = figure.getpixel((16 + 40, 16 + 20))
    weak = figure.getpixel((16 + 80 + 40 + 40, 16 + 20))
    assert strong[0] - strong[2] > 2 * (weak[0] - weak[2]) > 0


def test_many_texts_are_in_rows_and_a_map_of_zeros_has_no_color():
    maps = [[[0.0]]] * MAX_TEXTS
    wide = draw_relevance(GRAY, relevance(*maps), ["a text of several words"] * MAX_TEXTS, side=80)
    one = draw_relevance(GRAY, relevance([[0.0]]), ["a"], side=80)
    assert wide.height > 3 * one.height - 3 * 80
    pixels = np.asarray(wide.crop((20, 20, 60, 50))).astype(int)
    assert np.ptp(pixels, axis=-1).max() == 0


@pytest.mark.parametrize("texts", [[], ["a"], ["a"] * 3, ["a"] * (MAX_TEXTS + 1)])
def test_a_wrong_number_of_texts_is_refused(texts):
    with pytest.raises(ValueError, match=f"{len(texts)} texts and 2 maps"):
        draw_relevance(GRAY, relevance([[0.1]], [[0.1]]), texts)
