"""Joins workers to a run: they stand in the place of its threads and of its backend."""

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
from perception_encoder.types import Embeddings, ModelIdentity, Pixels, PreprocessName, TokenIds

_TRIES: Final = 3  # of a single image with which workers died


class RunPlacement:
    """A model whose backend is on a cluster, and where runs prepare their items.

    Attributes:
        plan: how many workers of what size there are.
        model: for a `Run`; computes on the workers.
    """

    def __init__(self, plan_workers: WorkerPlan, workers: Workers, model: EmbeddingModel) -> None:
        self.plan = plan_workers
        self.model = model
        self._workers = workers

    def preparing(self, batch_size: int) -> "RemotePreparation":
        """Return what a `Run` opens with `open_preparing`; workers get so many items at once."""
        return RemotePreparation(self._workers, batch_size)


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
        address: "auto" for the cluster that this machine belongs to, "HOST:PORT", or
            "ray://HOST:PORT" from elsewhere.
        name: the model, as in `AutoModel.from_pretrained`; every machine must find it.
        options: where and how workers compute; the device is "auto", "cpu" or "cuda".
        preprocess: as in `AutoModel.from_pretrained`.
        cores: CPU cores of each worker; None for as many as the smallest node can give.
        expected: the index's model, where there is an index; else all must have the first one's.

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


class RemotePreparation:
    """A `Preparation`: workers read, decode and embed, and this process waits for them.

    A chunk that is lost with its worker is divided and given to others, so that in the end a
    image that no worker survives is the only one that fails.

    Args:
        workers: who is asked.
        chunk_size: see `Preparation`.
    """

    def __init__(self, workers: Workers, chunk_size: int) -> None:
        self.chunk_size = chunk_size
        self.window = (2 + workers.num_slots) * chunk_size
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers.num_slots, "ask")
        self._suspecting = Lock()

    def submit(
        self, chunk: Sequence[ListedItem], donor_of: Callable[[str], str | None]
    ) -> Future[list[PreparedImage | Outcome]]:
        """See `Preparation.submit`."""
        return self._pool.submit(self._embedded, chunk, donor_of)

    def close(self) -> None:
        """See `Preparation.close`."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _embedded(
        self, chunk: Sequence[ListedItem], donor_of: Callable[[str], str | None]
    ) -> list[PreparedImage | Outcome]:
        try:
            return self._workers.ask(partial(_embedded_by, chunk, donor_of))
        except WorkerCrashedError:
            if len(chunk) == 1:
                return [self._suspect(chunk[0], donor_of)]
        half = len(chunk) // 2
        return self._embedded(chunk[:half], donor_of) + self._embedded(chunk[half:], donor_of)

    def _suspect(
        self, listed: ListedItem, donor_of: Callable[[str], str | None]
    ) -> PreparedImage | Outcome:
        """Try an image with which a worker died; one at a time, so that only the guilty fail."""
        with self._suspecting:
            for _ in range(_TRIES - 1):
                try:
                    return self._workers.ask(partial(_embedded_by, [listed], donor_of))[0]
                except WorkerCrashedError as err:
                    reason = err
        return make_failure(
            listed.item,
            WorkerCrashedError(
                f"{_TRIES} workers ended while they had this image: {reason}; look at it alone"
            ),
        )


def _embedded_by(
    chunk: Sequence[ListedItem], donor_of: Callable[[str], str | None], worker: Any
) -> list[PreparedImage | Outcome]:
    """Have one worker read and embed a chunk; the bytes that it has read stay where they are."""
    import ray

    items = [listed.item for listed in chunk]
    hashes, contents = worker.read.options(num_returns=2).remote(items)
    found = {sha256: donor_of(sha256) for sha256 in ray.get(hashes) if sha256 is not None}
    donors = {sha256: donor for sha256, donor in found.items() if donor is not None}
    results: list[PreparedImage | Outcome] = ray.get(worker.embed.remote(chunk, contents, donors))
    return results


class _WorkersBackend:
    """A `Backend`: what little a run computes beside its items is computed by workers too."""

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

    def close(self) -> None:
        """Leave the workers: they are closed by who has opened them."""

    def _call(self, method: str, *arguments: object) -> Any:
        import ray

        for _ in range(_TRIES):
            try:
                return self._workers.ask(
                    lambda worker: ray.get(getattr(worker, method).remote(*arguments))
                )
            except WorkerCrashedError as err:
                lost = err
        raise lost
