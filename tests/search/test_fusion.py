"""Searches by text, alone and fused with an embedding, on indexes whose answers are known."""

from pathlib import Path

import numpy as np
import pytest

from perception_encoder.errors import QueryError
from perception_encoder.index import Index, Row
from perception_encoder.index.full_text import TextQuery
from perception_encoder.search import Query, SearchOptions, SearchResult
from perception_encoder.search.calibration import Calibration, Cutoffs
from perception_encoder.search.fusion import search
from perception_encoder.types import Embeddings, ModelIdentity

E = 8
CAPTIONS = ("a dog", "a cat", "a dog and a cat", "a boat", "dog dog dog")


def fan(count: int) -> Embeddings:
    """Unit vectors whose cosine with the first falls with their number."""
    angles = np.linspace(0, np.pi / 2, count)
    vectors = np.zeros((count, E), np.float32)
    vectors[:, 0], vectors[:, 1] = np.cos(angles), np.sin(angles)
    return vectors


def make_index(folder: Path, captions: list[str]) -> Index:
    index = Index.create(folder / "t.lance", ModelIdentity("m", "f", "standard", E))
    rows = [
        Row(f"/p/{number:05}.png", width=number, metadata={"caption": caption})
        for number, caption in enumerate(captions)
    ]
    index.append(rows, fan(len(captions)))
    return index


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return make_index(tmp_path_factory.mktemp("fusion"), [CAPTIONS[n % 5] for n in range(50)])


FIRST = Query((), fan(2)[0])


def numbers(found: list[SearchResult]) -> list[int]:
    return [int(Path(one.uri).stem) for one in found]


def both(index: Index, text: str, weight: float = 0.5, **options: object) -> list[SearchResult]:
    return search(
        index,
        FIRST,
        SearchOptions(**options),  # type: ignore[arg-type]
        text=TextQuery.parse(text),
        text_weight=weight,
    )


def test_a_text_alone_is_ranked_by_bm25(index: Index) -> None:
    found = search(index, None, SearchOptions(k=50), text=TextQuery.parse("dog"))
    assert {CAPTIONS[number % 5] for number in numbers(found)} == {
        "a dog", "a dog and a cat", "dog dog dog"
    }  # fmt: skip
    assert CAPTIONS[numbers(found)[0] % 5] == "dog dog dog"
    assert {one.kind for one in found} == {"bm25"}
    assert all(one.score == one.text_score > 0 and one.cosine is None for one in found)
    assert all(one.label is None for one in found)


def test_fused_scores_are_those_of_reciprocal_rank_fusion(index: Index) -> None:
    found = both(index, "boat", k=50)
    scores = {number: one.score for number, one in zip(numbers(found), found, strict=True)}
    for number in range(50):
        # All boats have one score, and so the first rank.
        text = 0.5 / 61 if CAPTIONS[number % 5] == "a boat" else 0.0
        assert scores[number] == pytest.approx(61 * (0.5 / (61 + number) + text))
    assert numbers(found)[:2] == [3, 8]
    assert {one.kind for one in found} == {"fusion"}
    cosines = [one.cosine for one in sorted(found, key=lambda one: one.uri)]
    assert cosines == pytest.approx(fan(50)[:, 0].tolist(), abs=1e-3)


def test_the_weight_chooses_between_the_rankings(index: Index) -> None:
    assert numbers(both(index, "boat", 0.0, k=50)) == list(range(50))
    assert all(CAPTIONS[number % 5] == "a boat" for number in numbers(both(index, "boat", 1.0)))
    with pytest.raises(ValueError, match="from 0 to 1"):
        both(index, "boat", 1.5)


def test_pages_are_cut_from_one_list(index: Index) -> None:
    everything = numbers(both(index, "dog boat", k=50))
    pages = [numbers(both(index, "dog boat", k=7, offset=offset)) for offset in range(0, 50, 7)]
    assert [number for page in pages for number in page] == everything


def test_conditions_and_thresholds_hold_for_both(index: Index) -> None:
    found = both(index, "boat", where="width < 20", k=50)
    assert sorted(numbers(found)) == list(range(20))
    high = both(index, "boat", threshold=0.9, k=50)
    assert sorted(numbers(high)) == [n for n in range(50) if fan(50)[n, 0] >= 0.9]
    with pytest.raises(QueryError, match="a threshold is a cosine"):
        search(index, None, SearchOptions(threshold=0.9), text=TextQuery.parse("boat"))


def test_near_duplicates_are_folded(index: Index) -> None:
    found = both(index, "boat", unique=0.95, k=50)
    assert sorted(len(one.also) + 1 for one in found)[-1] > 1
    assert sum(len(one.also) + 1 for one in found) == 50
    alone = search(index, None, SearchOptions(unique=0.95), text=TextQuery.parse("boat"))
    assert sum(len(one.also) + 1 for one in alone) == 10


def test_own_items_are_left_out(index: Index) -> None:
    own = Query((), FIRST.vector, own=frozenset([Row("/p/00003.png").id]))
    found = search(
        index, own, SearchOptions(k=50), text=TextQuery.parse("boat"), leave_out_own=True
    )
    assert sorted(numbers(found)) == [n for n in range(50) if n != 3]


def test_a_word_of_thousands_of_rows_does_not_hide_the_nearest(tmp_path: Path) -> None:
    """All rows hold the word, many more than are read of either ranking."""
    index = make_index(tmp_path, ["italy"] * 1500)
    for _ in range(2):
        assert numbers(both(index, "italy", k=20)) == list(range(20))
        index.update_full_text()


class FixedCutoffs(Calibration):
    """The same cutoffs for every query."""

    def __init__(self) -> None:
        """Keep no null distribution."""

    def cutoffs(self, query: Query) -> Cutoffs:  # noqa: ARG002  as in the class above
        """See `Calibration`."""
        return Cutoffs(strong=0.9, weak=0.5)


def test_labels_come_from_the_cosines(index: Index) -> None:
    options = SearchOptions(k=50, threshold="weak")
    boat = TextQuery.parse("boat")
    found = search(index, FIRST, options, text=boat, calibration=FixedCutoffs())
    assert {one.label for one in found} == {"strong", "weak"}
    assert all((one.label == "strong") == ((one.cosine or 0) >= 0.9) for one in found)
    assert min(one.cosine or 0 for one in found) >= 0.5


def test_something_has_to_be_searched_for(index: Index) -> None:
    with pytest.raises(ValueError, match="a query, or a text"):
        search(index, None, SearchOptions())


def test_the_files_of_one_shot_are_one_hit_of_a_text_too(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "t.lance", ModelIdentity("m", "f", "standard", E))
    names = ("boat.jpg", "boat.cr2", "car.jpg")
    rows = [Row(f"/p/{name}", metadata={"caption": Path(name).stem}) for name in names]
    index.append(rows, np.eye(3, E, dtype=np.float32))
    boat = TextQuery.parse("boat")
    for query in (None, Query((), np.eye(E, dtype=np.float32)[0])):
        found = search(index, query, SearchOptions(k=2), text=boat)
        assert [Path(hit.uri).name for hit in (found[0].hit, *found[0].also)] == list(names[:2])
    apart = search(index, None, SearchOptions(pairs=False), text=boat)
    assert {Path(one.uri).name for one in apart} == set(names[:2])
