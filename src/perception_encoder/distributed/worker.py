"""A worker on one machine of a cluster: it reads, prepares and embeds items of a run.

A chunk of items takes two calls: `read` returns the hashes of the contents, the run looks up which
of them have a vector already, and `embed` does the rest.
"""

import hashlib
import socket
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_encoder.auto import AutoModel
from perception_encoder.backends import ComputeOptions
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.errors import ImageNotFoundError
from perception_encoder.index import Outcome
from perception_encoder.indexing.prepare import ListedItem, PreparedImage, encode_batch, prepare
from perception_encoder.indexing.video_contents import (
    LocalVideoReader,
    VideoContent,
    hash_file,
)
from perception_encoder.sources import Item
from perception_encoder.types import (
    BackendKind,
    Embeddings,
    ModelIdentity,
    Pixels,
    Precision,
    PreprocessName,
    TokenIds,
)

Content: TypeAlias = NDArray[np.uint8]
"""(N,) uint8: an encoded image; Ray passes arrays on without a copy."""

_READERS: Final = 16  # they wait for a disk or network, not for a core


class WorkerSetup(NamedTuple):
    """The model that a worker has opened, and on which machine."""

    identity: ModelIdentity
    backend: BackendKind
    precision: Precision
    logit_scale: float
    machine: str


class Worker:
    """A model on one machine. Two threads use it: one reads while the other computes.

    Args:
        name: the model, as in `AutoModel.from_pretrained`; found on this machine.
        options: where and how to compute.
        preprocess: as in `AutoModel.from_pretrained`.
        num_cores: the number of images to decode at once.
    """

    def __init__(
        self, name: str, options: ComputeOptions, preprocess: PreprocessName | None, num_cores: int
    ) -> None:
        self._name = name
        self._options = options
        self._preprocess = preprocess
        self._decoders = ThreadPoolExecutor(num_cores, "decode")
        self._readers = ThreadPoolExecutor(_READERS, "read")
        self._opening, self._reading = threading.Lock(), threading.Lock()
        self._videos: LocalVideoReader | None = None

    def wait_until_placed(self) -> None:
        """Do nothing: the call returns once Ray has started this worker."""

    def open(self) -> WorkerSetup:
        """Open the model unless it is open.

        Raises:
            UnknownModelError, CheckpointError, DownloadError, BackendUnavailableError: as
                `AutoModel.from_pretrained`.
        """
        with self._opening:
            model = self._model
        backend = model.backend
        return WorkerSetup(
            model.identity, backend.name, backend.precision, backend.logit_scale, _machine()
        )

    def read(self, items: Sequence[Item]) -> tuple[list[str | None], list[Content | None]]:
        """Return the SHA-256 and the bytes of each item; None where reading failed."""
        with self._reading:  # one chunk at a time: packed archives can only be read forwards
            contents = list(self._readers.map(_read_content, items))
        hashes = [None if one is None else hashlib.sha256(one.data).hexdigest() for one in contents]
        return hashes, contents

    def embed(
        self,
        chunk: Sequence[ListedItem],
        contents: Sequence[Content | None],
        duplicates: Mapping[str, str],
    ) -> list[PreparedImage | Outcome]:
        """Decode and embed items.

        Args:
            chunk: the items.
            contents: from `read`; what could not be read is read again, to report the error.
            duplicates: by SHA-256, the id of a row that has the vector of that content.

        Returns:
            The prepared images, with vectors except for duplicates; or their failures.
        """
        found = list(self._decoders.map(self._prepare, chunk, contents, [duplicates] * len(chunk)))
        new = {
            str(one.row.sha256): one
            for one in found
            if isinstance(one, PreparedImage) and one.duplicate_of is None
        }
        computed = dict(zip(new, encode_batch(self._model, list(new.values())), strict=True))
        return [
            _with_vector(one, computed[str(one.row.sha256)])
            if isinstance(one, PreparedImage) and one.duplicate_of is None
            else one
            for one in found
        ]

    def hash_video(self, path: str) -> str:
        """See `VideoReader.hash_file`."""
        try:
            return hash_file(path)
        except ImageNotFoundError as err:
            raise ImageNotFoundError(f"{err}; {_describe_place()}", item=path) from err

    def embed_video(self, path: str, batch_size: int) -> VideoContent:
        """See `VideoReader.embed`; `batch_size` is that of the first call."""
        with self._opening:
            self._videos = self._videos or LocalVideoReader(self._model, batch_size=batch_size)
        return self._videos.embed(path)

    def encode_image(self, pixels: Pixels) -> Embeddings:
        """See `Backend.encode_image`."""
        return self._model.backend.encode_image(pixels)

    def encode_text(self, token_ids: TokenIds) -> Embeddings:
        """See `Backend.encode_text`."""
        return self._model.backend.encode_text(token_ids)

    def features(self, pixels: Pixels, layer: int) -> NDArray[np.float32]:
        """See `Backend.features`."""
        return self._model.backend.features(pixels, layer=layer)

    def pool_inputs(self, pixels: Pixels) -> NDArray[np.float32]:
        """See `Backend.pool_inputs`."""
        return self._model.backend.pool_inputs(pixels)

    @cached_property
    def _model(self) -> EmbeddingModel:
        options = self._options
        return AutoModel.from_pretrained(
            self._name,
            device=options.device,
            backend=options.backend,
            precision=options.precision,
            compile=options.compile,
            preprocess=self._preprocess,
        )

    def _prepare(
        self, listed: ListedItem, content: Content | None, duplicates: Mapping[str, str]
    ) -> PreparedImage | Outcome:
        item = listed.item
        read = item if content is None else replace(item, read=content.tobytes)
        found = prepare(
            read,
            self._model.processor,
            duplicates.get,
            is_new=listed.is_new,
            reads_metadata=listed.reads_metadata,
            tiles=listed.tiles,
        )
        if isinstance(found, PreparedImage):
            return replace(found, item=item)
        # An item with a time existed on the machine that listed it.
        if found.reason == "ImageNotFoundError" and item.mtime is not None and not item.is_remote:
            return replace(found, message=f"{found.message}; {_describe_place()}")
        return found


def _read_content(item: Item) -> Content | None:
    try:
        return np.frombuffer(item.read(), np.uint8)
    except Exception:  # noqa: BLE001  `embed` meets it again and reports it
        return None


def _with_vector(item: PreparedImage, computed: PreparedImage) -> PreparedImage:
    return replace(
        item,
        resized=None,
        vector=computed.vector,
        encode_ms=computed.encode_ms,
        tiles=computed.tiles,
    )


def _describe_place() -> str:
    """Return where a file was looked for, and what to do."""
    return (
        f"it was read on {_machine()}, where it must have the same path as on the machine that "
        "listed it"
    )


def _machine() -> str:
    return socket.gethostname()
