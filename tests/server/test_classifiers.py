"""Classifiers of the server, marks in searches, and what marks teach."""

import pytest
from server.serving import in_base64, make_index, running

from perception_encoder import AutoModel
from perception_encoder.analysis.classifier_file import parse_classifier
from perception_encoder.analysis.few_shot import FewShotClassifier
from perception_encoder.index import row_id
from perception_encoder.server import ServerSettings

HEARTS = ("red-heart", "blue-heart", "green-heart")
ANIMALS = ("cat", "dog", "horse")


@pytest.fixture(scope="module")
def files(gallery):
    names = (*HEARTS, *ANIMALS, "purple-heart", "yellow-heart", "sheep", "cow", "anchor", "bus")
    return {name: gallery / f"{name}.webp" for name in names}


@pytest.fixture(scope="module")
def model():
    return AutoModel.from_pretrained("pe-nano")


@pytest.fixture(scope="module")
def server(files, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("taught")
    make_index(folder / "drawings.lance", model, list(files.values()))
    examples = {"heart": HEARTS, "animal": ANIMALS}
    FewShotClassifier.from_model(
        model, {label: [files[name] for name in some] for label, some in examples.items()}
    ).save(folder / "things.npz")
    settings = ServerSettings(
        indexes=(str(folder / "drawings.lance"),), classifiers=(str(folder / "things.npz"),)
    )
    with running(settings, open_model=lambda _: model) as running_server:
        yield running_server


def _post(server, path, **body):
    return server.client.post(path, json=body)


def _hits(server, **body):
    reply = _post(server, "/v1/search", k=3, **body)
    assert reply.status_code == 200, reply.text
    return [hit["name"].rpartition("/")[2].removesuffix(".webp") for hit in reply.json()["hits"]]


def _item(files, name):
    return {"item": row_id(str(files[name]))}


def test_images_are_classified_by_a_classifier(server, files):
    listed = server.client.get("/v1/classifiers").json()["classifiers"]
    assert [(one["name"], one["labels"]) for one in listed] == [("things", ["heart", "animal"])]
    images = [in_base64(files[name].read_bytes()) for name in ("purple-heart", "sheep")]
    reply = _post(server, "/v1/classify", images=[*images, "AAAA"], classifier="things").json()
    given = [
        [label["label"] for label in one["labels"] if label["applies"]] for one in reply["results"]
    ]
    assert given == [["heart"], ["animal"], []]
    assert reply["results"][2]["error"]
    unknown = _post(server, "/v1/classify", images=images, classifier="none")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (400, "invalid_classifier")
    both = _post(server, "/v1/classify", images=images, classifier="things", labels=["a"])
    assert both.status_code == 422


def test_marks_move_a_search_and_are_no_hits(server, files):
    marks = {
        "like": [_item(files, "red-heart"), _item(files, "blue-heart")],
        "unlike": [_item(files, "cat")],
    }
    found = _hits(server, **marks)
    assert set(found) == {"green-heart", "purple-heart", "yellow-heart"}
    animals = _hits(server, terms=[{"text": "a heart"}], like=[_item(files, "cat")] * 2)
    assert set(animals) & {"dog", "horse", "sheep", "cow"}
    image = {"image": in_base64(files["red-heart"].read_bytes())}
    assert "red-heart" in _hits(server, like=[image])  # a file of elsewhere, which is in the index


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"like": [{"item": "x"}]}, 400),
        ({"like": [{}]}, 422),
        ({"like": [{"item": "x"}] * 201}, 422),
        ({}, 422),
    ],
)
def test_wrong_marks_are_refused(server, body, status):
    assert _post(server, "/v1/search", **body).status_code == status


def test_one_image_cannot_be_marked_both_ways(server, files):
    both = {"like": [_item(files, "cat")], "unlike": [_item(files, "cat")]}
    reply = _post(server, "/v1/search", **both)
    assert reply.status_code == 400
    assert "liked and as unliked" in reply.text


def test_marks_teach_a_classifier(server, model, files):
    ids = {name: row_id(str(path)) for name, path in files.items()}
    reply = _post(
        server,
        "/v1/teach",
        examples={"heart": [ids[name] for name in HEARTS]},
        none=[ids[name] for name in ANIMALS],
    )
    assert reply.headers["content-type"] == "application/octet-stream"
    classifier = parse_classifier(reply.content)
    found = classifier.classify(model.embed_images([files["purple-heart"], files["sheep"]]))
    assert found.given() == [("heart",), ()]


@pytest.mark.parametrize(
    ("examples", "none", "why"),
    [
        ({"heart": ["x"]}, ["y"], "no item"),
        ({"heart": []}, [], "at least one"),
        ({"heart": ["red-heart"]}, [], "nothing to tell"),
        ({"heart": ["red-heart"]}, ["red-heart"], "twice"),
    ],
)
def test_marks_that_teach_nothing_are_refused(server, files, examples, none, why):
    def to_id(name):
        return row_id(str(files[name])) if name in files else name

    reply = _post(
        server,
        "/v1/teach",
        examples={label: list(map(to_id, some)) for label, some in examples.items()},
        none=list(map(to_id, none)),
    )
    assert reply.status_code == 400
    assert why in reply.text
