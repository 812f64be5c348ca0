"""Runs real servers for tests: the app on uvicorn, on a free loopback port, in a thread."""

import base64
import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import httpx2
import uvicorn
from fastapi import FastAPI
from PIL import Image
from small_models import drawing, open_tiny

from perception_encoder.embedder import EmbeddingModel
from perception_encoder.index import Index, MetadataValue, Row
from perception_encoder.server import ServerSettings, create_app
from perception_encoder.server.api.base import Services
from perception_encoder.server.core import queries
from perception_encoder.server.http import connection as protocol

START_SECONDS = 100


@dataclass(frozen=True)
class Running:
    """A server that answers, and a client of it."""

    url: str
    port: int
    app: FastAPI
    client: httpx2.Client
    model: EmbeddingModel
    """What the server computes with, to compare replies with."""

    @property
    def services(self) -> Services:
        services: Services = self.app.state.services
        return services


@contextmanager
def running(
    settings: ServerSettings | None = None,
    *,
    model: EmbeddingModel | None = None,
    open_model: Callable[[str], EmbeddingModel] | None = None,
    change: Callable[[FastAPI], None] = lambda _: None,
) -> Iterator[Running]:
    """Start a server over a tiny model (or the one given), and end it in order.

    Args:
        settings: the defaults, if None.
        model: given to the server, which closes it.
        open_model: opens models by name instead.
        change: is given the app before it runs.
    """
    model = model or open_tiny()
    app = create_app(settings or ServerSettings(), open_model=open_model or (lambda _: model))
    change(app)
    server = uvicorn.Server(
        uvicorn.Config(
            app, port=0, http=protocol.TimedProtocol, ws="none", log_config=None, access_log=False,
            timeout_keep_alive=protocol.KEEP_ALIVE_SECONDS, timeout_graceful_shutdown=10,
        )
    )  # fmt: skip
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until = time.monotonic() + START_SECONDS
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            assert time.monotonic() < until, "the server did not start in time"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        with (
            # A busy machine takes longer, and what a request then does without is missed by tests.
            patch.object(queries, "_TEXTS_SECONDS", START_SECONDS),
            httpx2.Client(base_url=url, timeout=100) as client,
        ):
            while client.get("/readiness").status_code != 200:
                assert time.monotonic() < until, "the server is not ready"
                time.sleep(0.01)
            yield Running(url, port, app, client, model)
    finally:
        server.should_exit = True
        thread.join(START_SECONDS)
        assert not thread.is_alive(), "the server did not end"


def wait_for_cutoffs(server: Running, index: str | None = None) -> None:
    """Search until the index is calibrated, which begins with its first search.

    A page that learns the cutoffs later lays its hits out anew, with labels.
    """
    body = {"index": index, "terms": [{"text": "a cat"}], "k": 1}
    end = time.monotonic() + START_SECONDS
    while server.client.post("/v1/search", json=body).json()["query"]["cutoffs"] is None:
        assert time.monotonic() < end, "the index is not calibrated"
        time.sleep(0.05)


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    """An image's file."""
    out = io.BytesIO()
    image.save(out, form)
    return out.getvalue()


def image(seed: int, width: int = 40, height: int = 30) -> bytes:
    """A PNG unlike those of other seeds."""
    return encoded(drawing(seed, width, height))


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def data_uri(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{in_base64(data)}"


def make_index(
    path: Path,
    model: EmbeddingModel,
    files: list[Path],
    more: Callable[[int], dict[str, MetadataValue]] = lambda _: {},
) -> Index:
    """An index of those files; each row has its number, a color or none, and `more` of a number."""
    rows = []
    for number, file in enumerate(files):
        with Image.open(file) as image:
            width, height = image.size
        status = file.stat()
        metadata: dict[str, MetadataValue] = {"number": number, **more(number)}
        metadata["color"] = ("red", "blue")[number % 2]
        if number % 5 == 4:
            del metadata["color"]
        rows.append(
            Row(
                uri=str(file),
                width=width,
                height=height,
                bytes=status.st_size,
                mtime=status.st_mtime_ns,
                metadata=metadata,
            )
        )
    index = Index.create(path, model.identity)
    index.add(rows, model.embed_images(files))
    return index
