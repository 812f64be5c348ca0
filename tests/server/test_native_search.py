"""POST /v1/search and what a page needs of an index: items, images, facets, status, duplicates."""

import csv
import io
import json
import shutil
import subprocess
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from cli.command import started
from PIL import Image
from server.serving import in_base64, make_index, running
from small_models import open_tiny, save_drawings

from perception_encoder.index import Index, Outcome, OutcomeLog, Row, row_id, write_lock
from perception_encoder.search.grammar import combine_vectors, parse_query
from perception_encoder.search.queries import read_queries
from perception_encoder.search.saved import SavedOptions, SavedSearch
from perception_encoder.search.saved_store import SavedSearches
from perception_encoder.server import ServerSettings
from perception_encoder.server.api.native import items as download

NUM_FILES = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def files(folder) -> list[Path]:
    return save_drawings(folder, NUM_FILES)


@pytest.fixture(scope="module")
def server(folder, files):
    model = open_tiny()
    index = make_index(folder / "drawings.lance", model, files)
    archive = folder / "more.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(files[3], "inside/three.png")
    with tarfile.open(archive) as tar:
        offset = tar.getmember("inside/three.png").offset_data
    inside = Row(
        str(archive), "inside/three.png", offset=offset, bytes=files[3].stat().st_size, width=51
    )
    index.add([inside], model.embed_images([files[3]]))
    make_index(folder / "few.lance", model, files[:3])
    settings = ServerSettings(
        indexes=(str(folder / "drawings.lance"), str(folder / "few.lance")),
        cache_folder=folder / "thumbnails",
    )
    with running(settings, open_model=lambda _: open_tiny()) as running_server:
        yield running_server


