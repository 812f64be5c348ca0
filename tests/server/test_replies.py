"""Every reply is JSON that strict parsers read, whatever names and numbers it holds."""

import datetime
import json
from decimal import Decimal

import numpy as np
import pytest
from server.serving import running

from perception_encoder.server import ServerSettings
from perception_encoder.server.http.replies import json_reply
from perception_encoder.server.options import ModelSettings


def strictly(content: bytes):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(content.decode("utf-8", "strict"), parse_constant=refuse)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (float("nan"), None),
        (float("-inf"), None),
        (np.array([1.0, np.nan, np.inf], np.float32), [1.0, None, None]),
        ("caf\udce9.jpg", "caf\\udce9.jpg"),
        ({"caf\udce9": ["\ud800"]}, {"caf\\udce9": ["\\ud800"]}),
        (2**64, str(2**64)),
        (2**64 - 1, 2**64 - 1),
        (-(2**63), -(2**63)),
        ([10**400, Decimal("1.5"), b"x"], [str(10**400), "1.5", "b'x'"]),
        (datetime.date(2020, 1, 2), "2020-01-02"),
        ({1: "a", None: "b"}, {"1": "a", "null": "b"}),
    ],
)
def test_what_json_cannot_hold_has_a_form(value, written):
    assert strictly(json_reply({"value": value}).body)["value"] == written


def test_a_model_whose_name_is_not_valid_text_can_be_named(tmp_path):
    folder = tmp_path / "t\udce9"
    folder.mkdir()
    with running(ServerSettings(models=ModelSettings(names=(str(folder),)))) as server:
        name = strictly(server.client.get("/v1/models").content)["data"][0]["id"]
        assert name == "t\\udce9"
        assert server.client.get("/v1/models/t%5Cudce9").json()["id"] == name
        for path in ("/v1/embed", "/perception_encoder/embed_text"):
            body = (
                {"texts": ["a"], "model": name}
                if path == "/v1/embed"
                else {"text": "a", "model_id": name}
            )
            reply = server.client.post(path, json=body)
            assert reply.status_code == 200, reply.text
            assert name in reply.text.replace("\\\\", "\\")
