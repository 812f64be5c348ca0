"""A backend that answers texts at once and opens the real one when an image comes."""

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from perception_encoder.backends.base import Backend
from perception_encoder.backends.numpy_text import NumpyTextBackend
from perception_encoder.errors import CheckpointError
from perception_encoder.forking import renew_in_children
from perception_encoder.types import BackendKind, Embeddings, Pixels, Precision, TokenIds


class TextFirstBackend:
    """A `Backend`: texts by one backend, images by another of the same weights.

    Args:
        texts: reads texts.
        open_images: opens the other backend; called once, when it is needed.
    """

    name: BackendKind = "numpy"
    concurrency = 1
    device = "cpu"
    precision: Precision = "fp32"

    def __init__(self, texts: NumpyTextBackend, open_images: Callable[[], Backend]) -> None:
        self._texts = texts
        self._open_images = open_images
        self._images: Backend | None = None
        self.renew_after_fork()
        renew_in_children(self)
        self.fingerprint = texts.fingerprint
        self.logit_scale = texts.logit_scale

    def renew_after_fork(self) -> None:
        """No call opens the backend for images."""
        self._lock = threading.Lock()

    def encode_text(self, token_ids: TokenIds) -> Embeddings:
        """See `Backend.encode_text`."""
        return self._texts.encode_text(token_ids)

    def encode_image(self, pixels: Pixels) -> Embeddings:
        """See `Backend.encode_image`.

        Raises:
            CheckpointError: the file holds other weights than it was known for.
        """
        return self._backend().encode_image(pixels)

    def features(self, pixels: Pixels, *, layer: int = -1) -> NDArray[np.float32]:
        """See `Backend.features`.

        Raises:
            CheckpointError: the file holds other weights than it was known for.
        """
        return self._backend().features(pixels, layer=layer)

    def close(self) -> None:
        """See `Backend.close`."""
        if self._images is not None:
            self._images.close()

    def _backend(self) -> Backend:
        with self._lock:
            if self._images is None:
                opened = self._open_images()
                if opened.fingerprint != self.fingerprint:
                    raise CheckpointError(
                        f"the weights are {opened.fingerprint}, not {self.fingerprint} as they "
                        "were known by; open the model anew"
                    )
                self._images = opened
        return self._images