def searched(server, **body):
    reply = server.client.post("/v1/search", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_words_find_what_the_library_finds(server, folder):
    reply = searched(server, terms=[{"text": "a cat"}], k=5)
    model = open_tiny()
    expected = Index.open(folder / "drawings.lance").search(model.embed_text("a cat"), k=5)[0]
    assert [hit["id"] for hit in reply["hits"]] == [hit.id for hit in expected]
    scores = [hit["score"] for hit in reply["hits"]]
    assert np.allclose(scores, [hit.score for hit in expected], atol=1e-4)
    assert reply["index"] == "drawings"


def test_an_image_finds_itself_and_its_copy_in_an_archive(server, files):
    reply = searched(server, terms=[{"image": in_base64(files[3].read_bytes())}], k=2)
    assert {hit["name"] for hit in reply["hits"]} == {
        str(files[3]), f"{files[3].parent / 'more.tar'}/inside/three.png"
    }  # fmt: skip
    folded = searched(server, terms=[{"image": in_base64(files[3].read_bytes())}], unique=0.999)
    assert len(folded["hits"][0]["also"]) == 1


def test_pairs_and_bursts_are_options(server, files):
    term = {"image": in_base64(files[3].read_bytes())}
    assert searched(server, terms=[term], pairs=False)["hits"]
    for wrong in ({"bursts": -1}, {"bursts": 1e9}, {"pairs": "of shoes"}):
        reply = server.client.post("/v1/search", json={"terms": [term], **wrong})
        assert reply.status_code in (400, 422), reply.text
    undated = server.client.post("/v1/search", json={"terms": [term], "bursts": 2})
    assert undated.status_code == 400
    assert "--refresh-metadata" in undated.text


def test_more_like_an_item_leaves_the_item_out(server, files):
    item = row_id(str(files[7]))
    assert item not in [hit["id"] for hit in searched(server, terms=[{"item": item}])["hits"]]
    own = searched(server, terms=[{"item": item}], include_own=True)["hits"]
    assert own[0]["id"] == item


def test_words_and_an_image_with_weights_and_words_that_are_not_wanted(server, folder, files):
    terms = [
        {"text": "a cat", "weight": 2},
        {"image": in_base64(files[5].read_bytes())},
        {"text": "t", "weight": -0.5},
    ]
    model = open_tiny()
    vectors = np.concatenate([
        model.embed_text("a cat"), model.embed_images([files[5]]), model.embed_text("t")
    ])  # fmt: skip
    query = combine_vectors(vectors, [2, 1, -0.5])
    expected = Index.open(folder / "drawings.lance").search(query[None], k=4)[0]
    found = searched(server, terms=terms, k=4)["hits"]
    assert [hit["id"] for hit in found] == [hit.id for hit in expected]


def test_a_query_is_written_as_on_the_command_line(server, files):
    name = "/".join(files[7].parts[-2:])
    written = searched(server, terms=[{"query": f"2:a cat + @{name} - t", "weight": 0.5}], k=4)
    terms = [
        {"text": "a cat", "weight": 1},
        {"item": row_id(str(files[7])), "weight": 0.5},
        {"text": "t", "weight": -0.5},
    ]
    assert written["hits"] == searched(server, terms=terms, k=4)["hits"]


def test_a_query_reads_no_file_of_the_server(server, files):
    reply = server.client.post("/v1/search", json={"terms": [{"query": str(files[3])}]})
    assert reply.status_code == 400
    assert f"write @{files[3]}" in reply.json()["error"]["message"]


def test_pages_join_to_the_whole_without_embedding_again(server):
    whole = searched(server, terms=[{"text": "a cat"}], k=100)
    assert len(whole["hits"]) == NUM_FILES + 1
    assert whole["next_offset"] is None
    page = searched(server, terms=[{"text": "a cat"}], k=15)
    found = page["hits"]
    while page["next_offset"] is not None:
        again = {"vector": page["query"]["vector"]}
        page = searched(server, terms=[again], k=15, offset=page["next_offset"])
        found += page["hits"]
    assert [hit["id"] for hit in found] == [hit["id"] for hit in whole["hits"]]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([{"column": "number", "op": ">=", "value": 35}], range(35, 40)),
        ([{"column": "color", "value": "red"}], [n for n in range(0, 40, 2) if n % 5 != 4]),
        ([{"column": "color", "op": "is_null"}], range(4, 40, 5)),
        ([{"column": "number", "op": "in", "value": [1, 2, 77]}], [1, 2]),
        ([{"column": "uri", "op": "contains", "value": "DRAWING39"}], [39]),
        ([{"column": "uri", "op": "contains", "value": "no'thing; --"}], []),
        ([{"column": "color", "op": "starts_with", "value": "bl"}],
         [n for n in range(1, 40, 2) if n % 5 != 4]),
        (
            [{"column": "number", "op": "<", "value": 9},
             {"column": "number", "op": "!=", "value": 2},
             {"column": "color", "op": "has"},
             {"column": "mtime", "op": ">", "value": "2001-01-01"}],
            [0, 1, 3, 5, 6, 7, 8],
        ),
    ],
)  # fmt: skip
def test_filters(server, filters, expected):
    hits = searched(server, terms=[{"text": "a"}], k=100, filters=filters)["hits"]
    found = sorted(hit["metadata"]["number"] for hit in hits if "number" in hit["metadata"])
    if filters[0].get("op") != "is_null":
        assert len(hits) == len(found)
    assert found == list(expected)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"terms": []}, 422),
        ({"terms": [{}]}, 422),
        ({"terms": [{"text": "a", "item": "b"}]}, 422),
        ({"terms": [{"text": "a"}, {"text": "a", "weight": -1}]}, 400),
        ({"terms": [{"item": "nothing"}]}, 400),
        ({"terms": [{"query": "a", "text": "b"}]}, 422),
        ({"terms": [{"query": "cat +"}]}, 400),
        ({"terms": [{"query": "@nothing"}]}, 400),
        ({"terms": [{"query": "-"}]}, 400),
        ({"terms": [{"query": "9999999:cat"}]}, 400),
        ({"terms": [{"query": "https://example.org/a.png"}]}, 400),
        ({"terms": [{"vector": "AAAA"}]}, 400),
        ({"terms": [{"vector": "***"}]}, 400),
        ({"terms": [{"image": "***"}]}, 400),
        ({"terms": [{"text": "a"}], "index": "none"}, 404),
        ({"terms": [{"text": "a"}], "filters": [{"column": "vector", "value": 1}]}, 400),
        ({"terms": [{"text": "a"}], "filters": [{"column": "1=1 --", "value": 1}]}, 400),
        ({"terms": [{"text": "a"}], "filters": [{"column": "width", "value": "wide"}]}, 400),
        ({"terms": [{"text": "a"}], "filters": [{"column": "mtime", "value": "soon"}]}, 400),
        ({"terms": [{"text": "a"}], "filters": [{"column": "width", "value": 1, "op": "~"}]}, 422),
        ({"terms": [{"text": "a"}], "k": 0}, 422),
        ({"terms": [{"text": "a"}], "threshold": 2}, 422),
    ],
)
def test_queries_that_cannot_be_answered(server, body, status):
    reply = server.client.post("/v1/search", json=body)
    assert reply.status_code == status, reply.text
    assert reply.json()["error"]["message"]


