"""Relevance feedback: marks move a query, in Python and on the command line."""

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from cli.command import pe_ending

from perception_encoder import ImageIndex, QueryError
from perception_encoder.search.feedback import MAX_MARKS, refine_query
from perception_encoder.search.grammar import QueryTerm
from perception_encoder.search.queries import Query

GALLERY = Path(str(files("perception_encoder"))) / "data" / "gallery"
NAMES = (
    "red-heart", "blue-heart", "green-heart", "yellow-heart", "purple-heart", "red-circle",
    "blue-square", "cat", "dog", "horse", "cow", "red-apple", "red-car",
)  # fmt: skip


def _query(number, *, dim=8, key=""):
    return Query(
        (QueryTerm(1.0, "item", key or str(number)),),
        np.eye(dim, dtype=np.float32)[number],
        own=frozenset([key or str(number)]),
    )


def test_a_query_moves_towards_what_is_liked_and_away_from_the_rest():
    query, like, unlike = _query(0), [_query(1), _query(2)], [_query(3)]
    refined = refine_query(query, like, unlike)
    assert np.linalg.norm(refined.vector) == pytest.approx(1)
    assert refined.vector[0] > 0
    assert refined.vector[1] == refined.vector[2] > 0 > refined.vector[3]
    assert refined.own == {"0", "1", "2", "3"}
    assert [term.weight > 0 for term in refined.terms] == [True, True, True, False]


def test_more_liked_images_count_more_and_unliked_ones_alone_count_little():
    shares = []
    for count in (1, 4, 16):
        liked = [_query(1, key=str(n)) for n in range(count)]
        query, like = refine_query(_query(0), liked, []).vector[:2]
        shares.append(like / query)
    np.testing.assert_allclose(shares, [2, 4, 8], rtol=1e-5)
    away = refine_query(_query(0), [], [_query(1, key=str(n)) for n in range(9)]).vector
    assert 0 < -away[1] < away[0] / 4


@pytest.mark.parametrize(
    ("query", "like", "unlike", "why"),
    [
        (None, [], [], "empty"),
        (None, [_query(1)], [_query(1)], "liked and as unliked"),
        (None, [_query(1)] * (MAX_MARKS + 1), [], "limit"),
    ],
)
def test_wrong_marks_are_refused(query, like, unlike, why):
    with pytest.raises(QueryError, match=why):
        refine_query(query, like, unlike)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    index = ImageIndex(tmp_path_factory.mktemp("marks") / "t.lance", model="pe-nano")
    index.add(*(GALLERY / f"{name}.webp" for name in NAMES), show_progress=False)
    return index


def _stems(hits):
    return [Path(hit.uri).stem for hit in hits]


def test_marks_change_what_is_found(index):
    reds = _stems(index.search("red", k=4))
    hearts = _stems(
        index.search("red", k=4, like=["@blue-heart.webp", GALLERY / "green-heart.webp"])
    )
    assert set(hearts) == {"red-heart", "yellow-heart", "purple-heart", hearts[3]}
    assert set(reds) != set(hearts)
    without = _stems(index.search("red", k=20, unlike=["@red-heart.webp"]))
    assert "red-heart" not in without
    assert without.index("red-circle") < without.index("purple-heart")
    assert len(without) == len(NAMES) - 1
    with pytest.raises(ValueError, match="to be like"):
        index.search()
    fused = index.search(text="heart", like=["@cat.webp"], k=3)
    assert {hit.kind for hit in fused} == {"fusion"}


def test_several_marks_follow_an_option_of_the_command_line(index, tmp_path):
    def search(*arguments, returns=0):
        given = ("search", *arguments, "--index", index.path)
        return pe_ending(*given, folder=tmp_path, returns=returns)

    found = search("red", "--like", "@blue-heart.webp", "@green-heart.webp", "--json", "-k", "3")
    names = [Path(json.loads(line)["uri"]).stem for line in found.stdout.splitlines()]
    assert set(names) == {"red-heart", "yellow-heart", "purple-heart"}
    alone = search("--unlike", "@cat.webp", "--like", "@dog.webp", "@horse.webp", "--paths")
    assert Path(alone.stdout.splitlines()[0]).stem == "cow"
    assert "--like" in search("--like", "@cat.webp", "red", returns=2).stderr
    assert (
        "liked and as unliked"
        in search("--like", "@cat.webp", "--unlike", "@cat.webp", returns=1).stderr
    )
    assert "marks" in search("red", "--like", "@cat.webp", "--save", "x", returns=2).stderr
