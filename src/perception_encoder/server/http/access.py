"""Keys, sessions of the page, and rate limits. Keys are stored as hashes."""

import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from starlette.requests import Request

from perception_encoder.server.http.errors import ApiError
from perception_encoder.server.options import AccessSettings

COOKIE: Final = "pe_session"

SHORTEST_KEY: Final = 16
"""Characters: with fewer a key could be found by trying."""

_SESSION_SECONDS: Final = 12 * 3600
_MOST_SESSIONS: Final = 10_000
_MOST_CALLERS: Final = 100_000
_KEY: Final = re.compile(r"[!-~]+")
_DIGEST: Final = re.compile(r"[0-9a-fA-F]{64}")
_NO_KEYS: Final = frozenset(("", "none", "null"))  # what clients send that have no key
_MAKE_ONE: Final = "`pe serve --new-key` makes one"
_COMMENT: Final = re.compile(r"(^|\s)#.*")


def hash_key(key: str) -> str:
    """Return the SHA-256 of a key, hex. Keys are long and random, so a salt is not needed."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def read_key_hash(written: str) -> str:
    """Return the hash of a line of a key file: a key, or `sha256:HEX`.

    Raises:
        ValueError: too short for a key, of signs that no header carries, or no hash.
    """
    kind, _, digest = written.partition(":")
    if kind.strip().lower() == "sha256":
        if not _DIGEST.fullmatch(digest.strip()):
            raise ValueError("the hash of a key is sha256: and 64 hexadecimal digits")
        return digest.strip().lower()
    if not _KEY.fullmatch(written):
        raise ValueError("a key consists of visible ASCII characters, without spaces")
    if len(written) < SHORTEST_KEY:
        raise ValueError(
            f"a key must have at least {SHORTEST_KEY} characters (`pe serve --new-key` makes one)"
        )
    return hash_key(written)


def generate_key() -> str:
    """Return a fresh key of 256 random bits."""
    return f"pe-{secrets.token_urlsafe(32)}"


class AccessControl:
    """Decides which requests are answered."""

    def __init__(self, settings: AccessSettings) -> None:
        self._hashes = tuple(settings.key_hashes)
        self._rates = Rates(settings.requests_per_minute)
        self._sessions: OrderedDict[str, float] = OrderedDict()  # hash of the token: its end

    @property
    def needs_key(self) -> bool:
        """Whether requests without a key are refused."""
        return bool(self._hashes)

    def is_known(self, request: Request, further: Iterable[str | None] = ()) -> bool:
        """Say whether a request has an accepted key or session, without counting it."""
        accepted = self._find_accepted([*_read_keys_of_headers(request), *further])
        return accepted is not None or self._has_session(request)

    def admit(self, request: Request, further: Iterable[str | None] = ()) -> None:
        """Check and count a request.

        A key may come as `Authorization: Bearer KEY` or `X-API-Key: KEY`; or the request has the
        cookie of a session that `open_session` began.

        Args:
            request: the request; its headers are read.
            further: keys from the query or body, for APIs whose clients send them there.

        Raises:
            ApiError: 401 without an accepted key; 429 with Retry-After where the rate is exceeded.
        """
        host = request.client.host if request.client else ""
        caller = f"address {host}"
        if self._hashes:
            accepted = self._find_accepted([*_read_keys_of_headers(request), *further])
            if accepted is None and not self._has_session(request):
                raise ApiError(
                    401,
                    "unauthorized",
                    "this server needs a key: send the header 'Authorization: Bearer KEY'",
                    headers={"WWW-Authenticate": "Bearer"},
                )
            caller = accepted or f"session {hash_key(request.cookies.get(COOKIE, ''))}"
        request.scope["pe.caller"] = caller
        self._rates.count(caller)

    def open_session(self) -> tuple[str, int]:
        """Begin a session for the page: its `<img>` requests cannot send headers.

        Returns:
            The token for the cookie `COOKIE`, and its lifetime in seconds.
        """
        token = secrets.token_urlsafe(32)
        self._sessions[hash_key(token)] = time.monotonic() + _SESSION_SECONDS
        while len(self._sessions) > _MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return token, _SESSION_SECONDS

    def _has_session(self, request: Request) -> bool:
        token = request.cookies.get(COOKIE)
        return token is not None and self._sessions.get(hash_key(token), 0.0) > time.monotonic()

    def _find_accepted(self, keys: Iterable[str | None]) -> str | None:
        """Return the hash of the first accepted key; every hash is compared with every key."""
        found = None
        for key in keys:
            if key is None or key.strip().lower() in _NO_KEYS:
                continue
            mine = hash_key(key.strip())
            for known in self._hashes:
                if hmac.compare_digest(mine, known) and found is None:
                    found = known
        return found


class Rates:
    """Limits requests of callers with token buckets that hold the requests of one minute."""

    def __init__(self, per_minute: int | None) -> None:
        self._per_minute = per_minute
        self._callers: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, at

    def count(self, caller: str) -> None:
        """Count one request.

        Raises:
            ApiError: 429 with Retry-After, the caller has no tokens left.
        """
        if self._per_minute is None:
            return
        now = time.monotonic()
        tokens, at = self._callers.pop(caller, (float(self._per_minute), now))
        tokens = min(self._per_minute, tokens + (now - at) * self._per_minute / 60)
        self._callers[caller] = (max(0.0, tokens - 1), now)
        while len(self._callers) > _MOST_CALLERS:
            self._callers.popitem(last=False)
        if tokens < 1:
            self._callers[caller] = (tokens, now)
            wait = max(1, round((1 - tokens) * 60 / self._per_minute))
            raise ApiError(
                429,
                "rate_limited",
                f"more than {self._per_minute} requests a minute; ask again in {wait} s",
                headers={"Retry-After": str(wait)},
            )


def _read_keys_of_headers(request: Request) -> list[str]:
    keys = request.headers.getlist("x-api-key")
    for value in request.headers.getlist("authorization"):
        scheme, _, key = value.partition(" ")
        if scheme.lower() == "bearer":
            keys.append(key)
    return keys


def read_keys(file: Path | None, keys: str | None) -> tuple[str, ...]:
    """Return the hashes of the accepted keys, each once; the keys themselves are not kept.

    A line holds a key or its hash (`sha256:HEX`). What follows a `#` at its start or after a space
    is a comment; blank lines, spaces around and a byte order mark mean nothing.

    Args:
        file: of keys, one a line.
        keys: more of them, with commas between.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is no key, or the file holds none; the line itself is not quoted.
    """
    found = list(_hashes(_lines(file))) if file is not None else []
    if file is not None and not found:
        raise ValueError(f"{file} holds no key; {_MAKE_ONE}")
    written = (keys or "").split(",")
    found += _hashes((f"PE_KEYS, key {number}", key) for number, key in enumerate(written, 1))
    return tuple(dict.fromkeys(found))


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as err:
        raise OSError(
            f"the key file {file} cannot be read: {err.strerror}; give --key-file a file that this "
            "user may read"
        ) from err
    except UnicodeDecodeError as err:
        raise ValueError(f"the key file {file} is no text in UTF-8; save it as UTF-8") from err
    for number, line in enumerate(text.splitlines(), 1):
        yield f"{file}, line {number}", line


def _hashes(lines: Iterable[tuple[str, str]]) -> Iterator[str]:
    for place, line in lines:
        written = _COMMENT.sub("", line).strip()
        if not written:
            continue
        try:
            yield read_key_hash(written)
        except ValueError as err:
            raise ValueError(f"{place}: {err}") from None