def test_labels_come_once_it_is_known_what_scores_mean(server):
    end = time.monotonic() + 100
    while True:
        reply = searched(server, terms=[{"text": "a cat"}], k=3)
        if reply["query"]["cutoffs"] is not None:
            break
        assert time.monotonic() < end
        time.sleep(0.05)
    assert reply["query"]["cutoffs"]["strong"] >= reply["query"]["cutoffs"]["weak"]
    assert {hit["label"] for hit in reply["hits"]} <= {"strong", "weak", "none"}


def test_items_can_be_looked_through(server, files):
    seen, offset = [], 0
    while offset is not None:
        page = server.client.get("/v1/items", params={"limit": 12, "offset": offset}).json()
        seen += page["items"]
        offset = page["next_offset"]
    assert [item["name"] for item in seen][:NUM_FILES] == [str(file) for file in files]
    assert len(seen) == NUM_FILES + 1
    filters = '[{"column": "number", "op": "<", "value": 3}]'
    few = server.client.get("/v1/items", params={"filters": filters}).json()["items"]
    assert [item["metadata"]["number"] for item in few] == [0, 1, 2]
    for bad in ("[", '[{"column": 1}]', "{}"):
        assert server.client.get("/v1/items", params={"filters": bad}).status_code == 400
    one = server.client.get(f"/v1/items/{seen[2]['id']}").json()
    assert one == seen[2]
    other = server.client.get(f"/v1/items/{seen[30]['id']}", params={"index": "few"})
    assert (other.status_code, other.json()["error"]["code"]) == (404, "unknown_item")


def listed(server, **parameters) -> list[dict]:
    """All pages of a listing."""
    rows, offset = [], 0
    while offset is not None:
        page = server.client.get("/v1/items", params={"limit": 9, "offset": offset, **parameters})
        assert page.status_code == 200, page.text
        rows += page.json()["items"]
        offset = page.json()["next_offset"]
    assert page.json()["total"] == len(rows)
    return rows


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize(
    ("sort", "key"), [("name", "name"), ("date", "modified"), ("size", "bytes")]
)
def test_items_are_sorted_by_name_date_and_size(server, sort, key, descending):
    values = [row[key] for row in listed(server, sort=sort, descending=descending)]
    known = [value for value in values if value is not None]
    assert len(values) == NUM_FILES + 1
    assert known == sorted(known, reverse=descending)
    assert values == known + [None] * (len(values) - len(known))  # unknown ones come last


def test_a_sorted_listing_can_be_filtered(server):
    filters = '[{"column": "number", "op": ">", "value": 30}]'
    rows = listed(server, sort="size", filters=filters)
    assert {row["metadata"]["number"] for row in rows} == set(range(31, 40))
    beyond = {"sort": "size", "offset": 2**39}
    assert server.client.get("/v1/items", params=beyond).json()["items"] == []
    assert server.client.get("/v1/items", params={"sort": "color"}).status_code == 422


def test_folders_with_counts_and_filters(tmp_path):
    model = open_tiny()
    index = Index.create(tmp_path / "folders.lance", model.identity)
    names = ["/p/a/1.png", "/p/a/2.png", "/p/a/deep/3.png", "/p/ab/4.png"]
    rows = [*map(Row, names), Row("/p/b.tar", "x/5.png"), Row("/p/b.tar", "6.png")]
    index.add(rows, model.embed_text([row.name for row in rows]))
    settings = ServerSettings(indexes=(str(tmp_path / "folders.lance"),))
    with running(settings, open_model=lambda _: open_tiny()) as server:
        reply = server.client.get("/v1/indexes/folders/folders").json()
        counts = {one["path"]: one["images"] for one in reply["folders"]}
        assert counts == {"/p": 6, "/p/a": 3, "/p/a/deep": 1, "/p/ab": 1, "/p/b.tar": 2}
        assert not reply["has_more"]
        for one in reply["folders"]:
            found = listed(server, filters=json.dumps([one["filter"]]))
            assert len(found) == one["images"]
            assert all(row["name"].startswith(one["path"] + "/") for row in found)
            hits = searched(server, terms=[{"text": "a"}], filters=[one["filter"]])["hits"]
            assert len(hits) == one["images"]


