"""Several servers of one index in a bucket, on a real S3-speaking server, while another writes."""

import numpy as np
import pytest
from buckets import open_bucket
from server.serving import image, running
from small_models import open_tiny

from perception_encoder.index import Index, Row
from perception_encoder.index.optimize import optimize_index
from perception_encoder.index.searcher.build import SearcherSizes
from perception_encoder.search.calibration import update_calibration
from perception_encoder.server import ServerSettings
from perception_encoder.server.api.common import encode_base64
from perception_encoder.server.core import indexes


@pytest.fixture(autouse=True)
def _always_looked_at(monkeypatch):
    monkeypatch.setattr(indexes, "_FRESH_SECONDS", -1.0)


def test_servers_show_what_another_machine_writes_and_write_nothing(tmp_path):
    files = []
    for seed in range(24):
        files.append(tmp_path / f"{seed}.png")
        files[-1].write_bytes(image(seed))
    model = open_tiny()
    vectors = model.embed_images(files)
    with open_bucket() as bucket:
        path = f"{bucket.uri}/t.lance"
        writer = Index.create(path, model.identity)
        writer.append([Row(file.name) for file in files[:23]], vectors[:23])
        update_calibration(writer, model, num_changed=23)
        settings = ServerSettings(indexes=(path,), cache_folder=tmp_path / "thumbnails")
        with running(settings) as first, running(settings) as second:

            def ask(number: int) -> list[dict]:
                """The first hit of an image, by both servers; nothing is written for it."""
                written = len(bucket.written())
                body = {"terms": [{"vector": encode_base64(vectors[number])}], "k": 1}
                hits = [
                    server.client.post("/v1/search", json=body).json()["hits"][0]
                    for server in (first, second)
                ]
                assert len(bucket.written()) == written
                return hits

            def searches() -> list[str]:
                replies = [one.client.get("/v1/indexes/t") for one in (first, second)]
                return [reply.json()["search"] for reply in replies]

            assert [hit["uri"] for hit in ask(3)] == ["3.png"] * 2
            assert "23.png" not in [hit["uri"] for hit in ask(23)]
            writer.append([Row("23.png")], vectors[23:])
            assert [hit["uri"] for hit in ask(23)] == ["23.png"] * 2
            assert searches() == ["none"] * 2
            optimize_index(path, None, sizes=SearcherSizes(copy=1, lists=1))
            assert searches() == ["vector-index"] * 2
            assert [hit["uri"] for hit in ask(3)] == ["3.png"] * 2
            writer.refresh()
            writer.delete([Row("3.png").id])
            assert "3.png" not in [hit["uri"] for hit in ask(3)]
            written = len(bucket.written())
            text = {"terms": [{"text": "a cat"}], "k": 3}
            for server in (first, second):
                reply = server.client.post("/v1/search", json=text).json()
                assert reply["query"]["cutoffs"] is not None
                assert np.all([hit["label"] is not None for hit in reply["hits"]])
            assert len(bucket.written()) == written
