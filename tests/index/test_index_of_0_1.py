"""An index written by version 0.1.0 opens, is searched, and grows."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_models import CLIP, drawing, open_tiny

from perception_encoder import AutoModel
from perception_encoder.index import Index, Row
from perception_encoder.index.full_text import TextQuery
from perception_encoder.index.schema import MetadataChoice
from perception_encoder.indexing import MetadataRefresh, Reembedding, indexed_images, refresh

ARCHIVE = Path(__file__).parents[1] / "data" / "index-0.1.0.tar.gz"
NAMES = {f"/photos/images/{name}.webp" for name in ("kite", "drum", "zebra", "cherries")}


@pytest.fixture
def index(tmp_path: Path) -> Index:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return Index.open(tmp_path / "p.lance")


def test_its_rows_and_metadata_are_read(index: Index) -> None:
    rows = {row.uri: row for row in index.rows()}
    assert set(rows) == NAMES | {"/photos/more/chair.webp"}
    assert rows["/photos/images/kite.webp"].metadata == {"tag": "toy", "year": 2001}
    assert index.identity.model_id == "pe-nano"


def test_a_search_finds_what_0_1_0_found(index: Index) -> None:
    with AutoModel.from_pretrained("pe-nano", backend="torch", precision="fp32") as model:
        query = model.embed_text("a kite")
    hits = index.search(query, k=3)[0]
    assert [hit.row.uri.rsplit("/", 1)[1] for hit in hits] == [
        "kite.webp", "zebra.webp", "cherries.webp",
    ]  # fmt: skip
    assert [hit.score for hit in hits] == pytest.approx([0.566165, 0.288897, 0.284796], abs=2e-3)


def test_rows_are_added_beside_the_old_ones(index: Index) -> None:
    unit = np.zeros((1, index.identity.embed_dim), np.float32)
    unit[0, 0] = 1
    index.add([Row("/photos/new.webp")], unit)
    assert index.count() == 6
    assert index.search(unit, k=1)[0][0].row.uri == "/photos/new.webp"


def test_its_metadata_is_refreshed_from_files_that_are_there(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0110] = "Canon EOS R5"
    Image.new("RGB", (8, 8)).save(tmp_path / "kite.webp", exif=exif)

    def read(row: Row) -> bytes:
        return (tmp_path / Path(row.uri).name).read_bytes()

    monkeypatch.setattr(refresh, "_read_bytes", read)
    refreshing = MetadataRefresh(index)
    unread = [one for block in refreshing.unread() for one in block]
    assert len(unread) == 4
    (kite,) = index.rows(where="camera = 'Canon EOS R5'")
    assert kite.metadata == {"tag": "toy", "year": 2001, "camera": "Canon EOS R5"}
    assert index.metadata_choice == MetadataChoice()


def test_it_is_given_another_model(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    drawing(1).save(buffer, "PNG")
    monkeypatch.setattr(indexed_images, "read_image", lambda *_: buffer.getvalue())
    before = list(index.rows())
    other = open_tiny(CLIP)
    for outcome in Reembedding(index, other).outcomes():
        assert outcome.status in ("embedded", "reused")
    changed = Index.open(index.path)
    assert changed.identity == other.identity
    after = {row.uri: row.metadata for row in changed.rows()}
    assert after == {row.uri: row.metadata for row in before}
    found = changed.rank_text(TextQuery.parse("toy"), limit=9)
    assert [row.uri for row in changed.by_row_ids([one.row_id for one in found])] == [
        "/photos/images/kite.webp"
    ]