def test_images_and_their_small_copies(server, folder, files):
    for key, file in [
        (row_id(str(files[9])), files[9]),
        (row_id(str(folder / "more.tar"), "inside/three.png"), files[3]),
    ]:
        whole = server.client.get(f"/v1/items/{key}/image")
        assert whole.content == file.read_bytes()
        assert whole.headers["content-type"] == "image/png"
        small = server.client.get(f"/v1/items/{key}/thumbnail", params={"size": 128})
        assert small.headers["content-type"] == "image/jpeg"
        with Image.open(io.BytesIO(small.content)) as image, Image.open(file) as original:
            assert image.size == original.size  # small already: never enlarged
        tag = {"If-None-Match": small.headers["etag"]}
        again = server.client.get(f"/v1/items/{key}/thumbnail", params={"size": 128}, headers=tag)
        assert (again.status_code, again.content) == (304, b"")
    assert len(list((folder / "thumbnails" / "128").rglob("*.jpg"))) == 2
    assert server.client.get("/v1/items/nothing/image").status_code == 404


def test_a_copy_is_made_once(server, files):
    key = row_id(str(files[11]))
    first = server.client.get(f"/v1/items/{key}/thumbnail").content
    moved = files[11].with_suffix(".moved")
    shutil.move(files[11], moved)
    try:
        assert server.client.get(f"/v1/items/{key}/thumbnail").content == first
        assert server.client.get(f"/v1/items/{key}/image").status_code == 404
    finally:
        shutil.move(moved, files[11])


def test_indexes_columns_and_values(server):
    listed = server.client.get("/v1/indexes").json()["data"]
    assert [(one["name"], one["rows"]) for one in listed] == [
        ("drawings", NUM_FILES + 1), ("few", 3)
    ]  # fmt: skip
    described = server.client.get("/v1/indexes/drawings").json()
    kinds = {column["name"]: column["filter"] for column in described["columns"]}
    assert kinds["number"] == "number"
    assert kinds["color"] == "text"
    assert kinds["mtime"] == "time"
    assert kinds["vector"] is None
    facets = server.client.get("/v1/indexes/drawings/facets").json()["columns"]
    assert facets["number"] == {"kind": "number", "min": 0, "max": 39, "nulls": 1}
    colors = {one["value"]: one["count"] for one in facets["color"]["values"]}
    assert colors == {"red": 16, "blue": 16}
    assert facets["color"]["nulls"] == 9
    assert server.client.get("/v1/indexes/none").status_code == 404


def test_status_follows_a_run_in_another_process(server, folder, files):
    path = str(folder / "few.lance")
    before = server.client.get("/v1/indexes/few/status").json()
    assert before["is_being_written"] is False
    with write_lock(path):
        assert server.client.get("/v1/indexes/few/status").json()["is_being_written"] is True
    model = open_tiny()
    Index.open(path).add([Row(str(files[20]))], model.embed_images([files[20]]))
    OutcomeLog(path).append(
        [
            Outcome(str(files[20]), "embedded"),
            Outcome("/x.png", "failed", reason="ImageEmptyError", message="/x.png: zero bytes"),
        ],
        "a run",
    )
    end = time.monotonic() + 100
    while (after := server.client.get("/v1/indexes/few/status").json())["rows"] == before["rows"]:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert after["outcomes"] == {"embedded": 1, "failed": 1}
    assert after["failures"][0]["reason"] == "ImageEmptyError"


