"""`Client` and `AsyncClient`: embeddings and hits from a server."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from perception_encoder.client.requests import (
    MODELS,
    Call,
    ClientOptions,
    ImageToSend,
    Outcome,
    SearchRequest,
    build_error,
    build_image_calls,
    build_search_call,
    build_text_calls,
    choose_retry_wait,
    join_embeddings,
    parse_embeddings,
    parse_field,
)
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    import httpx2


class Client:
    """A client of one server, for any thread. `close` it, or use it in a `with`.

    Args:
        url: of the server.
        options: of the client.
    """

    def __init__(
        self, url: str = "http://127.0.0.1:9001", options: ClientOptions | None = None
    ) -> None:
        import httpx2

        self.options = options or ClientOptions()
        self._unreachable = httpx2.TransportError
        self._http = httpx2.Client(
            base_url=url, headers=self.options.headers, timeout=self.options.timeout_seconds
        )
        self._pool = ThreadPoolExecutor(self.options.num_connections, "ask")

    def embed_images(
        self, images: Sequence[ImageToSend], *, dimensions: int | None = None
    ) -> Embeddings:
        """Embed images: (N, E) float32 of unit length, in their order.

        Args:
            images: paths, files' bytes or PIL images.
            dimensions: shorten embeddings to this many dimensions, of unit length again.

        Raises:
            RemoteError: the server refused or could not be reached; `items` names bad images.
            ImageNotFoundError: there is no file of that path.
        """
        return self._vectors(build_image_calls(self.options, images, dimensions))

    def embed_text(
        self, texts: str | Sequence[str], *, dimensions: int | None = None
    ) -> Embeddings:
        """Embed one text or many: (N, E) float32 of unit length; see `embed_images`."""
        return self._vectors(build_text_calls(self.options, texts, dimensions))

    def search(self, query: ImageToSend, k: int = 10) -> list[dict[str, Any]]:
        """Return the best hits of the server's first index; see `search_for`."""
        return self.search_for(SearchRequest(query=query, k=k))

    def search_for(self, request: SearchRequest) -> list[dict[str, Any]]:
        """Return the best hits of an index, each with `score`, `name`, `metadata` and more.

        Raises:
            RemoteError: the server refused or could not be reached.
        """
        return parse_field(self._ask(build_search_call(request)).content, "hits")

    def models(self) -> list[dict[str, Any]]:
        """Return the server's models, the default first."""
        return parse_field(self._ask(MODELS).content, "data")

    def close(self) -> None:
        """Close all connections."""
        self._pool.shutdown(cancel_futures=True)
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def _vectors(self, calls: Sequence[Call]) -> Embeddings:
        waiting = [self._pool.submit(self._ask, call) for call in calls]
        try:
            return join_embeddings([parse_embeddings(one.result().content) for one in waiting])
        finally:
            for one in waiting:  # nothing is left, unless one failed
                one.cancel()

    def _ask(self, call: Call) -> "httpx2.Response":
        for attempt in itertools.count(1):
            outcome = self._try(call)
            if not isinstance(outcome, Exception) and outcome.is_success:
                return outcome
            wait = choose_retry_wait(self.options, attempt, outcome)
            if wait is None:
                raise build_error(call, outcome)
            time.sleep(wait)
        raise AssertionError  # count() does not end

    def _try(self, call: Call) -> Outcome:
        try:
            return self._http.request(call.method, call.path, **call.content())
        except self._unreachable as err:
            return err


class AsyncClient:
    """The methods of `Client` as coroutines; `close` it, or use it in an `async with`."""

    def __init__(
        self, url: str = "http://127.0.0.1:9001", options: ClientOptions | None = None
    ) -> None:
        import httpx2

        self.options = options or ClientOptions()
        self._unreachable = httpx2.TransportError
        self._http = httpx2.AsyncClient(
            base_url=url, headers=self.options.headers, timeout=self.options.timeout_seconds
        )
        self._free = asyncio.Semaphore(self.options.num_connections)

    async def embed_images(
        self, images: Sequence[ImageToSend], *, dimensions: int | None = None
    ) -> Embeddings:
        """See `Client.embed_images`."""
        return await self._vectors(build_image_calls(self.options, images, dimensions))

    async def embed_text(
        self, texts: str | Sequence[str], *, dimensions: int | None = None
    ) -> Embeddings:
        """See `Client.embed_text`."""
        return await self._vectors(build_text_calls(self.options, texts, dimensions))

    async def search(self, query: ImageToSend, k: int = 10) -> list[dict[str, Any]]:
        """See `Client.search`."""
        return await self.search_for(SearchRequest(query=query, k=k))

    async def search_for(self, request: SearchRequest) -> list[dict[str, Any]]:
        """See `Client.search_for`."""
        return parse_field((await self._ask(build_search_call(request))).content, "hits")

    async def models(self) -> list[dict[str, Any]]:
        """See `Client.models`."""
        return parse_field((await self._ask(MODELS)).content, "data")

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, err: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def _vectors(self, calls: Sequence[Call]) -> Embeddings:
        try:
            async with asyncio.TaskGroup() as group:
                asking = [group.create_task(self._ask(call)) for call in calls]
        except ExceptionGroup as err:
            raise err.exceptions[0] from err
        return join_embeddings([parse_embeddings(one.result().content) for one in asking])

    async def _ask(self, call: Call) -> "httpx2.Response":
        async with self._free:
            for attempt in itertools.count(1):
                outcome = await self._try(call)
                if not isinstance(outcome, Exception) and outcome.is_success:
                    return outcome
                wait = choose_retry_wait(self.options, attempt, outcome)
                if wait is None:
                    raise build_error(call, outcome)
                await asyncio.sleep(wait)
        raise AssertionError  # count() does not end

    async def _try(self, call: Call) -> Outcome:
        content = await asyncio.to_thread(call.content)  # reads files
        try:
            return await self._http.request(call.method, call.path, **content)
        except self._unreachable as err:
            return err
