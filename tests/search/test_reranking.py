"""A second model orders the hits: an index of a model without sense, reranked by pe-nano."""

import logging
import os
import shutil
import sqlite3
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from documentation.blocks import blocks_of
from PIL import Image
from small_models import CORE, WITHOUT_TEXT, CountingBackend, open_tiny
from video_clips import write_clip

from perception_encoder import AutoModel, ImageIndex
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.embedder.cache import EmbeddingCache
from perception_encoder.errors import ImageNotFoundError, QueryError, UnsupportedOperationError
from perception_encoder.search import SearchOptions, reranking

NAMES = (
    "cat", "dog", "horse", "red-heart", "blue-heart", "green-heart", "banana", "pear", "lemon",
    "red-car", "taxi", "bus", "house", "tree",
)  # fmt: skip


@pytest.fixture(scope="module")
def nano() -> Iterator[EmbeddingModel]:
    """pe-nano, which counts the images that it embeds."""
    model = AutoModel.from_pretrained("pe-nano", device="cpu", precision="fp32")
    usual, model.backend = model.backend, CountingBackend(model.backend)
    yield model
    usual.close()


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    with as_file(files("perception_encoder").joinpath("data/gallery")) as source:
        for name in NAMES:
            shutil.copy(source / f"{name}.webp", folder)
    return folder


@pytest.fixture
def index(tmp_path: Path, gallery: Path) -> ImageIndex:
    made = ImageIndex(tmp_path / "t.lance", model=open_tiny())
    made.add(gallery)
    return made


def num_images(model: EmbeddingModel) -> int:
    return cast(CountingBackend, model.backend).num_images


def stems(found: object) -> list[str]:
    return [Path(one.uri).stem for one in found]  # type: ignore[attr-defined]


def test_the_second_model_orders_what_the_first_has_found(index, nano):
    first = index.search("cat", k=len(NAMES))
    hits = index.search("a red heart", rerank=nano, k=3)
    assert stems(hits)[0] == "red-heart"
    assert {stems(hits)[1], stems(hits)[2]} <= set(NAMES)
    cosines = {one.uri: one.score for one in index.search("a red heart", k=len(NAMES))}
    for hit in hits:
        own = nano.similarity(nano.embed_images([hit.uri]), nano.embed_text("a red heart"))
        assert hit.score == pytest.approx(float(own[0, 0]), abs=1e-3)
        assert hit.cosine == pytest.approx(cosines[hit.uri])
        assert (hit.kind, hit.label) == ("rerank", None)
    assert [one.score for one in hits] == sorted((one.score for one in hits), reverse=True)
    assert hits.reranked is not None
    assert hits.reranked.num_candidates == len(NAMES) == len(first)
    assert hits[:2].reranked is hits.reranked
    assert index.search("a red heart").reranked is None


def test_the_block_of_the_documentation_runs(index, nano):
    (block,) = [one for one in blocks_of("docs/guides/search.md") if "rerank=" in one.text]
    names = {"index": index, "nano": nano}
    exec(block.text.replace('"PE-Core-L14-336"', "nano"), names)
    assert names["hits"].reranked.num_candidates == len(NAMES)


def test_only_candidates_are_read(index, nano):
    best = stems(index.search("a red heart", k=4))
    before = num_images(nano)
    hits = index.search("a red heart", rerank=nano, k=2, candidates=4)
    assert num_images(nano) - before == 4
    assert set(stems(hits)) <= set(best)
    rest = index.search("a red heart", rerank=nano, k=2, offset=2, candidates=4)
    assert sorted(stems(hits) + stems(rest)) == sorted(best)
    assert hits[1].score >= rest[0].score


def test_a_repeated_query_reads_no_image(index, nano, gallery):
    first = index.search("a red heart", rerank=nano)
    before = num_images(nano)
    again = index.search("a banana", rerank=nano)
    assert num_images(nano) == before
    assert stems(again)[0] == "banana"
    assert again.reranked.num_cached == len(NAMES)
    (gallery / "banana.webp").unlink()  # nor does it need the file
    assert stems(index.search("a banana", rerank=nano))[0] == "banana"
    assert first.reranked.num_embedded == len(NAMES)