def test_status_follows_pe_index_while_it_runs(tmp_path):
    """The run reads its list, 256 names at a time, from a pipe that stays open for a while."""
    files = save_drawings(tmp_path, 260)
    first, second = files[:255], files[255:]
    (tmp_path / "broken.png").write_bytes(files[0].read_bytes()[:90])
    arguments = ("index", "-", "--index", "growing.lance")
    process = started(*arguments, folder=tmp_path, stdin=subprocess.PIPE)
    assert process.stdin is not None

    def give(*files: Path) -> None:
        process.stdin.write("".join(f"{file}\n" for file in files))
        process.stdin.flush()

    def eventually(told) -> dict:
        end = time.monotonic() + 100
        while not told(status := served.client.get("/v1/indexes/growing/status").json()):
            assert time.monotonic() < end, status
            time.sleep(0.1)
        return status

    try:
        give(*first, tmp_path / "broken.png")  # an index is created with its first rows
        end = time.monotonic() + 100
        while not (tmp_path / "growing.lance" / "_versions").exists():
            assert time.monotonic() < end
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        settings = ServerSettings(indexes=(str(tmp_path / "growing.lance"),))
        with running(settings, open_model=lambda _: open_tiny()) as served:
            status = eventually(lambda status: status["rows"] == 255)
            assert status["is_being_written"] is True
            status = eventually(lambda status: status["outcomes"])
            assert status["outcomes"] == {"embedded": 255, "failed": 1}
            assert "broken.png" in status["failures"][0]["message"]
            give(*second)
            process.stdin.close()
            status = eventually(
                lambda status: status["rows"] == 260 and not status["is_being_written"]
            )
            assert status["outcomes"] == {"embedded": 260, "failed": 1}
            assert process.wait(200) == 1  # one item has failed
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()


def finished(server, path: str, **parameters) -> dict:
    """The result of a job."""
    end = time.monotonic() + 100
    while (reply := server.client.get(path, params=parameters)).status_code == 202:
        assert reply.json()["state"] == "running"
        assert reply.json()["progress"]["stage"]
        assert time.monotonic() < end
        time.sleep(0.05)
    assert reply.status_code == 200, reply.text
    assert reply.json()["state"] == "done"
    return reply.json()


def test_duplicates(server, files):
    found = finished(server, "/v1/duplicates")
    names = [
        {group["keep"]["name"], *(other["name"] for other in group["others"])}
        for group in found["groups"]
    ]
    both = {str(files[3]), f"{files[3].parent / 'more.tar'}/inside/three.png"}
    assert any(both <= group for group in names)
    assert found["num_redundant"] == sum(len(group["others"]) for group in found["groups"])


def test_clusters_have_examples_and_all_images(server):
    found = finished(server, "/v1/clusters", k=3, examples=2)
    clusters = found["clusters"]
    assert found["num_images"] == NUM_FILES + 1 == sum(one["size"] for one in clusters)
    assert [one["size"] for one in clusters] == sorted(one["size"] for one in clusters)[::-1]
    assert all(1 <= len(one["examples"]) <= 2 for one in clusters)
    names = []
    for number, one in enumerate(clusters):
        page = finished(server, f"/v1/clusters/{number}", k=3, limit=1000)
        assert page["total"] == len(page["items"]) == one["size"]
        names += [item["name"] for item in page["items"]]
    assert len(set(names)) == NUM_FILES + 1
    assert server.client.get("/v1/clusters/3", params={"k": 3}).status_code == 404
    filters = '[{"column": "number", "op": "<", "value": 5}]'
    assert finished(server, "/v1/clusters", filters=filters)["num_images"] == 5


def test_clusters_of_the_gallery_are_named(drawings_server):
    end = time.monotonic() + 100
    while None in (
        names := [one["name"] for one in finished(drawings_server, "/v1/clusters")["clusters"]]
    ):
        assert time.monotonic() < end
    assert len(set(names)) == len(names)


def test_a_map_has_a_place_for_every_image(server):
    pytest.importorskip("openTSNE")
    found = finished(server, "/v1/map")
    assert found["num_images"] == len(set(found["ids"])) == NUM_FILES + 1
    assert len(found["x"]) == len(found["y"]) == len(found["clusters"]) == NUM_FILES + 1
    assert max(map(abs, found["x"] + found["y"])) <= 1
    assert sum(one["size"] for one in found["groups"]) == NUM_FILES + 1
    assert set(found["clusters"]) == set(range(len(found["groups"])))
    rows = {row["id"] for row in listed(server)}
    assert set(found["ids"]) == rows


def downloaded(server, **body):
    return server.client.post("/v1/items/download", json=body)


