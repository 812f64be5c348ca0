"""Requests of the client and the meaning of replies, without sending anything."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
from PIL import Image

from perception_encoder.errors import RemoteError
from perception_encoder.preprocess.files import read_image_file
from perception_encoder.preprocess.image_strings import decode_data_uri, image_in_text
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    import httpx2


Outcome: TypeAlias = "httpx2.Response | httpx2.TransportError"
"""The outcome of one attempt."""

_BUSY: Final = frozenset((429, 502, 503, 504))
_FIRST_WAIT: Final = 0.25  # seconds; doubles each time
_LONGEST_WAIT: Final = 30.0
ImageToSend: TypeAlias = "str | PathLike[str] | bytes | Image.Image"
"""A path, a data URI, a file's bytes, or an image, which is sent as PNG."""

_SHOWN: Final = 200  # characters of a name, or of a reply that is not the server's own


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """Options of a client.

    Attributes:
        model: one of the server's; None takes its first.
        api_key: sent as a bearer token.
        batch_size: images or texts of one request.
        num_connections: requests in flight at once.
        timeout_seconds: for one attempt of one request.
        num_retries: further attempts where the server is busy or cannot be reached.
    """

    model: str | None = None
    api_key: str | None = None
    batch_size: int = 32
    num_connections: int = 4
    timeout_seconds: float = 60.0
    num_retries: int = 3

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.num_connections < 1 or self.num_retries < 0:
            raise ValueError(
                "batch_size and num_connections must be at least 1, num_retries at least 0"
            )

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers of every request."""
        return {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}


def choose_retry_wait(options: ClientOptions, attempt: int, outcome: Outcome) -> float | None:
    """Return how long to wait before the next attempt; None for no further one.

    The wait doubles each time, with jitter, and is at least what `Retry-After` says.

    Args:
        options: of the client.
        attempt: the number of attempts so far, from 1.
        outcome: of the last.
    """
    retry_after: str = ""
    if not isinstance(outcome, Exception):
        if outcome.status_code not in _BUSY:
            return None
        retry_after = outcome.headers.get("retry-after", "")
    if attempt > options.num_retries:
        return None
    wait = _FIRST_WAIT * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.5)
    return min(max(wait, float(retry_after) if retry_after.isdecimal() else 0.0), _LONGEST_WAIT)


@dataclass(frozen=True)
class Call:
    """One request.

    Attributes:
        method: of HTTP.
        path: below the server's URL.
        content: returns the arguments for the HTTP library; called when the request is sent, so
            that few images are in memory.
        offset: the position of its first item among all items.
    """

    method: str
    path: str
    content: Callable[[], dict[str, Any]]
    offset: int = 0


@dataclass(frozen=True, kw_only=True)
class SearchRequest:
    """A search in an index; the fields are those of POST /v1/search.

    Attributes:
        query: a text; or an image as `Path`, bytes of a file or PIL image; None searches by `text`
            or by `like` and `unlike` alone.
        k: how many hits.
        index: which index; None for the server's first.
        crop: the part of the query's image that counts: "x,y,width,height" in pixels, or
            "percent:x,y,width,height".
        text: words, and phrases in double quotes, to find in names and metadata.
        text_weight: share of `text` in the fused score, 0 to 1.
        like: images that hits should be like; they are no hits themselves.
        unlike: images that hits should not be like.
        since: only photos taken from then on: "2023-05", "yesterday", "2 weeks ago".
        until: only photos taken up to then, the whole year, month or day included.
        near: only photos taken there: "48.137,11.575,5km"; or a town.
        camera: only photos of cameras with this in their name.
        sort: "score", or "taken_at" for the newest photo of the hits first.
        filters: conditions on columns: {"column", "op", "value"}.
        threshold: the lowest cosine of a hit, or "strong" or "weak".
        unique: fold hits of that cosine under the best of them.
        bursts: fold photos of one camera that look alike, within so many seconds.
        pairs: fold a photo's RAW file and its Live Photo clip under it.
        rerank: another of the server's models, which orders the best hits anew. It embeds their
            images first; `timeout_seconds` of the client may have to be longer.
        candidates: how many hits `rerank` orders.
    """

    query: ImageToSend | None = None
    k: int = 10
    index: str | None = None
    crop: str | None = None
    text: str | None = None
    text_weight: float = 0.5
    like: Sequence[ImageToSend] = ()
    unlike: Sequence[ImageToSend] = ()
    since: str | None = None
    until: str | None = None
    near: str | None = None
    camera: str | None = None
    sort: Literal["score", "taken_at"] = "score"
    filters: Sequence[Mapping[str, Any]] = ()
    threshold: float | str | None = None
    unique: float | None = None
    bursts: float | None = None
    pairs: bool = True
    rerank: str | None = None
    candidates: int = 100


def build_image_calls(
    options: ClientOptions, images: Sequence[ImageToSend], dimensions: int | None
) -> list[Call]:
    """Return the requests that embed images."""
    fields = {name: str(value) for name, value in _fields(options, dimensions).items()}
    return [
        Call("POST", "/v1/embed", partial(_images, batch, fields), offset)
        for offset, batch in _batches(images, options.batch_size)
    ]


def build_text_calls(
    options: ClientOptions, texts: str | Sequence[str], dimensions: int | None
) -> list[Call]:
    """Return the requests that embed texts."""
    texts = [texts] if isinstance(texts, str) else texts
    fields = _fields(options, dimensions)
    return [
        Call("POST", "/v1/embed", partial(_json, {**fields, "texts": list(batch)}), offset)
        for offset, batch in _batches(texts, options.batch_size)
    ]


def build_search_call(request: SearchRequest) -> Call:
    """Return the request that searches an index."""
    return Call("POST", "/v1/search", partial(_search, request))


MODELS: Final = Call("GET", "/v1/models", dict)


def parse_embeddings(content: bytes) -> Embeddings:
    """Return the (N, E) float32 vectors of a reply.

    Raises:
        RemoteError: it holds something else.
    """
    try:
        return np.asarray(np.load(io.BytesIO(content), allow_pickle=False), dtype=np.float32)
    except (ValueError, TypeError, OSError, EOFError) as err:
        raise _not_ours(content) from err


def parse_field(content: bytes, name: str) -> list[dict[str, Any]]:
    """Return the list under a name of a JSON reply.

    Raises:
        RemoteError: there is none.
    """
    try:
        found = json.loads(content)[name]
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise _not_ours(content) from err
    if not isinstance(found, list):
        raise _not_ours(content)
    return found


def join_embeddings(parts: Sequence[Embeddings]) -> Embeddings:
    """Return the embeddings of all requests; (0, 0) without requests."""
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def build_error(call: Call, outcome: Outcome) -> RemoteError:
    """Return the error of the last attempt of a request."""
    if isinstance(outcome, Exception):
        reason = str(outcome) or type(outcome).__name__
        return RemoteError(f"the server was not reached ({reason}): is `pe serve` running there?")
    try:
        error = json.loads(outcome.content)["error"]
        code, message = str(error["code"]), str(error["message"])
        items = {call.offset + one["index"]: str(one["message"]) for one in error.get("items", ())}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        # Something between us and the server.
        code, message, items = "error", _beginning(outcome.content), {}
    status = outcome.status_code
    # The server counts within its request, its readers within all that they gave.
    places = f" (numbers among all: {', '.join(map(str, list(items)[:5]))})" if call.offset else ""
    return RemoteError(
        f"the server answered {status}: {message}{places if items else ''}",
        status=status,
        code=code,
        items=items,
    )


def _not_ours(content: bytes) -> RemoteError:
    return RemoteError(
        f"the reply is not that of `pe serve`: {_beginning(content)!r}; check the client's URL"
    )


def _beginning(content: bytes) -> str:
    return content[:_SHOWN].decode("utf-8", "replace")


def encode_image(image: ImageToSend) -> bytes:
    """Return an image as the bytes of a file.

    Raises:
        ImageNotFoundError: there is no such file.
        ImageError: it is no regular file, too large, or cannot be read; or a damaged data URI.
    """
    if isinstance(image, bytes):
        return image
    name = str(image)[:_SHOWN]
    if isinstance(image, str) and image_in_text(image) == "data URI":
        return decode_data_uri(image, item=name) or b""
    if isinstance(image, Image.Image):
        out = io.BytesIO()
        image.save(out, "PNG", compress_level=1)
        return out.getvalue()
    return read_image_file(image, item=name)


def _json(body: Mapping[str, Any]) -> dict[str, Any]:
    return {"json": body}


def _search(request: SearchRequest) -> dict[str, Any]:
    fields = {
        one.name: getattr(request, one.name)
        for one in dataclasses.fields(request)
        if one.name not in ("query", "crop")
    }
    terms: list[dict[str, str | None]] = []
    if isinstance(request.query, str):
        terms = [{"text": request.query, "crop": request.crop}]
    elif request.query is not None:
        terms = [{"image": _base64(request.query), "crop": request.crop}]
    marks = {
        name: [{"image": _base64(image)} for image in fields[name]] for name in ("like", "unlike")
    }
    filters = [dict(one) for one in request.filters]
    return _json({**fields, **marks, "terms": terms, "filters": filters})


def _base64(image: ImageToSend) -> str:
    return base64.b64encode(encode_image(image)).decode("ascii")


def _images(batch: Sequence[ImageToSend], fields: Mapping[str, str]) -> dict[str, Any]:
    files = [("images", (str(n), encode_image(image))) for n, image in enumerate(batch)]
    return {"files": files, "data": fields}


def _fields(options: ClientOptions, dimensions: int | None) -> dict[str, Any]:
    fields = {"model": options.model, "dimensions": dimensions, "encoding": "npy"}
    return {name: value for name, value in fields.items() if value is not None}


def _batches(items: Sequence[Any], size: int) -> Iterator[tuple[int, Sequence[Any]]]:
    for offset in range(0, len(items), size):
        yield offset, items[offset : offset + size]
