"""Runs in the environment of other people's clients: Cohere's `ClientV2` and `AsyncClientV2`.

    python cohere_client.py URL KEY IMAGE

IMAGE is a data URI. Prints one JSON object: what each call returned.
"""

import asyncio
import json
import sys
from typing import Any

from cohere import AsyncClientV2, ClientV2
from cohere.core.api_error import ApiError


def main(url: str, key: str, image: str) -> None:
    client = ClientV2(api_key=key, base_url=url)
    stranger = ClientV2(api_key="another-key-of-some-length", base_url=url)
    every = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    mixed = [
        {"content": [{"type": "image_url", "image_url": {"url": image}}]},
        {"content": [{"type": "text", "text": "a cat"}]},
    ]

    def ask(one: ClientV2 = client, **options: Any) -> Any:
        try:
            reply = one.embed(**{"model": "embed-v4.0", "input_type": "search_query", **options})
        except ApiError as err:
            return {"status": err.status_code, "kind": type(err).__name__, "body": err.body}
        return json.loads(reply.model_dump_json(by_alias=True, exclude_none=True))

    async def ask_later() -> Any:
        async with AsyncClientV2(api_key=key, base_url=url) as later:
            reply = await later.embed(model="embed-v4.0", input_type="image", images=[image])
        return reply.embeddings.float_

    found = {
        "texts": ask(texts=["a cat", "a dog"], embedding_types=every),
        "images": ask(images=[image], output_dimension=8),
        "inputs": ask(inputs=mixed),
        "later": asyncio.run(ask_later()),
        "too long": ask(texts=["a very long text " * 20], truncate="NONE"),
        "unknown model": ask(texts=["a"], model="no-such-model"),
        "stranger": ask(stranger, texts=["a"]),
    }
    sys.stdout.write(json.dumps(found) + "\n")


main(*sys.argv[1:])