def test_chosen_images_come_as_a_zip_file(server, folder, files):
    keys = [row_id(str(file)) for file in files[:4]]
    keys.append(row_id(str(folder / "more.tar"), "inside/three.png"))
    moved = files[2].with_suffix(".moved")
    shutil.move(files[2], moved)
    try:
        reply = downloaded(server, ids=[*keys, keys[0], "unknown"])
    finally:
        shutil.move(moved, files[2])
    assert reply.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(reply.content)) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert names == [*(files[n].name for n in (0, 1, 3)), "three.png", "left-out.txt"]
        assert archive.read(files[1].name) == files[1].read_bytes()
        assert archive.read("three.png") == files[3].read_bytes()
        assert str(files[2]) in archive.read("left-out.txt").decode()


def test_chosen_rows_come_as_csv(server, files):
    reply = downloaded(server, ids=[row_id(str(file)) for file in files[:3]], format="csv")
    rows = list(csv.DictReader(io.StringIO(reply.text)))
    assert [row["uri"] for row in rows] == [str(file) for file in files[:3]]
    assert [row["number"] for row in rows] == ["0", "1", "2"]
    assert downloaded(server, ids=["unknown"], format="csv").status_code == 404
    assert downloaded(server, ids=[]).status_code == 422
    assert downloaded(server, ids=["a"] * 2001).status_code == 422


def test_a_zip_file_is_bounded_in_bytes(server, files, monkeypatch):
    monkeypatch.setattr(download, "_MAX_BYTES", files[0].stat().st_size)
    assert downloaded(server, ids=[row_id(str(files[0]))]).status_code == 200
    two = downloaded(server, ids=[row_id(str(file)) for file in files[:2]])
    assert (two.status_code, two.json()["error"]["code"]) == (400, "too_large")


def test_images_behind_a_network_are_not_brought_unless_told(folder):
    model = open_tiny()
    index = Index.create(folder / "remote.lance", model.identity)
    index.add([Row("http://127.0.0.1:9/a.png")], model.embed_text("a"))
    settings = ServerSettings(indexes=(str(folder / "remote.lance"),))
    with running(settings, open_model=lambda _: open_tiny()) as server:
        key = row_id("http://127.0.0.1:9/a.png")
        reply = server.client.get(f"/v1/items/{key}/image")
        assert reply.status_code == 404
        assert "local images only" in reply.json()["error"]["message"]


# Text


def test_a_text_is_found_in_names_without_a_model(server):
    reply = searched(server, text='"drawing7"', k=5)
    assert [Path(hit["uri"]).name for hit in reply["hits"]] == ["drawing7.png"]
    (hit,) = reply["hits"]
    assert reply["query"] == {"vector": None, "score": "bm25", "cutoffs": None}
    assert hit["score"] == hit["text_score"] > 0
    assert hit["cosine"] is None


def test_terms_and_a_text_are_fused(server):
    alone = searched(server, terms=[{"text": "a cat"}], k=50)["hits"]
    reply = searched(server, terms=[{"text": "a cat"}], text="drawing7", k=50)
    assert reply["query"]["score"] == "fusion"
    (hit,) = [one for one in reply["hits"] if one["text_score"] is not None]
    rank = [one["id"] for one in alone].index(hit["id"]) + 1
    assert hit["score"] == pytest.approx(61 * (0.5 / 61 + 0.5 / (60 + rank)))
    assert hit["cosine"] == pytest.approx(alone[rank - 1]["cosine"], abs=1e-3)
    again = [{"vector": reply["query"]["vector"]}]
    repeated = searched(server, terms=again, text="drawing7", k=50)["hits"]
    assert [one["id"] for one in repeated] == [one["id"] for one in reply["hits"]]
    mostly = searched(server, terms=[{"text": "a cat"}], text="drawing7", text_weight=0.9, k=1)
    assert mostly["hits"][0]["id"] == hit["id"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "give terms, a text, or images"),
        ({"text": "???"}, "no word"),
        ({"text": "x" * 1001}, "1000"),
        ({"text": "a", "text_weight": 1.5}, "text_weight"),
        ({"text": "a", "threshold": 0.3}, "cosine"),
    ],
)
def test_wrong_texts_are_refused(server, body, said):
    reply = server.client.post("/v1/search", json=body)
    assert 400 <= reply.status_code < 500
    assert said in reply.text


