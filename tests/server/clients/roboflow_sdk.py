"""Runs in the environment of other people's clients: the stock `inference-sdk` against a server.

    python roboflow_sdk.py URL KEY FOLDER

FOLDER holds one.png, two.jpg and three.png. Prints one JSON object: what each call returned.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
from inference_sdk import InferenceConfiguration, InferenceHTTPClient
from inference_sdk.config import RemoteProcessingTimeCollector, remote_processing_times
from inference_sdk.http.entities import ApiKeyTransport
from inference_sdk.http.errors import HTTPCallErrorError
from inference_sdk.version import __version__
from PIL import Image


def main(url: str, key: str, folder: Path) -> None:
    paths = [str(folder / name) for name in ("one.png", "two.jpg", "three.png")]
    client = InferenceHTTPClient(url, api_key=key)
    hosted = InferenceHTTPClient(url, api_key=key)
    hosted.select_api_v0()
    results: dict[str, Any] = {"version": __version__}

    def note(name: str, call: Callable[[], Any]) -> None:
        try:
            results[name] = call()
        except HTTPCallErrorError as err:
            results[name] = {"status": err.status_code, "message": err.api_message}

    image = client.get_perception_encoder_image_embeddings
    text = client.get_perception_encoder_text_embeddings
    note("info", lambda: client.get_server_info().to_dict())
    note("image", lambda: image(paths[0]))
    note("images", lambda: image(paths))
    note("array", lambda: image(cv2.imread(paths[0])))
    note("pil", lambda: image(Image.open(paths[1])))
    note("text", lambda: text("a cat"))
    note("texts", lambda: text(["a cat", "a red heart"]))
    note("aliased", lambda: text("a cat", perception_encoder_version="PE-Core-L14-336"))
    note("unknown_version", lambda: text("a cat", perception_encoder_version="PE-Core-G14-448"))
    with client.use_configuration(InferenceConfiguration(max_batch_size=2)):
        note("batches", lambda: image(paths))
    with client.use_configuration(InferenceConfiguration(max_concurrent_requests=3)):
        note("concurrent", lambda: image(paths))
    note("not_an_image", lambda: image("bm90IGFuIGltYWdl"))
    note("no_texts", lambda: text([]))
    note("hosted_image", lambda: hosted.get_perception_encoder_image_embeddings(paths[0]))
    note("hosted_text", lambda: hosted.get_perception_encoder_text_embeddings("a cat"))
    note(
        "without_key",
        lambda: InferenceHTTPClient(url).get_perception_encoder_text_embeddings("a cat"),
    )
    note("clip_images", lambda: client.get_clip_image_embeddings(paths))
    note("clip_text", lambda: client.get_clip_text_embeddings("a cat"))
    note("clip_compare", lambda: client.clip_compare(paths[0], ["a cat", "a red heart"]))
    note(
        "clip_named",
        lambda: client.clip_compare(paths[0], {"cat": "a cat", "heart": "a red heart"}),
    )
    note(
        "clip_of_images",
        lambda: client.clip_compare("a cat", paths, subject_type="text", prompt_type="image"),
    )
    note("clip_async", lambda: asyncio.run(client.clip_compare_async(paths[0], ["a cat"])))
    note("loaded", lambda: client.list_loaded_models().to_dict())
    note(
        "description",
        lambda: client.get_model_description("perception_encoder/PE-Core-L14-336").to_dict(),
    )
    note("metadata", lambda: collected(client, paths[0]))
    sys.stdout.write(json.dumps(results, default=str))


def collected(client: InferenceHTTPClient, path: str) -> Any:
    """What the SDK makes of the headers of a reply, just after the models were unloaded."""
    client.configure(InferenceConfiguration(api_key_transport=ApiKeyTransport.HEADER))
    client.unload_all_models()
    collector = RemoteProcessingTimeCollector()
    token = remote_processing_times.set(collector)
    try:
        client.get_perception_encoder_image_embeddings(path)
    finally:
        remote_processing_times.reset(token)
    return {
        "times": collector.snapshot_entries(),
        "models": sorted(collector.snapshot_model_ids()),
        "cold_starts": collector.snapshot_cold_start_entries(),
    }


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
