"""Asks a server (`pe serve`) instead of computing here: no model, no backend, only HTTP.

    from perception_encoder.client import Client

    with Client("http://127.0.0.1:9001") as client:
        images = client.embed_images(["cat.webp", "dog.webp"])  # (2, E) float32
        words = client.embed_text("a cat")  # (1, E)
        hits = client.search("red heart", k=5)

`AsyncClient` has the same methods as coroutines. Both split what they are given into batches, send
several at once, and try again where a server is busy or cannot be reached.
"""

from typing import TYPE_CHECKING

from perception_encoder._lazy import lazily

if TYPE_CHECKING:
    from perception_encoder.client.client import AsyncClient, Client
    from perception_encoder.client.requests import ClientOptions, SearchRequest

__getattr__ = lazily(
    __name__,
    {
        "AsyncClient": "perception_encoder.client.client",
        "Client": "perception_encoder.client.client",
        "ClientOptions": "perception_encoder.client.requests",
        "SearchRequest": "perception_encoder.client.requests",
    },
)

__all__ = ["AsyncClient", "Client", "ClientOptions", "SearchRequest"]