def test_another_model_has_other_embeddings(index, nano):
    index.search("a red heart", rerank=nano)
    other = open_tiny(WITHOUT_TEXT)
    hits = index.search(Path(index.search("cat", k=1)[0].uri), rerank=other)
    assert hits.reranked.num_cached == 0
    assert hits[0].score == pytest.approx(1, abs=1e-3)  # the query itself


def test_what_cannot_be_read_comes_last_in_its_first_order(index, nano, gallery):
    usual = stems(index.search("a red heart", k=len(NAMES)))
    (gallery / "red-heart.webp").unlink()
    (gallery / "cat.webp").write_bytes(b"RIFF and nothing else")
    hits = index.search("a red heart", rerank=nano, k=len(NAMES))
    gone = [name for name in usual if name in ("red-heart", "cat")]
    assert stems(hits)[-2:] == gone
    assert [one.kind for one in hits[-3:]] == ["rerank", "cosine", "cosine"]
    assert all(one.score == one.cosine for one in hits[-2:])
    assert len(hits.reranked.failures) == 2
    assert any("red-heart.webp" in message for message in hits.reranked.failures)
    assert hits.reranked.num_embedded == len(NAMES) - 2
    assert "in" in repr(hits)


def test_a_changed_file_is_not_stored_as_the_indexed_one(index, nano, gallery):
    before = (gallery / "tree.webp").read_bytes()
    shutil.copy(gallery / "red-heart.webp", gallery / "tree.webp")
    hits = index.search("a red heart", rerank=nano, k=2)
    assert set(stems(hits)) == {"red-heart", "tree"}  # as the file is now
    (gallery / "tree.webp").write_bytes(before)
    hits = index.search("a tree", rerank=nano, k=1)
    assert stems(hits) == ["tree"]
    assert hits.reranked.num_embedded == 1


def test_queries_of_all_kinds(index, nano, gallery):
    heart = gallery / "red-heart.webp"
    assert stems(index.search(heart, rerank=nano, k=1)) == ["red-heart"]
    assert stems(index.search("@red-heart.webp", rerank=nano, k=1)) == ["red-heart"]
    assert stems(index.search(Image.open(heart), rerank=nano, k=1)) == ["red-heart"]
    total = index.search("@banana.webp + @red-car.webp", rerank=nano, k=2)
    assert set(stems(total)) == {"banana", "red-car"}
    listed = index.search([(1.0, "a lemon"), (-0.2, heart)], rerank=nano, k=1)
    assert stems(listed) == ["lemon"]
    # Two drawings side by side, of which one counts.
    both = Image.new("RGB", (144, 72), "white")
    for place, name in enumerate(("dog", "bus")):
        half = Image.open(gallery / f"{name}.webp").convert("RGB").resize((72, 72))
        both.paste(half, (72 * place, 0))
    assert stems(index.search(both, crop=(72, 0, 72, 72), rerank=nano, k=1)) == ["bus"]
    marked = index.search(like=["@red-heart.webp"], rerank=nano, k=2)
    assert set(stems(marked)) == {"blue-heart", "green-heart"}


def test_conditions_and_near_duplicates(index, nano, gallery):
    shutil.copy(gallery / "dog.webp", gallery / "dog again.webp")
    index.add(gallery)
    hits = index.search("a dog", rerank=nano, unique=True, where="uri LIKE '%dog%'")
    assert len(hits) == 1
    assert len(hits[0].also) == 1
    assert hits.reranked.num_candidates == 1


def test_of_a_tile_the_part_that_was_found_counts(tmp_path, nano, gallery):
    (tmp_path / "scenes").mkdir()
    scene = Image.new("RGB", (448, 448), "white")
    scene.paste(Image.open(gallery / "banana.webp").convert("RGB").resize((200, 200)), (240, 10))
    scene.save(tmp_path / "scenes" / "scene.png")
    index = ImageIndex(tmp_path / "tiled.lance", model=open_tiny())
    index.add(tmp_path / "scenes", tiles="2x2")
    (hit,) = index.search("a banana", rerank=nano)
    part = hit.image() if hit.box is None else nano.embed_image(hit.uri, crop=tuple(hit.box))
    if hit.box is not None:
        expected = nano.similarity(part, nano.embed_text("a banana"))[0, 0]
        assert hit.score == pytest.approx(float(expected), abs=1e-3)
    again = index.search("a banana", rerank=nano)
    assert again.reranked.num_cached == 1


