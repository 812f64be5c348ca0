"""Runs in the environment of other people's clients: our subclass of `inference-sdk`'s client.

    python roboflow_sdk_more.py URL KEY FOLDER

FOLDER is as for roboflow_sdk.py. Prints one JSON object: what each call returned.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import cv2
from inference_sdk import InferenceConfiguration
from inference_sdk.http.entities import ApiKeyTransport
from inference_sdk.http.errors import HTTPCallErrorError

from perception_encoder.integrations.roboflow_sdk import PerceptionEncoderClient


def main(url: str, key: str, folder: Path) -> None:
    one, two = (str(folder / name) for name in ("one.png", "two.jpg"))
    client = PerceptionEncoderClient(url, api_key=key)
    hosted = PerceptionEncoderClient(url, api_key=key)
    hosted.select_api_v0()
    results: dict[str, Any] = {
        "texts": client.perception_encoder_compare(one, ["a cat", "a red heart"]),
        "named": client.perception_encoder_compare(cv2.imread(one), {"cat": "a cat"}),
        "images": client.perception_encoder_compare(
            "a cat", [one, two], subject_type="text", prompt_type="image"
        ),
        "named_images": client.perception_encoder_compare(
            one, {"one": one, "two": two}, prompt_type="image"
        ),
        "hosted": hosted.perception_encoder_compare(one, "a cat"),
        "awaited": asyncio.run(awaited(client, one)),
    }
    client.configure(InferenceConfiguration(api_key_transport=ApiKeyTransport.HEADER))
    results["in_header"] = client.perception_encoder_compare(one, "a cat")
    try:
        client.perception_encoder_compare(one, "a cat", prompt_type="image")
    except HTTPCallErrorError as err:
        results["refused"] = [err.status_code, err.api_message]
    sys.stdout.write(json.dumps(results))


async def awaited(client: PerceptionEncoderClient, path: str) -> list[Any]:
    return list(
        await asyncio.gather(
            client.get_perception_encoder_image_embeddings_async(path),
            client.get_perception_encoder_text_embeddings_async(["a cat", "a red heart"]),
            client.perception_encoder_compare_async(path, ["a cat"]),
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
