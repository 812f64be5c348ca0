"""Indexes of a vision-only model and of its twin: one space, in both directions."""

from pathlib import Path

import pytest
from small_models import drawing, save_drawings
from twins import BOTH, REPO, VISION, Twins, register

from perception_encoder import AutoModel, ImageIndex
from perception_encoder.backends import ComputeOptions
from perception_encoder.errors import IndexMismatchError, UnsupportedOperationError
from perception_encoder.index import Index
from perception_encoder.search.query_model import open_index_model

OPTIONS = ComputeOptions(device="cpu", backend="torch", precision="fp32")


@pytest.fixture
def twins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Twins:
    return register(monkeypatch, tmp_path / "hub")


def image_index(path: Path, model: str) -> ImageIndex:
    return ImageIndex(path, model=model, device="cpu", backend="torch", precision="fp32")


@pytest.fixture(params=[VISION, BOTH])
def filled(request: pytest.FixtureRequest, twins: Twins, tmp_path: Path) -> Index:
    """An index of either model, with four images."""
    del twins  # registered before the model is named
    folder = tmp_path / "images"
    folder.mkdir()
    save_drawings(folder, 4)
    with image_index(tmp_path / "i.lance", request.param) as index:
        index.add(folder, show_progress=False)
    return Index.open(tmp_path / "i.lance")


def test_a_text_finds_the_same_whichever_of_the_twins_made_the_index(
    filled: Index, tmp_path: Path
) -> None:
    query = AutoModel.from_pretrained(BOTH).embed_text("cat")
    with ImageIndex(filled.path) as index:
        expected = [hit.uri for hit in index.search(query, k=4)]
        assert [hit.uri for hit in index.search("cat", k=4)] == expected
        (same,) = index.search(tmp_path / "images" / "drawing2.png", k=1)
        assert Path(same.uri).name == "drawing2.png"


@pytest.mark.parametrize("name", [VISION, BOTH])
def test_either_of_the_twins_extends_the_index(filled: Index, name: str, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    drawing(9).save(tmp_path / "more" / "more.png")
    with image_index(tmp_path / "i.lance", name) as index:
        report = index.add(tmp_path / "more", show_progress=False)
        assert report.counts["embedded"] == 1
        assert index.model.identity == filled.identity
        (best,) = index.search(drawing(9), k=1)
        assert best.uri.endswith("more.png")
        assert best.score == pytest.approx(1, abs=1e-3)
    with ImageIndex(tmp_path / "i.lance", AutoModel.from_pretrained(name)) as index:
        assert index.search(drawing(9), k=1)[0].uri == best.uri


def test_the_ids_do_not_count_where_the_vision_towers_differ(filled: Index, twins: Twins) -> None:
    made_by = filled.identity.model_id
    twins.write(seed=1)
    other = VISION if made_by == BOTH else BOTH
    with pytest.raises(IndexMismatchError, match=r"cannot be compared|with these weights"):
        open_index_model(filled, other, OPTIONS)


def test_another_preprocessing_is_another_space(filled: Index) -> None:
    other = VISION if filled.identity.model_id == BOTH else BOTH
    model = AutoModel.from_pretrained(other, preprocess="reference")
    with pytest.raises(IndexMismatchError, match="preprocessing reference"):
        ImageIndex(filled.path, model)


@pytest.mark.parametrize("filled", [BOTH], indirect=True)
def test_without_the_twins_file_its_index_takes_no_vision_tower(
    filled: Index, twins: Twins
) -> None:
    twins.remove(REPO)
    with pytest.raises(IndexMismatchError, match=f"{VISION}.*pe download {BOTH}"):
        open_index_model(filled, VISION, OPTIONS)


@pytest.mark.parametrize("filled", [VISION], indirect=True)
def test_images_are_searched_without_the_twin(filled: Index, twins: Twins) -> None:
    twins.remove(REPO)
    first, second, *_ = [row.id for row in filled.rows()]
    with ImageIndex(filled.path) as index:
        assert len(index.search(f"@{first} - @{second}", k=2)) == 2
        assert len(index.duplicates().groups) == 0
        assert len(index.cluster(2).found.images) == 4


@pytest.mark.parametrize("filled", [VISION], indirect=True)
def test_a_model_that_was_given_open_is_not_changed(filled: Index) -> None:
    model = AutoModel.from_pretrained(VISION)
    with (
        ImageIndex(filled.path, model) as index,
        pytest.raises(UnsupportedOperationError, match="attach_text_tower"),
    ):
        index.search("cat")
    model.attach_text_tower()
    assert len(ImageIndex(filled.path, model).search("cat", k=2)) == 2
