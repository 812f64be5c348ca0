"""Runs an indexing run on the workers of a Ray cluster, in place of local threads and backend."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from threading import Lock
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perception_encoder.auto import open_around
from perception_encoder.backends import ComputeOptions
from perception_encoder.distributed.cluster import (
    WorkerPlan,
    Workers,
    connect,
    list_nodes,
    plan_workers,
)
from perception_encoder.distributed.worker import WorkerSetup
from perception_encoder.embedder import EmbeddingModel
from perception_encoder.errors import WorkerCrashedError
from perception_encoder.index import Outcome
from perception_encoder.indexing.prepare import ListedItem, PreparedImage, make_failure
from perception_encoder.indexing.video_contents import VideoContent
from perception_encoder.types import Embeddings, ModelIdentity, Pixels, PreprocessName, TokenIds

_TRIES: Final = 3  # calls for one image before it fails


class RunPlacement:
    """A model whose backend is a cluster.

    Attributes:
        plan: the number and size of the workers.
        model: the model for a `Run`; it computes on the workers.
    """

    def __init__(self, plan_workers: WorkerPlan, workers: Workers, model: EmbeddingModel) -> None:
        self.plan = plan_workers
        self.model = model
        self._workers = workers

    def preparing(self, batch_size: int) -> "RemotePreparation":
        """Return the `Preparation` for a `Run`; a worker gets `batch_size` items at once."""
        return RemotePreparation(self._workers, batch_size)

    def videos(self, batch_size: int) -> "RemoteVideoReader":
        """Return the `VideoReader` for a `Run`; workers compute `batch_size` frames at once."""
        return RemoteVideoReader(self._workers, batch_size)


@contextmanager
def on_cluster(
    address: str,
    name: str,
    options: ComputeOptions | None = None,
    *,
    preprocess: PreprocessName | None = None,
    cores: int | None = None,
    expected: ModelIdentity | None = None,
) -> Iterator[RunPlacement]:
    """Open a model on the workers of a Ray cluster.

    Args:
        address: "auto" for the cluster of this machine, "HOST:PORT", or "ray://HOST:PORT" from
            another machine.
        name: the model, as in `AutoModel.from_pretrained`; every machine must find it.
        options: where and how workers compute; the device is "auto", "cpu" or "cuda".
        preprocess: as in `AutoModel.from_pretrained`.
        cores: CPU cores of each worker; None for as many as the smallest node has.
        expected: the model of an existing index. Without it, all workers must have the model of
            the first one.

    Raises:
        ClusterError: Ray is not installed, no cluster answers, it has no room, or its machines
            have different models.
        UnknownModelError, CheckpointError, DownloadError, BackendUnavailableError: as
            `AutoModel.from_pretrained`, on a worker or here.
    """
    options = options or ComputeOptions()
    with connect(address):
        planned = plan_workers(list_nodes(), options.device, cores)
        with closing(Workers(planned, name, options, preprocess, expected)) as workers:
            backend = _WorkersBackend(workers, workers.start())
            model = open_around(backend, name, preprocess=preprocess)
            yield RunPlacement(planned, workers, model)


class RemoteVideoReader:
    """A `VideoReader`: each worker hashes, decodes and embeds one video at a time.

    Args:
        workers: the workers to use.
        batch_size: frames computed at once.
    """

    def __init__(self, workers: Workers, batch_size: int) -> None:
        self.num_at_once = workers.num_slots
        self._workers = workers
        self._batch_size = batch_size
        self._is_closed = False

    def hash_file(self, path: str) -> str:
        """See `VideoReader.hash_file`."""
        found: str = self._call("hash_video", path)
        return found

    def embed(self, path: str) -> VideoContent:
        """See `VideoReader.embed`."""
        found: VideoContent = self._call("embed_video", path, self._batch_size)
        return found

    def close(self) -> None:
        """See `VideoReader.close`. What a worker reads ends with the worker."""
        self._is_closed = True

    def _call(self, method: str, *arguments: object) -> Any:
        """Call a free worker; a video that ends workers fails alone.

        Raises:
            WorkerCrashedError: it has ended as many workers as it may.
        """
        if self._is_closed:
            raise InterruptedError("the run was stopped")
        return _call_worker(self._workers, method, *arguments)


class RemotePreparation:
    """A `Preparation`: workers read, decode and embed.

    If a worker dies, its items are tried one by one on other workers. So an image that kills
    workers is the only one that fails.

    Args:
        workers: the workers to use.
        chunk_size: see `Preparation`.
    """

    def __init__(self, workers: Workers, chunk_size: int) -> None:
        self.chunk_size = chunk_size
        self.window = (2 + workers.num_slots) * chunk_size
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers.num_slots, "ask")
        self._alone = Lock()

    def submit(
        self, chunk: Sequence[ListedItem], find_duplicate: Callable[[str], str | None]
    ) -> Future[list[PreparedImage | Outcome]]:
        """See `Preparation.submit`."""
        return self._pool.submit(self._embed, chunk, find_duplicate)

    def close(self) -> None:
        """See `Preparation.close`."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _embed(
        self, chunk: Sequence[ListedItem], find_duplicate: Callable[[str], str | None]
    ) -> list[PreparedImage | Outcome]:
        try:
            return self._workers.ask(partial(_embed_chunk, chunk, find_duplicate))
        except WorkerCrashedError:
            # One image at a time, so that two of them do not kill each other's worker.
            with self._alone:
                return [self._embed_one(listed, find_duplicate) for listed in chunk]

    def _embed_one(
        self, listed: ListedItem, find_duplicate: Callable[[str], str | None]
    ) -> PreparedImage | Outcome:
        try:
            return self._workers.ask(partial(_embed_chunk, [listed], find_duplicate), tries=_TRIES)[
                0
            ]
        except WorkerCrashedError as err:
            message = f"{_TRIES} workers ended while they had this image: {err}; look at it alone"
            return make_failure(listed.item, WorkerCrashedError(message))


