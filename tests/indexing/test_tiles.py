"""Tiles: rows of parts of images, which come, change and go with their images."""

import shutil
import tarfile
from collections import Counter
from pathlib import Path

import lance
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_models import CORE, FP32_ON_CPU, CountingBackend, drawing, open_tiny

from perception_encoder import ImageIndex
from perception_encoder.backends import open_random_backend
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.errors import IndexMismatchError
from perception_encoder.index import Index, Outcome, OutcomeLog, row_id
from perception_encoder.index.full_text import TextQuery
from perception_encoder.index.tiles import TileGrid, image_member
from perception_encoder.indexing import MetadataRefresh, Run, RunOptions
from perception_encoder.preprocess import ImageProcessor
from perception_encoder.search import SearchOptions, SearchResult, read_queries
from perception_encoder.search.fusion import search
from perception_encoder.search.grammar import parse_query
from perception_encoder.search.ranking import search_index
from perception_encoder.sources import SourceOptions, open_sources, read_image
from perception_encoder.types import PreprocessName

GRID = TileGrid(2, 2)


@pytest.fixture(scope="module")
def model() -> EmbeddingModel:
    return open_tiny(backend=CountingBackend(open_random_backend(CORE, FP32_ON_CPU)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def index(tmp_path: Path, model: EmbeddingModel) -> Index:
    return Index.open_or_prepare(str(tmp_path / "t.lance"), model.identity)


def save_drawings(folder: Path, count: int) -> list[Path]:
    """Save images that are large enough for tiles."""
    paths = [folder / f"drawing{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        drawing(number, 48, 40).save(path)
    return paths


def run(model: EmbeddingModel, index: Index, *names: Path, **options: object) -> list[Outcome]:
    sources = open_sources([str(name) for name in names], SourceOptions())
    options = {"tiles": GRID, "batch_size": 8, **options}
    return list(Run(model, index, sources, RunOptions(**options)).outcomes())  # type: ignore[arg-type]


def statuses(outcomes: list[Outcome]) -> Counter[str]:
    return Counter(outcome.status for outcome in outcomes)


def stored_members(index: Index, uri: str) -> set[str]:
    """Members of all rows of a file, those of tiles among them."""
    table = lance.dataset(index.path).to_table(["uri", "member"]).to_pylist()
    return {row["member"] or "" for row in table if row["uri"] == uri}


def num_stored(index: Index) -> int:
    return lance.dataset(index.path).count_rows()


@given(
    columns=st.integers(1, 4), rows=st.integers(1, 4), width=st.integers(64, 900),
    height=st.integers(64, 900),
)  # fmt: skip
def test_the_tiles_of_an_image_cover_it_without_overlap(
    columns: int, rows: int, width: int, height: int
) -> None:
    if columns * rows < 2:
        return
    covered = np.zeros((height, width), np.uint8)
    for box in TileGrid(columns, rows).boxes(width, height):
        covered[box.y : box.y + box.height, box.x : box.x + box.width] += 1
    assert (covered == 1).all()


@pytest.mark.parametrize("text", ["2x2", "3X3", "1x2", "8×2", " 4x4 "])
def test_grids_are_columns_and_rows(text: str) -> None:
    assert TileGrid.parse(str(TileGrid.parse(text))) == TileGrid.parse(text)


@pytest.mark.parametrize("text", ["", "2", "1x1", "0x3", "9x1", "5x4", "-2x2", "2x2x2", "axb"])
def test_other_grids_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="2x2"):
        TileGrid.parse(text)


def test_an_image_has_a_row_and_each_of_its_tiles_another(
    model: EmbeddingModel, index: Index, folder: Path
) -> None:
    paths = save_drawings(folder, 5)
    assert statuses(run(model, index, folder)) == {"embedded": 5}
    assert index.count() == 5
    assert num_stored(index) == 25
    uri = str(paths[2])
    boxes = GRID.boxes(48, 40)
    members = {f"#xywh={box}" for box in boxes}
    assert stored_members(index, uri) == {"", *members}
    rows = index.by_ids([row_id(uri), *(row_id(uri, member) for member in members)])
    row, vector = rows[row_id(uri)]
    np.testing.assert_allclose(vector, model.embed_image(paths[2])[0], atol=1e-3)
    for box in boxes:
        tile, vector = rows[row_id(uri, f"#xywh={box}")]
        expected = model.embed_image(paths[2], crop=tuple(box))[0]
        np.testing.assert_allclose(vector, expected, atol=1e-3)
        assert (tile.width, tile.height, tile.sha256) == (row.width, row.height, row.sha256)
        assert tile.tile_of == row.id
        assert tile.name == f"{uri}#xywh={box}"
        assert read_image(tile.uri, tile.member) == paths[2].read_bytes()


@pytest.mark.parametrize("preprocess", ["standard", "reference", "fast"])
def test_the_row_of_an_image_is_the_same_without_tiles(
    preprocess: PreprocessName, tmp_path: Path, folder: Path
) -> None:
    processor = ImageProcessor(CORE.image, CORE.vision.image_size, preprocess=preprocess)
    model = open_tiny(processor=processor)
    drawing(3, 300, 200).save(folder / "a.jpg")
    vectors = []
    for name, tiles in (("with", GRID), ("without", None)):
        index = Index.open_or_prepare(str(tmp_path / name), model.identity)
        run(model, index, folder, tiles=tiles)
        vectors.append(index.vectors())
    np.testing.assert_array_equal(*vectors)


def test_a_small_image_has_no_tiles(model: EmbeddingModel, index: Index, folder: Path) -> None:
    drawing(1, 20, 20).save(folder / "a.png")
    assert statuses(run(model, index, folder)) == {"embedded": 1}
    assert num_stored(index) == 1
    assert statuses(run(model, index, folder)) == {"skipped": 1}


def test_unchanged_images_are_skipped_and_copies_need_no_model(
    model: EmbeddingModel, index: Index, folder: Path
) -> None:
    paths = save_drawings(folder, 3)
    run(model, index, folder)
    backend = model.backend
    assert isinstance(backend, CountingBackend)
    before = backend.num_images
    assert statuses(run(model, index, folder, tiles=None)) == {"skipped": 3}
    paths[0].rename(folder / "renamed.png")
    shutil.copy(paths[1], folder / "copy.png")
    done = run(model, index, folder, prune=True, tiles=None)
    assert statuses(done) == {"reused": 2, "skipped": 2, "pruned": 1}
    assert backend.num_images == before
    assert (index.count(), num_stored(index)) == (4, 20)
    for member in stored_members(index, str(paths[1])):
        original, copy = (
            index.by_ids([row_id(str(path), member or None)]).popitem()[1][1]
            for path in (paths[1], folder / "copy.png")
        )
        np.testing.assert_array_equal(original, copy)


def test_copies_in_one_run_are_embedded_once(
    model: EmbeddingModel, index: Index, folder: Path
) -> None:
    (path,) = save_drawings(folder, 1)
    for number in range(5):
        shutil.copy(path, folder / f"copy{number}.png")
    backend = model.backend
    assert isinstance(backend, CountingBackend)
    before = backend.num_images
    assert statuses(run(model, index, folder)) == {"embedded": 1, "reused": 5}
    assert backend.num_images == before + 5
    assert (index.count(), num_stored(index)) == (6, 30)


def test_another_image_at_the_same_path_has_other_tiles(
    model: EmbeddingModel, index: Index, folder: Path
) -> None:
    paths = save_drawings(folder, 2)
    run(model, index, folder)
    drawing(9, 64, 48).save(paths[0])
    assert statuses(run(model, index, folder)) == {"embedded": 1, "skipped": 1}
    members = {f"#xywh={box}" for box in GRID.boxes(64, 48)}
    assert stored_members(index, str(paths[0])) == {"", *members}
    assert num_stored(index) == 10


def test_tiles_go_with_their_image(model: EmbeddingModel, index: Index, folder: Path) -> None:
    paths = save_drawings(folder, 4)
    run(model, index, folder)
    paths[0].unlink()
    assert statuses(run(model, index, folder)) == {"skipped": 3, "vanished": 1}
    assert num_stored(index) == 20
    assert statuses(run(model, index, folder, prune=True)) == {"skipped": 3, "pruned": 1}
    assert (index.count(), num_stored(index)) == (3, 15)
    opened = ImageIndex(index.path, model)
    assert opened.remove(f"@{paths[1].name}") == 1
    assert opened.remove(where="uri LIKE '%drawing2%'") == 1
    assert (len(opened), num_stored(index)) == (1, 5)


def test_a_bad_image_fails_once_and_leaves_no_tiles(
    model: EmbeddingModel, index: Index, folder: Path
) -> None:
    (path,) = save_drawings(folder, 1)
    (folder / "bad.png").write_bytes(path.read_bytes()[:60])
    assert statuses(run(model, index, folder)) == {"embedded": 1, "failed": 1}
    assert num_stored(index) == 5
    assert [one.uri for one in OutcomeLog(index.path).latest(["failed"])] == [
        str(folder / "bad.png")
    ]


def test_an_interrupted_run_leaves_whole_images_and_goes_on(
    model: EmbeddingModel, index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_drawings(folder, 12)
    monkeypatch.setattr("perception_encoder.indexing.commit._ROWS_OF_A_COMMIT", 1)
    sources = open_sources([str(folder)], SourceOptions())
    outcomes = Run(model, index, sources, RunOptions(batch_size=8, tiles=GRID)).outcomes()
    next(outcomes)
    outcomes.close()
    done = index.count()
    assert done > 0
    assert num_stored(index) == 5 * done
    assert statuses(run(model, index, folder, tiles=None)) == (
        Counter(skipped=done) + Counter(embedded=12 - done)
    )
    assert (index.count(), num_stored(index)) == (12, 60)


def test_the_choice_is_remembered_and_cannot_change(
    model: EmbeddingModel, index: Index, folder: Path, tmp_path: Path
) -> None:
    save_drawings(folder, 2)
    run(model, index, folder)
    assert Index.open(index.path).tiles == GRID
    with pytest.raises(IndexMismatchError, match=r"tiles of 2x2.*--tiles 3x3 --index"):
        run(model, index, folder, tiles=TileGrid(3, 3))
    plain = Index.open_or_prepare(str(tmp_path / "plain"), model.identity)
    run(model, plain, folder, tiles=None)
    with pytest.raises(IndexMismatchError, match="has images with no tiles"):
        run(model, plain, folder)
    empty = Index.create(tmp_path / "empty", model.identity)
    run(model, empty, folder)
    assert (empty.count(), num_stored(empty)) == (2, 10)


def test_an_older_version_refuses_an_index_with_tiles(
    model: EmbeddingModel, index: Index, folder: Path
) -> None:
    save_drawings(folder, 1)
    run(model, index, folder)
    assert lance.dataset(index.path).schema.metadata[b"perception_encoder.format"] == b"2"


def test_members_of_archives_have_tiles(
    model: EmbeddingModel, index: Index, folder: Path, tmp_path: Path
) -> None:
    (path,) = save_drawings(tmp_path, 1)
    archive = folder / "a.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(path, "in/one.png")
    assert statuses(run(model, index, archive)) == {"embedded": 1}
    assert statuses(run(model, index, archive)) == {"skipped": 1}
    box = GRID.boxes(48, 40)[3]
    member = f"in/one.png#xywh={box}"
    assert member in stored_members(index, str(archive))
    ((tile, _),) = index.by_ids([row_id(str(archive), member)]).values()
    assert read_image(tile.uri, tile.member, tile.offset) == path.read_bytes()
    assert image_member(member) == "in/one.png"
    (query,) = read_queries(index, [parse_query("@one.png")], lambda: model)
    assert query.own == {row_id(str(archive), "in/one.png")}


class TestSearch:
    @pytest.fixture
    def filled(self, model: EmbeddingModel, index: Index, folder: Path) -> Index:
        """Images of one tile that differs from the others, and what it shows as an image."""
        for number in range(8):
            scene = drawing(number, 160, 120)
            scene.paste(drawing(50 + number, 80, 60), (80, 60))
            scene.save(folder / f"scene{number}.png")
        run(model, index, folder)
        return index

    def find(
        self, index: Index, model: EmbeddingModel, number: int, **options: object
    ) -> list[SearchResult]:
        part = model.embed_image(drawing(50 + number, 80, 60))
        (query,) = read_queries(index, [parse_query("@scene0.png")], lambda: model)
        query = type(query)((), part[0])
        (found,) = search_index(index, [query], SearchOptions(**options))  # type: ignore[arg-type]
        return list(found)

    def test_an_image_is_one_hit_for_its_best_part(
        self, filled: Index, model: EmbeddingModel, folder: Path
    ) -> None:
        found = self.find(filled, model, 3, k=100)
        assert len(found) == 8
        assert len({one.hit.id for one in found}) == 8
        best = found[0]
        assert best.uri == str(folder / "scene3.png")
        assert best.score == pytest.approx(1, abs=2e-3)
        assert best.box == (80, 60, 80, 60)
        assert (best.member, best.hit.id) == (None, row_id(best.uri))
        assert not set(best.metadata) & {"tile_of", "tile_x"}
        assert best.hit.shown_name == f"{best.uri}#xywh=80,60,80,60"
        assert best.also == ()

    def test_pages_hold_each_image_once(self, filled: Index, model: EmbeddingModel) -> None:
        whole = self.find(filled, model, 5, k=8)
        pages = [self.find(filled, model, 5, k=3, offset=offset) for offset in (0, 3, 6)]
        assert [one for page in pages for one in page] == whole

    def test_conditions_hold_for_tiles_too(self, filled: Index, model: EmbeddingModel) -> None:
        assert len(self.find(filled, model, 3, where="uri LIKE '%scene3%'", k=9)) == 1
        without = self.find(filled, model, 3, where="tile_of IS NULL", k=9)
        assert [one.box for one in without] == [None] * 8

    def test_similar_leaves_the_whole_image_out(self, filled: Index, model: EmbeddingModel) -> None:
        (query,) = read_queries(filled, [parse_query("@scene3.png")], lambda: model)
        (found,) = search_index(filled, [query], SearchOptions(k=9), leave_out_own=True)
        assert len(found) == 7

    def test_texts_find_images_not_tiles(self, filled: Index, model: EmbeddingModel) -> None:
        text = TextQuery.parse("scene3")
        found = search(filled, None, SearchOptions(k=9), text=text)
        assert [Path(one.uri).name for one in found] == ["scene3.png"]
        (query,) = read_queries(filled, [parse_query("@scene0.png")], lambda: model)
        fused = search(filled, query, SearchOptions(k=9), text=text)
        assert len({one.hit.id for one in fused}) == len(fused) == 8

    def test_analyses_and_listings_count_images(self, filled: Index, model: EmbeddingModel) -> None:
        opened = ImageIndex(filled.path, model)
        assert len(opened) == len(list(opened)) == len(filled.vectors()) == 8
        assert opened.duplicates().num_images == 8
        assert sum(len(one.members) for one in opened.cluster(2).found.clusters) == 8

    def test_an_optimized_index_finds_the_same(self, filled: Index, model: EmbeddingModel) -> None:
        before = self.find(filled, model, 2, k=8)
        filled.optimize()
        assert [one.hit.id for one in self.find(filled, model, 2, k=8)] == [
            one.hit.id for one in before
        ]

    def test_metadata_is_read_again_for_tiles(self, filled: Index, folder: Path) -> None:
        exif = Image.Exif()
        exif[0x010F], exif[0x0110] = "Maker", "Model 1"
        drawing(3, 160, 120).save(folder / "scene3.png", exif=exif)
        refresh = MetadataRefresh(filled)
        assert [one for block in refresh.unread() for one in block] == []
        assert refresh.progress.num_done == refresh.progress.num_rows == 40
        table = lance.dataset(filled.path).to_table(filter="camera IS NOT NULL")
        assert table.num_rows == 5
