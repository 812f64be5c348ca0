"""Sentences for drawings."""

import pytest

from training.pe_nano.captions import COLORS, PLACES, TEMPLATES, Captioner, all_texts

CONCEPTS = [
    {"name": "dog", "tags": ["animal", "pet", "puppy"]},
    {"name": "red heart", "tags": []},
]
DOG = {"concept": 0, "name": "dog"}
HEART = {"concept": 1, "name": "red heart"}
CLIP_ART = {"concept": -1, "name": "windmill", "keywords": ["holland", "farm"]}


def many(item: dict, background: str | None = None, count: int = 400) -> list[str]:
    captioner = Captioner(CONCEPTS, seed=3)
    return [captioner.describe(item, background) for _ in range(count)]


def test_a_drawing_without_keywords_is_always_called_by_its_name() -> None:
    captions = many(HEART)

    assert all("red heart" in caption for caption in captions)
    assert set(captions) == {template.format("red heart") for template in TEMPLATES}


@pytest.mark.parametrize(
    ("item", "keywords"), [(DOG, {"animal", "pet", "puppy"}), (CLIP_ART, {"holland", "farm"})]
)
def test_keywords_join_the_name_or_stand_alone_now_and_then(item: dict, keywords: set) -> None:
    captions = many(item)
    alone = [c for c in captions if item["name"] not in c]
    joined = [c for c in captions if c.startswith(f"{item['name']}, ")]

    assert 0.02 < len(alone) / len(captions) < 0.15
    assert 0.05 < len(joined) / len(captions) < 0.25
    assert {word for caption in alone for word in caption.split(", ")} == keywords


def test_the_background_is_named_about_half_the_time_and_only_where_there_is_one() -> None:
    named = [caption.endswith(" on a blue background") for caption in many(DOG, "blue")]

    assert 0.4 < sum(named) / len(named) < 0.6
    assert not any("background" in caption for caption in many(DOG))


def test_above_means_above_and_left_means_beside() -> None:
    captioner = Captioner(CONCEPTS, seed=5)
    scenes = [captioner.scene("dog", "cat") for _ in range(200)]

    assert {is_vertical for text, is_vertical in scenes if "above" in text} == {True}
    assert {is_vertical for text, is_vertical in scenes if "left of" in text} == {False}
    assert {is_vertical for text, is_vertical in scenes if " and " in text} == {True, False}
    assert {text for text, _ in scenes} == {text.format("dog", "cat") for text, _ in PLACES}


def test_the_same_seed_writes_the_same_captions() -> None:
    assert many(DOG, "red") == many(DOG, "red")


def test_the_vocabulary_is_learned_from_every_name_keyword_and_color() -> None:
    texts = all_texts(CONCEPTS, [DOG, CLIP_ART])

    assert {"dog", "red heart", "puppy", "windmill", "holland"} <= set(texts)
    assert all(any(color in text for text in texts) for color in COLORS)
