"""HTTP servers on free loopback ports, for tests of clients."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class FileHandler(SimpleHTTPRequestHandler):
    """Serves files, and logs nothing."""

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve_requests(
    handler: Callable[..., BaseHTTPRequestHandler],
) -> Iterator[ThreadingHTTPServer]:
    """Run a server until the block ends."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        # It looks for the end of the block this often; the default of 0.5 s delays every test.
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def serve_files(
    folder: Path, handler: type[SimpleHTTPRequestHandler] = FileHandler
) -> Iterator[str]:
    """Serve the files of a folder until the block ends, and return the URL of the folder."""
    with serve_requests(partial(handler, directory=str(folder))) as server:
        yield f"http://127.0.0.1:{server.server_port}"
