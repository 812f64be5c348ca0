"""Runs in the environment of other people's clients: Ollama's `Client` and `AsyncClient`.

    python ollama_client.py URL KEY IMAGE

IMAGE is a data URI. Prints one JSON object: what each call returned.
"""

import asyncio
import json
import sys
from typing import Any

from ollama import AsyncClient, Client, ResponseError


def main(url: str, key: str, image: str) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    client = Client(host=url, headers=headers)

    def ask(model: str, given: Any, **options: Any) -> Any:
        try:
            return json.loads(client.embed(model=model, input=given, **options).model_dump_json())
        except ResponseError as err:
            return {"status": err.status_code, "error": err.error}

    async def ask_later() -> Any:
        reply = await AsyncClient(host=url, headers=headers).embed(model="pe-nano", input="a cat")
        return reply.embeddings

    found = {
        "text": ask("pe-nano", "a cat", keep_alive="5m", options={"num_ctx": 512}),
        "list": ask("nomic-embed-text:latest", ["a cat", image], dimensions=8, truncate=True),
        "nothing": ask("pe-nano", ""),
        "later": asyncio.run(ask_later()),
        "older": client.embeddings(model="pe-nano:latest", prompt="a cat").embedding,
        "models": json.loads(client.list().model_dump_json()),
        "too long": ask("pe-nano", ["a", "a very long text " * 20], truncate=False),
        "unknown model": ask("llama3", "a cat"),
    }
    sys.stdout.write(json.dumps(found) + "\n")


main(*sys.argv[1:])