def test_of_a_moment_its_frame_counts(tmp_path, nano):
    pytest.importorskip("av")
    index = ImageIndex(tmp_path / "clips.lance", model=open_tiny())
    clip = write_clip(tmp_path / "clip.mp4")
    index.add(clip)
    count = len(index)
    assert count > 1
    hits = index.search("a red heart", k=count, rerank=nano)
    text = nano.embed_text("a red heart")
    for hit in hits:
        frame = f"{clip}#t={hit.hit.moment.frame_time}"
        expected = float(nano.similarity(nano.embed_video(frame), text)[0, 0])
        assert hit.score == pytest.approx(expected, abs=0.02)  # a frame is read as a JPEG
    assert index.search("a dog", k=count, rerank=nano).reranked.num_cached == count
    os.utime(clip, (1, 1))  # another file, as far as one can tell: nothing is stored for it
    other = open_tiny(WITHOUT_TEXT)
    for _ in range(2):
        again = index.search(f"@{hits[0].hit.id}", k=count, rerank=other)
        assert [one.kind for one in again] == ["rerank"] * count
        assert again.reranked.num_embedded == count


def test_what_cannot_be_reranked_is_refused(index, nano, gallery):
    with pytest.raises(QueryError, match="leave the text out"):
        index.search("a dog", text="dog", rerank=nano)
    with pytest.raises(QueryError, match="20 hits are asked for, but only 5 candidates"):
        index.search("a dog", k=20, rerank=nano, candidates=5)
    with pytest.raises(QueryError, match="from 1 to 10,000"):
        index.search("a dog", rerank=nano, candidates=10_001)
    with pytest.raises(QueryError, match="embedded by tiny/core already"):
        index.search("a dog", rerank=index.model)
    with pytest.raises(QueryError, match="another model cannot read"):
        index.search(np.ones(CORE.embed_dim, np.float32), rerank=nano)
    with pytest.raises(UnsupportedOperationError, match="text"):
        index.search("a dog", rerank=open_tiny(WITHOUT_TEXT))
    (gallery / "dog.webp").unlink()
    with pytest.raises(ImageNotFoundError, match=r"dog\.webp"):
        index.search("@dog.webp", rerank=nano)


def test_the_cache_forgets_the_oldest(tmp_path):
    cache = EmbeddingCache(tmp_path / "c.sqlite", "a", max_rows=5)
    keys = [cache.key("candidate", bytes([number])) for number in range(12)]
    for start in range(0, 12, 3):
        cache.put(keys[start : start + 3], np.ones((3, 4), np.float32))
    assert set(cache.get(keys)) == set(keys[-5:])
    cache.put(keys[-5:], np.zeros((5, 4), np.float32))  # replaced, none is lost
    assert set(cache.get(keys)) == set(keys[-5:])
    cache.close()


def test_a_damaged_cache_only_costs_time(index, nano, caplog):
    path = Path(index.path) / "_pe" / reranking._CACHE_FILE
    path.write_bytes(b"no database at all, but long enough to be looked at" * 100)
    with caplog.at_level(logging.WARNING):
        hits = index.search("a red heart", rerank=nano, k=1)
    assert stems(hits) == ["red-heart"]
    assert "rerank.sqlite" in caplog.text


def test_progress_counts_images(index, nano):
    model = nano
    seen = list[reranking.RerankProgress]()
    query = index._read("a red heart", "bgr")
    second = index._read("a red heart", "bgr", None, model)
    found, report = reranking.rerank_search(
        index._index, query, reranking.Reranking(model, second, 10, seen.append),
        SearchOptions(k=10),
    )  # fmt: skip
    assert [one.num_done for one in seen] == [4, 8, 10]
    assert {one.num_images for one in seen} == {10}
    assert seen[-1].seconds_left == 0
    assert seen[0].seconds_left > 0
    assert len(found) == report.num_embedded == 10


def test_rows_of_the_cache_are_bounded(index, nano, monkeypatch):
    monkeypatch.setattr(reranking, "_MAX_CACHED", 6)
    index.search("a red heart", rerank=nano)
    with sqlite3.connect(Path(index.path) / "_pe" / reranking._CACHE_FILE) as database:
        (count,) = database.execute("SELECT count(*) FROM vectors").fetchone()
    database.close()
    assert count == 6
