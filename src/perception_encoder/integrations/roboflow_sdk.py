"""`inference-sdk`'s HTTP client with what it lacks for the Perception Encoder.

    from perception_encoder.integrations.roboflow_sdk import PerceptionEncoderClient

    client = PerceptionEncoderClient("http://127.0.0.1:9001")
    client.perception_encoder_compare("dog.jpg", ["a dog", "a cat"])["similarity"]
    await client.get_perception_encoder_image_embeddings_async("dog.jpg")

Works with this package's server and with Roboflow's own; needs `inference-sdk` 1.5 or newer.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import requests
from inference_sdk import InferenceHTTPClient
from inference_sdk.http.client import wrap_errors
from inference_sdk.http.entities import ApiKeyTransport, HTTPClientMode
from inference_sdk.http.utils.loaders import load_static_inference_input
from inference_sdk.http.utils.requests import api_key_safe_raise_for_status

Kind = Literal["image", "text"]

_TIMEOUT_SECONDS: Final = 120.0  # the SDK itself waits for ever


class PerceptionEncoderClient(InferenceHTTPClient):  # type: ignore[misc]
    """The SDK's client, with comparison and asynchronous calls.

    Args:
        api_url: of the server.
        api_key: as for the SDK's own client.
    """

    def __init__(self, api_url: str, api_key: str | None = None) -> None:
        super().__init__(api_url, api_key)
        self._url = api_url.rstrip("/")
        self._key = api_key

    @wrap_errors  # type: ignore[untyped-decorator]
    def perception_encoder_compare(
        self,
        subject: Any,
        prompt: Any,
        subject_type: Kind = "image",
        prompt_type: Kind = "text",
        perception_encoder_version: str | None = None,
    ) -> dict[str, Any]:
        """Compare one image or text with others.

        Args:
            subject: a text, or an image as the SDK takes it: BGR array, PIL, path, URL, base64.
            prompt: one of these, a list, or a dict of names to them.
            subject_type: what the subject is.
            prompt_type: what the prompts are.
            perception_encoder_version: such as "PE-Core-L14-336"; None for the server's own.

        Returns:
            The server's reply; `similarity` has a cosine for each prompt, in a list, or by name.

        Raises:
            HTTPCallErrorError: the server refused.
            HTTPClientError: it could not be reached.
        """
        payload = {
            "subject": _sent(subject, subject_type),
            "subject_type": subject_type,
            "prompt": _sent(prompt, prompt_type),
            "prompt_type": prompt_type,
        }
        if perception_encoder_version is not None:
            payload["perception_encoder_version_id"] = perception_encoder_version
        return self._post("/perception_encoder/compare", payload)

    async def perception_encoder_compare_async(
        self,
        subject: Any,
        prompt: Any,
        subject_type: Kind = "image",
        prompt_type: Kind = "text",
        perception_encoder_version: str | None = None,
    ) -> dict[str, Any]:
        """See `perception_encoder_compare`; it runs in a thread."""
        reply: dict[str, Any] = await asyncio.to_thread(
            self.perception_encoder_compare,
            subject,
            prompt,
            subject_type,
            prompt_type,
            perception_encoder_version,
        )
        return reply

    async def get_perception_encoder_image_embeddings_async(
        self, inference_input: Any, perception_encoder_version: str | None = None
    ) -> Any:
        """See the SDK's method without `_async`; it runs in a thread."""
        return await asyncio.to_thread(
            self.get_perception_encoder_image_embeddings,
            inference_input,
            perception_encoder_version,
        )

    async def get_perception_encoder_text_embeddings_async(
        self, text: str | list[str], perception_encoder_version: str | None = None
    ) -> Any:
        """See the SDK's method without `_async`; it runs in a thread."""
        return await asyncio.to_thread(
            self.get_perception_encoder_text_embeddings, text, perception_encoder_version
        )

    def _post(self, path: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Send a body, with the key where this client was told to send it."""
        transport = self.inference_configuration.api_key_transport or ApiKeyTransport.LEGACY
        query: dict[str, str] = {}
        headers: dict[str, str] = {}
        if self._key is not None:
            if transport is not ApiKeyTransport.LEGACY:
                headers["Authorization"] = f"Bearer {self._key}"
            if transport is not ApiKeyTransport.HEADER:
                is_v0 = self.client_mode is HTTPClientMode.V0
                (query if is_v0 else payload)["api_key"] = self._key
        response = requests.post(
            f"{self._url}{path}",
            params=query,
            json=payload,
            headers=headers,
            timeout=_TIMEOUT_SECONDS,
        )
        api_key_safe_raise_for_status(response=response)
        reply: dict[str, Any] = response.json()
        return reply


def _sent(items: Any, kind: Kind) -> Any:
    """Return texts as they are, and images as the objects that servers read."""
    if kind == "text":
        return items
    if isinstance(items, Mapping):
        return {name: _sent(item, kind) for name, item in items.items()}
    images = [
        {"type": "base64", "value": value}
        for value, _ in load_static_inference_input(inference_input=items)
    ]
    return images if isinstance(items, Sequence) and not isinstance(items, str) else images[0]
