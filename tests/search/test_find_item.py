import unicodedata
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.errors import QueryError
from perception_encoder.index import Index, Row, row_id
from perception_encoder.search.queries import find_item
from perception_encoder.types import ModelIdentity

ROWS = [
    Row("/a/cat.webp"),
    Row("/a/black-cat.webp"),
    Row("/b/100%_x.png"),
    Row("/b/it's.png"),
    Row("/c/shard.tar", "m/1.jpg"),
    Row("/c/shard.tar", "m/2.jpg"),
    Row("/d/日本.png"),
    Row("https://h/x.png?a=1"),
    *(Row(f"/many/{n}/same.png") for n in range(9)),
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    path = tmp_path_factory.mktemp("names") / "t.lance"
    opened = Index.create(path, ModelIdentity("m", "f", "standard", len(ROWS)))
    opened.add(ROWS, np.eye(len(ROWS), dtype=np.float32))
    return opened


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("/a/cat.webp", 0),
        ("a/cat.webp", 0),
        ("cat.webp", 0),  # a whole file name wins over the end of another
        ("black-cat.webp", 1),
        ("ck-cat.webp", 1),
        ("100%_x.png", 2),
        ("_x.png", 2),
        ("it's.png", 3),
        ("shard.tar/m/2.jpg", 5),
        ("2.jpg", 5),
        ("日本.png", 6),
        ("x.png?a=1", 7),
        ("https://h/x.png?a=1", 7),
        ("/many/3/same.png", 11),
        (ROWS[4].id, 4),
    ],
)
def test_an_item_is_found_by_what_its_name_ends_in(index: Index, name: str, number: int) -> None:
    row, vector = find_item(index, name)
    assert row == ROWS[number]
    assert int(vector.argmax()) == number


def test_the_path_from_the_current_folder_names_an_item(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    index.add([Row(str(tmp_path / "same.png"))], np.eye(len(ROWS), dtype=np.float32)[:1])
    assert find_item(index, "same.png")[0].uri == str(tmp_path / "same.png")
    index.delete([row_id(str(tmp_path / "same.png"))])


def test_a_name_that_could_be_several_items_lists_them(index: Index) -> None:
    with pytest.raises(QueryError, match="several items") as refused:
        find_item(index, "same.png")
    listed = [line.split() for line in str(refused.value).splitlines()[1:]]
    assert len(listed) == 6
    assert listed[-1] == ["…"]
    for at_id, name in listed[:5]:
        assert find_item(index, at_id.removeprefix("@"))[0].name == name
    with pytest.raises(QueryError, match="several items"):
        find_item(index, "webp")


@pytest.mark.parametrize("name", ["dog.webp", "%cat.webp", "CAT.WEBP", "0" * 32, "x' OR '1'='1"])
def test_a_name_of_no_item_is_refused(index: Index, name: str) -> None:
    with pytest.raises(QueryError, match="no item whose name ends in"):
        find_item(index, name)


@pytest.mark.parametrize("typed", ["NFC", "NFD"])
@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("name", ["/fotos/años/café.png", "años/café.png", "café.png", "fé.png"])
def test_a_name_is_found_in_whichever_unicode_form_it_was_typed(
    tmp_path: Path, name: str, typed: str, stored: str
) -> None:
    index = Index.create(tmp_path / "t", ModelIdentity("m", "f", "standard", 4))
    uri = unicodedata.normalize(stored, "/fotos/años/café.png")
    index.add([Row("/other.png"), Row(uri)], np.eye(4, dtype=np.float32)[:2])
    row, vector = find_item(index, unicodedata.normalize(typed, name))
    assert row.uri == uri
    assert vector.tolist() == [0, 1, 0, 0]


def test_a_name_whose_folders_have_several_unicode_forms_is_found(tmp_path: Path) -> None:
    """As when a folder was made on one system, and its files copied from another."""
    index = Index.create(tmp_path / "t", ModelIdentity("m", "f", "standard", 4))
    mixed = unicodedata.normalize("NFC", "/años/") + unicodedata.normalize("NFD", "café.png")
    index.add([Row("/other.png"), Row(mixed)], np.eye(4, dtype=np.float32)[:2])
    for form in ("NFC", "NFD"):
        typed = unicodedata.normalize(form, "/años/café.png")
        assert find_item(index, typed)[0].uri == mixed
        assert find_item(index, typed[1:])[0].uri == mixed


def test_two_items_that_only_unicode_forms_tell_apart_are_told_apart_by_a_whole_name(
    tmp_path: Path,
) -> None:
    index = Index.create(tmp_path / "t", ModelIdentity("m", "f", "standard", 4))
    forms = [unicodedata.normalize(form, "/a/café.png") for form in ("NFC", "NFD")]
    index.add([Row(form) for form in forms], np.eye(4, dtype=np.float32)[:2])
    assert [find_item(index, form)[0].uri for form in forms] == forms
    with pytest.raises(QueryError, match="could be several items"):
        find_item(index, "café.png")


def test_a_name_that_is_no_unicode_is_no_item(index: Index) -> None:
    with pytest.raises(QueryError, match="not valid Unicode"):
        find_item(index, "caf\udce9.png")