def _embed_chunk(
    chunk: Sequence[ListedItem], find_duplicate: Callable[[str], str | None], worker: Any
) -> list[PreparedImage | Outcome]:
    """Read and embed a chunk on one worker; the encoded images stay on its machine."""
    import ray

    items = [listed.item for listed in chunk]
    hashes, contents = worker.read.options(num_returns=2).remote(items)
    found = {sha256: find_duplicate(sha256) for sha256 in ray.get(hashes) if sha256 is not None}
    duplicates = {
        sha256: duplicate_of for sha256, duplicate_of in found.items() if duplicate_of is not None
    }
    results: list[PreparedImage | Outcome] = ray.get(
        worker.embed.remote(chunk, contents, duplicates)
    )
    return results


class _WorkersBackend:
    """A `Backend` on the workers, for the few calls of a run beside its items."""

    concurrency = 1  # items come with their vectors

    def __init__(self, workers: Workers, opened: WorkerSetup) -> None:
        self._workers = workers
        self.name = opened.backend
        self.device = "cluster"
        self.precision = opened.precision
        self.fingerprint = opened.identity.fingerprint
        self.logit_scale = opened.logit_scale

    def encode_image(self, pixels: Pixels) -> Embeddings:
        """See `Backend.encode_image`."""
        vectors: Embeddings = self._call("encode_image", pixels)
        return vectors

    def encode_text(self, token_ids: TokenIds) -> Embeddings:
        """See `Backend.encode_text`."""
        vectors: Embeddings = self._call("encode_text", token_ids)
        return vectors

    def features(self, pixels: Pixels, *, layer: int = -1) -> NDArray[np.float32]:
        """See `Backend.features`."""
        found: NDArray[np.float32] = self._call("features", pixels, layer)
        return found

    def pool_inputs(self, pixels: Pixels) -> NDArray[np.float32]:
        """See `Backend.pool_inputs`."""
        tokens: NDArray[np.float32] = self._call("pool_inputs", pixels)
        return tokens

    def close(self) -> None:
        """Do nothing: `on_cluster` closes the workers."""

    def _call(self, method: str, *arguments: object) -> Any:
        return _call_worker(self._workers, method, *arguments)


def _call_worker(workers: Workers, method: str, *arguments: object) -> Any:
    """Call a method of any worker, and of another one where that is lost."""
    import ray

    return workers.ask(
        lambda worker: ray.get(getattr(worker, method).remote(*arguments)), tries=_TRIES
    )
