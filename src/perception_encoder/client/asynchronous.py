"""`AsyncClient`: a server's vectors and hits, for programs on an event loop."""

import asyncio
import itertools
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from perception_encoder.client.calls import (
    MODELS,
    Call,
    PictureToSend,
    SearchRequest,
    failure,
    field_of,
    image_calls,
    joined,
    search_call,
    text_calls,
    vectors_of,
)
from perception_encoder.client.options import ClientOptions, Outcome, seconds_until_retry
from perception_encoder.types import Embeddings

if TYPE_CHECKING:
    import httpx2


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
        self, images: Sequence[PictureToSend], *, dimensions: int | None = None
    ) -> Embeddings:
        """See `Client.embed_images`."""
        return await self._vectors(image_calls(self.options, images, dimensions))

    async def embed_text(
        self, texts: str | Sequence[str], *, dimensions: int | None = None
    ) -> Embeddings:
        """See `Client.embed_text`."""
        return await self._vectors(text_calls(self.options, texts, dimensions))

    async def search(self, query: PictureToSend, k: int = 10) -> list[dict[str, Any]]:
        """See `Client.search`."""
        return await self.search_for(SearchRequest(query=query, k=k))

    async def search_for(self, request: SearchRequest) -> list[dict[str, Any]]:
        """See `Client.search_for`."""
        return field_of((await self._ask(search_call(request))).content, "hits")

    async def models(self) -> list[dict[str, Any]]:
        """See `Client.models`."""
        return field_of((await self._ask(MODELS)).content, "data")

    async def close(self) -> None:
        """End all connections."""
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
        return joined([vectors_of(one.result().content) for one in asking])

    async def _ask(self, call: Call) -> "httpx2.Response":
        async with self._free:
            for attempt in itertools.count(1):
                outcome = await self._try(call)
                if not isinstance(outcome, Exception) and outcome.is_success:
                    return outcome
                wait = seconds_until_retry(self.options, attempt, outcome)
                if wait is None:
                    raise failure(call, outcome)
                await asyncio.sleep(wait)
        raise AssertionError  # count() does not end

    async def _try(self, call: Call) -> Outcome:
        content = await asyncio.to_thread(call.content)  # reads files
        try:
            return await self._http.request(call.method, call.path, **content)
        except self._unreachable as err:
            return err
