"""What an API can count on: the contract for whoever adds one."""

from typing import Any

import numpy as np
import pytest
from fastapi import Depends, FastAPI, Request, Response
from pydantic import BaseModel
from server.serving import data_uri, image, running
from small_models import open_tiny

from perception_encoder.errors import QueryError
from perception_encoder.server import ServerSettings, create_app
from perception_encoder.server.api.base import Api, ApiRoutes, Services
from perception_encoder.server.http.access import hash_key
from perception_encoder.server.http.errors import ApiError
from perception_encoder.server.http.replies import json_reply
from perception_encoder.server.options import AccessSettings

KEY = "a-key-of-some-length"


class Body(BaseModel):
    images: list[str] = []
    texts: list[str] = []
    api_key: str | None = None


def build(services: Services) -> ApiRoutes:
    routes = API.routes(services)

    @routes.post("/mine/embed")
    async def embed(request: Request, body: Body) -> Response:
        services.access.admit(request, [body.api_key])
        async with services.served_models.use(None) as worker:
            images = await worker.embed_images(await services.load_images(body.images))
            texts = await worker.embed_texts(body.texts)
        return json_reply({"images": images.require(), "texts": texts})

    @routes.post("/mine/fail/{how}")
    async def fail(how: str) -> Response:
        if how == "api":
            raise ApiError(418, "teapot", "short and stout")
        if how == "query":
            raise QueryError("no such thing")
        raise RuntimeError("with a secret")

    return routes


def error_body(answer: ApiError, err: Exception) -> Any:
    return {"oops": answer.message, "status": answer.status_code, "type": type(err).__name__}


API = Api("mine", build, error_body=error_body, needs_key=False)


def test_only_routes_that_need_nothing_of_the_framework_are_direct():
    services = create_app(ServerSettings(), open_model=lambda _: open_tiny()).state.services
    routes = Api("short", build).routes(services)

    @routes.post("/short")
    async def short(request: Request) -> Response:
        return json_reply(await request.json())

    @routes.post("/guarded", dependencies=[Depends(lambda: None)])
    async def guarded(request: Request) -> Response:
        return json_reply(await request.json())

    @routes.post("/in/{part}")
    async def with_part(request: Request) -> Response:
        return json_reply(request.path_params)

    @routes.post("/body")
    async def with_body(request: Request, body: Body) -> Response:
        return json_reply([request.method, body.texts])

    @routes.post("/plain")
    def plain(request: Request) -> Response:
        return json_reply(request.method)

    @routes.get("/nothing")
    async def without_parameters() -> Response:
        return json_reply([])

    assert [route.path for route in routes if route.is_direct] == ["/short", "/nothing"]


def test_what_holds_for_every_request_holds_for_direct_routes():
    access = AccessSettings(key_hashes=(hash_key(KEY),), max_body_bytes=1000)
    with running(ServerSettings(access=access)) as server:

        def ask(method: str = "POST", path: str = "/v1/embed", key: str = KEY, **content):
            headers = {"X-API-Key": key, "X-Request-ID": "mine"}
            return server.client.request(method, path, headers=headers, **content)

        good = ask(json={"texts": ["a"]})
        assert (good.status_code, good.headers["x-request-id"]) == (200, "mine")
        assert good.headers["x-content-type-options"] == "nosniff"
        assert ask(key="another key of some length", json={"texts": ["a"]}).status_code == 401
        assert ask(json={"texts": ["a" * 2000]}).status_code == 413
        assert ask(json={"texts": 1}).status_code == 422
        assert ask(path="/v1/embeddings", content=b"{").json()["error"]["type"] == (
            "invalid_request_error"
        )
        assert ask("GET").status_code == 405
        counted = ask("GET", "/metrics").text
        assert 'pe_requests_total{api="native",route="/v1/embed",status="200"} 1.0' in counted
        assert 'pe_requests_total{api="native",route="/v1/embed",status="401"} 1.0' in counted


def with_mine(app: FastAPI) -> None:
    app.router.routes += build(app.state.services)


@pytest.fixture(scope="module")
def server():
    with running(change=with_mine) as running_server:
        yield running_server


def test_images_and_texts_come_back_as_the_model_embeds_them(server):
    files = [image(1), image(2, 25, 50)]
    body = {"images": [data_uri(file) for file in files], "texts": ["a cat", ""]}
    reply = server.client.post("/mine/embed", json=body).json()
    images = server.model.embed_images(files)
    assert np.allclose(reply["images"], images, atol=2e-5)
    assert np.allclose(reply["texts"], server.model.embed_text(body["texts"]), atol=2e-5)


@pytest.mark.parametrize(
    ("how", "status", "message", "type_"),
    [
        ("api", 418, "short and stout", "ApiError"),
        ("query", 400, "no such thing", "QueryError"),
    ],
)
def test_errors_have_the_shape_of_the_api(server, how, status, message, type_):
    reply = server.client.post(f"/mine/fail/{how}")
    assert reply.status_code == status
    assert reply.json() == {"oops": message, "status": status, "type": type_}


def test_an_unexpected_error_says_nothing_of_the_inside(server):
    reply = server.client.post("/mine/fail/unexpected")
    assert reply.status_code == 500
    assert "secret" not in reply.text
    assert reply.json()["status"] == 500


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"images": "no list"}, 422),
        ({"images": ["***"]}, 400),
        ({"images": [data_uri(b"no image")]}, 400),
    ],
)
def test_bad_bodies_and_images_have_the_shape_of_the_api(server, body, status):
    reply = server.client.post("/mine/embed", json=body)
    assert reply.status_code == status
    assert set(reply.json()) == {"oops", "status", "type"}


def test_json_that_is_none_has_the_shape_of_the_api(server):
    reply = server.client.post(
        "/mine/embed", content=b"{", headers={"Content-Type": "application/json"}
    )
    assert reply.status_code == 422
    assert reply.json()["type"] == "RequestValidationError"


def test_an_api_may_take_the_key_from_the_body():
    settings = ServerSettings(access=AccessSettings(key_hashes=(hash_key(KEY),)))
    with running(settings, change=with_mine) as server:
        assert server.client.post("/mine/embed", json={"texts": ["a"]}).status_code == 401
        body = {"texts": ["a"], "api_key": KEY}
        assert server.client.post("/mine/embed", json=body).status_code == 200


def test_every_reply_has_an_id_and_the_headers_of_safety(server):
    reply = server.client.post("/mine/fail/api", headers={"X-Request-ID": "my-id.1"})
    assert reply.headers["x-request-id"] == "my-id.1"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert (
        server.client.get("/nowhere", headers={"X-Request-ID": "no\tgood"}).headers["x-request-id"]
        != "no\tgood"
    )
