"""Indexes on object storage: a real S3-speaking server on this machine."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from small_models import CLIP, open_tiny, save_drawings

from perception_encoder.errors import (
    ImagesMissingError,
    IndexBusyError,
    IndexNotFoundError,
    QueryError,
)
from perception_encoder.index import Index, OutcomeLog, Row
from perception_encoder.index.full_text import TextQuery
from perception_encoder.index.model_change import find_staged
from perception_encoder.indexing import Reembedding, Run, RunOptions
from perception_encoder.search.saved import SavedSearch, now_iso
from perception_encoder.search.saved_store import SavedSearches
from perception_encoder.sources import SourceOptions, open_sources


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="indexes")
    yield "s3://indexes"
    server.stop()


def test_a_run_fills_an_index_in_a_bucket_and_goes_on_there(bucket: str, tmp_path: Path) -> None:
    model = open_tiny()
    save_drawings(tmp_path, 4)
    (tmp_path / "bad.png").write_bytes(b"no image")
    index = Index.open_or_create(f"{bucket}/deep/t.lance", model.identity)
    for expected in ({"embedded": 4, "failed": 1}, {"skipped": 4, "failed": 1}):
        run = Run(model, index, open_sources([str(tmp_path)], SourceOptions()), RunOptions())
        for _ in run.outcomes():
            pass
        assert run.progress.counts == expected
    reopened = Index.open(f"{bucket}/deep/t.lance")
    (hit,) = reopened.search(model.embed_image(tmp_path / "drawing2.png"), k=1)[0]
    assert Path(hit.uri).name == "drawing2.png"
    assert OutcomeLog(reopened.path).counts() == {"skipped": 4, "failed": 1}


def test_rows_are_replaced_and_removed_in_a_bucket(bucket: str) -> None:
    identity = open_tiny().identity
    index = Index.create(f"{bucket}/texts.lance", identity)
    vectors = np.eye(3, identity.embed_dim, dtype=np.float32)
    index.append([Row("a"), Row("b")], vectors[:2])
    index.add([Row("b", width=5), Row("c")], vectors[1:])
    assert index.delete([Row("a").id]) == 1
    assert {row.uri: row.width for row in index.rows()} == {"b": 5, "c": None}
    with pytest.raises(IndexNotFoundError, match="nothing-here"):
        Index.open(f"{bucket}/nothing-here")


def test_texts_are_found_in_a_bucket(bucket: str) -> None:
    identity = open_tiny().identity
    index = Index.create(f"{bucket}/t.lance", identity)
    vectors = np.eye(3, identity.embed_dim, dtype=np.float32)
    index.append([Row("a dog.png"), Row("b.png", metadata={"caption": "dogs"})], vectors[:2])

    def find(text: str) -> list[str]:
        matches = index.rank_text(TextQuery.parse(text), limit=9)
        return sorted(row.uri for row in index.by_row_ids([one.row_id for one in matches]))

    assert find("dog") == ["a dog.png", "b.png"]
    index.update_full_text()
    index.append([Row("c.png", metadata={"caption": "another dog"})], vectors[2:])
    assert find("dog") == ["a dog.png", "b.png", "c.png"]
    index.optimize()
    assert find('"another dog"') == ["c.png"]


def test_searches_are_saved_in_a_bucket(bucket: str) -> None:
    identity = open_tiny().identity
    index = Index.create(f"{bucket}/s.lance", identity)
    index.append([Row("a dog.png")], np.eye(1, identity.embed_dim, dtype=np.float32))
    searches = SavedSearches(index.path)
    assert searches.load() == []
    for name in ("dogs", "Cats", "birds"):
        searches.save(SavedSearch(name, text="dog", saved_at=now_iso()))
    searches.save(SavedSearch("birds", text="bird's", saved_at=now_iso()))
    assert [(one.name, one.text) for one in searches.load()] == [
        ("birds", "bird's"), ("Cats", "dog"), ("dogs", "dog")
    ]  # fmt: skip
    found = searches.get("dogs").find(index, None)
    assert [one.uri for one in found.new] == ["a dog.png"]
    searches.note_run(searches.get("dogs"), None, identity, found.new)
    assert searches.get("dogs").find(index, None).new == []
    searches.remove("birds")
    assert [one.name for one in SavedSearches(index.path).load()] == ["Cats", "dogs"]
    with pytest.raises(QueryError, match="has no saved search 'birds'"):
        searches.remove("birds")


def test_the_model_of_an_index_in_a_bucket_is_changed(bucket: str, tmp_path: Path) -> None:
    files, path = save_drawings(tmp_path, 4), f"{bucket}/reembedded.lance"
    first, second = open_tiny(), open_tiny(CLIP)
    index = Index.open_or_create(path, first.identity)
    list(Run(first, index, open_sources([str(tmp_path)], SourceOptions())).outcomes())
    SavedSearches(path).save(SavedSearch("reds", text="red", saved_at=now_iso()))
    rows = list(index.rows())
    kept = files[0].rename(tmp_path / "kept")
    with pytest.raises(ImagesMissingError, match="1 of 4 images"):
        list(Reembedding(index, second).outcomes())
    assert Index.open(path).identity == first.identity
    kept.rename(files[0])
    work = Reembedding(Index.open(path), second)
    assert [outcome.status for outcome in work.outcomes()].count("embedded") == 1
    changed = Index.open(path)
    assert (changed.identity, list(changed.rows())) == (second.identity, rows)
    (hit,) = changed.search(second.embed_image(files[2]), k=1)[0]
    assert hit.uri == str(files[2])
    assert len(changed.rank_text(TextQuery.parse("png"), limit=9)) == 4
    assert find_staged(path) is None
    assert [one.name for one in SavedSearches(path).load()] == ["reds"]
    # Two changes at once, as a bucket has no lock: one of them is refused.
    other = Reembedding(Index.open(path), first, on_commit=lambda *_: _touch(path))
    with pytest.raises(IndexBusyError, match="meanwhile"):
        list(other.outcomes())
    assert Index.open(path).identity == second.identity


def _touch(path: str) -> None:
    index = Index.open(path)
    index.append([Row("new")], np.eye(1, index.identity.embed_dim, dtype=np.float32))
