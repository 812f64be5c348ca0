"""A small hub on loopback: those paths, headers and answers of huggingface.co that clients need.

Large files are answered as the real hub does, by a redirect to another host (a "CDN"), with the
content's SHA-256 and size in `X-Linked-*` headers; small ones directly, with git's hash as ETag.
"""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from local_http import serve_requests

COMMIT = "a" * 40
OLD_COMMIT = "b" * 40


@dataclass
class Request:
    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass
class FakeHub:
    """What the server has, how it misbehaves, and what it was asked.

    Attributes:
        files: (repo, revision, filename) to content; a commit or branch is a revision.
        cut_after: content bytes after which a connection is dropped; used up one by one.
        pause_after: content bytes after which sending stops, until this is None again.
        announce_more: bytes that the announced size exceeds the content by.
        corrupt: content is sent with its last byte changed.
        status: a status to answer everything with.
        ignores_ranges: whole files are sent, whatever part was asked for.
    """

    endpoint: str = ""
    cdn: str = ""
    files: dict[tuple[str, str, str], bytes] = field(default_factory=dict)
    cut_after: list[int] = field(default_factory=list)
    pause_after: int | None = None
    announce_more: int = 0
    corrupt: bool = False
    status: int | None = None
    ignores_ranges: bool = False
    requests: list[Request] = field(default_factory=list)

    def put(self, repo: str, filename: str, content: bytes, commit: str = COMMIT) -> None:
        self.files[repo, commit, filename] = content

    def gets(self) -> list[Request]:
        return [request for request in self.requests if request.method == "GET"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        headers = self.headers
        self.hub.requests.append(
            Request(self.command, self.path, headers["Range"], headers["Authorization"])
        )
        if self.hub.status is not None:
            self._send_error(self.hub.status, "")
        elif self.path.startswith("/cdn/"):
            digest = self.path.removeprefix("/cdn/")
            by_digest = {hashlib.sha256(c).hexdigest(): c for c in self.hub.files.values()}
            self._send_content(by_digest[digest], {"ETag": '"cdn"'})
        else:
            self._resolve()

    def _resolve(self) -> None:
        parts = self.path.lstrip("/").split("/", 4)
        if len(parts) < 5 or parts[2] != "resolve":
            return self._send_error(404, "")
        owner, name, _, revision, filename = parts
        repo, commit = f"{owner}/{name}", COMMIT if revision == "main" else revision
        if not any(known == repo for known, _, _ in self.hub.files):
            return self._send_error(401, "RepoNotFound")
        if not any((known, at) == (repo, commit) for known, at, _ in self.hub.files):
            return self._send_error(404, "RevisionNotFound")
        content = self.hub.files.get((repo, commit, filename))
        if content is None:
            return self._send_error(404, "EntryNotFound", {"X-Repo-Commit": commit})
        size = len(content) + self.hub.announce_more
        if filename.endswith(".json"):
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            return self._send_content(content, {"ETag": f'"{blob}"', "X-Repo-Commit": commit})
        digest = hashlib.sha256(content).hexdigest()
        self.send_response(302)
        self.send_header("Location", f"{self.hub.cdn}/cdn/{digest}")
        self.send_header("X-Repo-Commit", commit)
        self.send_header("X-Linked-Etag", f'"{digest}"')
        self.send_header("X-Linked-Size", str(size))
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    def _send_content(self, content: bytes, headers: dict[str, str]) -> None:
        if self.hub.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start, size = 0, len(content)
        asked = None if self.hub.ignores_ranges else self.headers["Range"]
        if asked is not None:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start = int(first)
            if start >= len(content):
                return self._send_error(416, "")
            content = content[: int(last) + 1] if last else content
        self.send_response(200 if asked is None else 206)
        for key, value in headers.items():
            self.send_header(key, value)
        if asked is not None:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{size}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "HEAD":
            return None
        if self.hub.cut_after:
            self.wfile.write(content[start : start + self.hub.cut_after.pop(0)])
            self.close_connection = True
            self.wfile.flush()
            self.connection.close()
            return None
        if self.hub.pause_after is not None:
            self.wfile.write(content[start : self.hub.pause_after])
            start = self.hub.pause_after
            while self.hub.pause_after is not None:
                time.sleep(0.02)
        with suppress(ConnectionError):  # the client may have been killed meanwhile
            self.wfile.write(content[start:])
        return None

    def _send_error(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"X-Error-Code": code, **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serve() -> Iterator[FakeHub]:
    """Run a hub until the block ends."""
    hub = FakeHub()
    with serve_requests(type("Handler", (_Handler,), {"hub": hub})) as server:
        hub.endpoint = f"http://127.0.0.1:{server.server_port}"
        hub.cdn = f"http://localhost:{server.server_port}"
        yield hub