def test_saved_searches_are_listed_and_run(server, folder):
    path = str(folder / "few.lance")
    assert server.client.get("/v1/indexes/few/searches").json()["data"] == []
    saved = SavedSearch("ones", text="drawing1", options=SavedOptions(k=5))
    SavedSearches(path).save(saved)
    model = open_tiny()
    (query,) = read_queries(Index.open(path), [parse_query("a cat")], lambda: model)
    cats = SavedSearch("cats", query.terms, options=SavedOptions(k=2, where="number < 2"))
    SavedSearches(path).save(cats.with_embedding(query, model.identity))
    other = SavedSearch("other model", query.terms)
    SavedSearches(path).save(other)
    listed = server.client.get("/v1/indexes/few/searches").json()["data"]
    assert [one["name"] for one in listed] == ["cats", "ones", "other model"]
    assert listed[0]["options"] == {"k": 2, "where": "number < 2"}

    def run(**body):
        return server.client.post("/v1/indexes/few/searches", json=body)

    (hit,) = run(name="ones").json()["hits"]
    assert Path(hit["uri"]).name == "drawing1.png"
    expected = searched(server, index="few", terms=[{"text": "a cat"}], k=9)["hits"]
    # Another test may have added a row without a number.
    numbered = [one["id"] for one in expected if one["metadata"].get("number", 2) < 2]
    assert [one["id"] for one in run(name="cats").json()["hits"]] == numbered
    page = run(name="cats", k=1, offset=1).json()
    assert [one["id"] for one in page["hits"]] == numbered[1:]
    for body, said in (
        ({"name": "none"}, "has no saved search"),
        ({"name": "other model"}, "another model"),
        ({"name": "x" * 65}, "64"),
        ({}, "name"),
    ):
        reply = run(**body)
        assert 400 <= reply.status_code < 500
        assert said in reply.text


def test_searches_are_saved_and_removed_by_requests(server, folder):
    path = str(folder / "few.lance")
    item = searched(server, index="few", terms=[{"text": "a cat"}], k=1)["hits"][0]["id"]

    def save(**body):
        return server.client.post("/v1/indexes/few/searches/save", json=body)

    body = {
        "terms": [{"query": "a cat - 2:a dog"}, {"item": item, "weight": 0.5}],
        "text": "drawing",
        "filters": [{"column": "number", "op": "<", "value": 4}],
        "camera": None,
        "k": 3,
        "page": "?q=a+cat",
    }
    kept = save(name="from the page", **body)
    assert kept.status_code == 200, kept.text
    assert kept.json()["options"] == {"k": 3, "where": "`number` < 4"}
    assert kept.json()["page"] == "?q=a+cat"
    (stored,) = (one for one in SavedSearches(path).load() if one.name == "from the page")
    assert [(one.weight, one.kind) for one in stored.terms] == [
        (1, "text"), (-2, "text"), (0.5, "item")
    ]  # fmt: skip
    run = server.client.post("/v1/indexes/few/searches", json={"name": stored.name}).json()
    expected = searched(
        server, index="few", include_own=True, **{k: v for k, v in body.items() if k != "page"}
    )
    assert [hit["id"] for hit in run["hits"]] == [hit["id"] for hit in expected["hits"]]
    index = Index.open(path)
    query = stored.embedded(index.identity)
    assert stored.find(index, query).new == []  # what is there now is not new
    for wrong, said in (
        ({"name": "a/b", "text": "a"}, "cannot name a search"),
        ({"name": "a"}, "give terms, or a text"),
        ({"name": "a", "terms": [{"vector": expected["query"]["vector"]}]}, "is not kept"),
        ({"name": "a", "text": "a", "index": "few"}, "index"),
        ({"name": "a", "text": "a", "filters": [{"column": "none", "value": 1}]}, "no column"),
        ({"name": "a", "text": "a", "page": "x" * 9000}, "8000"),
    ):
        reply = save(**wrong)
        assert 400 <= reply.status_code < 500
        assert said in reply.text
    gone = server.client.post("/v1/indexes/few/searches/remove", json={"name": "from the page"})
    assert "from the page" not in {one["name"] for one in gone.json()["data"]}
    again = server.client.post("/v1/indexes/few/searches/remove", json={"name": "from the page"})
    assert again.status_code == 400


@pytest.mark.parametrize("field", ["query", "body", "path"])
def test_a_field_named_like_a_part_of_a_request_is_refused_by_its_name(server, field):
    reply = server.client.post("/v1/search", json={field: "a cat", "terms": [{"text": "a cat"}]})
    assert reply.status_code == 422
    assert field in reply.json()["error"]["message"]
