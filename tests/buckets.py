"""A bucket of a real server that speaks S3, on this machine, which can fail and be slow."""

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from unittest.mock import patch

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

Fault = Literal["refused", "answer lost", "held"]
"""refused: 503, nothing is done. answer lost: it is done, and answered 503. held: answered when
`Bucket.release` is set."""

_SLOW_DOWN = (
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


@dataclass
class Bucket:
    """A bucket, and what is asked of it."""

    uri: str
    find_fault: Callable[[str, str], Fault | None] = lambda _method, _path: None
    """Given a request's method and path, returns what goes wrong."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    arrived: threading.Event = field(default_factory=threading.Event)
    """Set by every request."""
    release: threading.Event = field(default_factory=threading.Event)

    def written(self) -> list[tuple[str, str]]:
        """The requests so far that change something."""
        return [one for one in self.requests if one[0] not in ("GET", "HEAD")]


class _QuietHandler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:
        """Print nothing."""


_numbers = itertools.count()  # moto keeps the buckets of this process


@contextmanager
def open_bucket() -> Iterator[Bucket]:
    """Start a server with an empty bucket, to which the environment's variables lead."""
    name = f"indexes-{next(_numbers)}"
    bucket = Bucket(f"s3://{name}")
    moto = DomainDispatcherApplication(create_backend_app)

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = (environ["REQUEST_METHOD"], environ["PATH_INFO"])
        bucket.requests.append(request)
        bucket.arrived.set()
        fault = bucket.find_fault(*request)
        if fault == "held":
            bucket.release.wait(100)
        if fault is None or fault == "held":
            return moto(environ, start_response)
        if fault == "answer lost":
            b"".join(moto(environ, lambda *_: None))
        else:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(_SLOW_DOWN)))]
        start_response("503 Slow Down", headers)
        return [_SLOW_DOWN]

    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_QuietHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        with patch.dict(os.environ, settings):
            boto3.client("s3").create_bucket(Bucket=name)
            yield bucket
    finally:
        bucket.release.set()
        server.shutdown()
        server.server_close()
        thread.join()
