"""What an API is given: models, indexes, images, access. Made once by `create_app`."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from perception_encoder.errors import ImageError, ImageReferenceError
from perception_encoder.server.core.facets import Summaries
from perception_encoder.server.core.frames import release_frames
from perception_encoder.server.core.images import ImageLoader
from perception_encoder.server.core.indexes import ServedIndexes
from perception_encoder.server.core.jobs import IndexJobs
from perception_encoder.server.core.model_worker import image_names
from perception_encoder.server.core.pools import Pools, all_of
from perception_encoder.server.core.queries import Queries
from perception_encoder.server.core.served_models import ServedModels
from perception_encoder.server.core.thumbnails import Thumbnails
from perception_encoder.server.http.access import AccessControl
from perception_encoder.server.http.errors import ApiError
from perception_encoder.server.http.metrics import Metrics
from perception_encoder.server.options import MIB, ServerSettings

_LOADED_AT_ONCE: Final = 8  # images of a request: half of those that are fetched at once
_MAX_LOADED_BYTES: Final = 512 * MIB
"""Of all images of a request. URLs are short: a body of some kilobytes could name gigabytes."""


@dataclass(frozen=True)
class Services:
    """Everything behind the routes.

        async with services.served_models.use(body.model) as worker:  # None: the default model
            texts = await worker.embed_texts(["a cat"])  # (1, E) float32, unit length
            images = await worker.embed_images(await services.load_images(references))
            vectors = images.require()  # raises the first bad image's error, or:
            images.errors  # {position: ImageError}

    Attributes:
        settings: what the server was told at its start.
        served_models: the models; see `core.served_models.ServedModels`.
        images: from what a request says of an image to its bytes.
        indexes: the indexes; see `core.indexes`.
        queries: terms to a query's vector, and what scores mean.
        thumbnails: small copies of indexes' images, kept on disk.
        jobs: analyses of indexes in the background, shared by requests.
        summaries: facets and folders of the indexes, shared by requests.
        pools: the threads that wait for disks and compute searches.
        access: keys, sessions and rates.
        metrics: counters.
    """

    settings: ServerSettings
    served_models: ServedModels
    images: ImageLoader
    indexes: ServedIndexes
    queries: Queries
    thumbnails: Thumbnails
    jobs: IndexJobs
    summaries: Summaries
    pools: Pools
    access: AccessControl
    metrics: Metrics

    async def load_images(
        self, references: Sequence[str | bytes], names: Sequence[str] | None = None
    ) -> list[bytes | ImageError]:
        """Return the encoded images of a request, in order; an error stands for a bad one.

        Args:
            references: bytes, data URIs, base64, or URLs where they are enabled; see
                `core.images.ImageLoader.load`.
            names: what errors call each; "image 0", "image 1", … by default.

        Raises:
            ApiError: 400, more than `max_items`.
        """
        self.check_count(len(references), "images")
        names = image_names(len(references)) if names is None else names
        if len(references) == 1:  # most requests: no task needed
            return [await self._load(references[0], names[0])]
        turns = asyncio.Semaphore(_LOADED_AT_ONCE)
        left = _MAX_LOADED_BYTES

        async def load(reference: str | bytes, name: str) -> bytes | ImageError:
            nonlocal left
            async with turns:
                if left >= 0:
                    loaded = await self._load(reference, name)
                    left -= len(loaded) if isinstance(loaded, bytes) else 0
            if left >= 0:
                return loaded
            return ImageReferenceError(
                f"{name}: the images of one request may have {_MAX_LOADED_BYTES:,} bytes; "
                "send fewer at a time",
                item=name,
                reason="too large",
            )

        return await all_of(map(load, references, names))

    def check_count(self, count: int, what: str) -> None:
        """Refuse a request of more items than one may have.

        Raises:
            ApiError: 400.
        """
        most = self.settings.access.max_items
        if count > most:
            raise ApiError(
                400, "too_many_items", f"{count} {what} are more than the {most} of one request"
            )

    async def _load(self, reference: str | bytes, name: str) -> bytes | ImageError:
        try:
            return await self.images.load(reference, item=name)
        except ImageError as err:
            release_frames(err)
            return err
