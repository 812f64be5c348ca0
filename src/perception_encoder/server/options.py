"""Settings of a server: plain values, filled in by `pe serve` or a program."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from perception_encoder.preprocess.images import num_usable_cores
from perception_encoder.types import BackendName, Precision

MIB: Final = 2**20


@dataclass(frozen=True, kw_only=True)
class QueueSettings:
    """How requests share forward passes, for each model and modality.

    Attributes:
        max_batch: images or texts computed at once.
        batch_seconds: the longest time for a batch; a slow model gets smaller batches.
        max_wait_ms: how long the first item of a batch waits for items that are being prepared.
        capacity: images or texts that are decoded or waiting; more are answered 429. A request
            may have more items: it enters the queue in parts.
        timeout_seconds: an item that is not computed by then is answered 503.
        decode_threads: threads that decode images, shared by all models.
    """

    max_batch: int = 64
    batch_seconds: float = 1.0
    max_wait_ms: float = 3.0
    capacity: int = 1024
    timeout_seconds: float = 60.0
    decode_threads: int = field(default_factory=num_usable_cores)


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Which models may be used, and when they are in memory.

    Attributes:
        names: registered ids, files or folders; the first is the default. The models of the
            indexes are added. Requests cannot use any other model.
        aliases: pairs of a further name and a model's own, such as ("PE-Core-L14-336", "pe-nano"),
            for clients that ask for another model.
        preload: open models at the start instead of at their first use.
        unload_after_seconds: close a model that is not used for this time; None never does.
        max_bytes: limit for weights in memory; models used longest ago are closed first. None for
            no limit.
        device: as in `AutoModel.from_pretrained`, likewise the next three.
        random_weights: use random weights, to measure speed.
    """

    names: tuple[str, ...] = ("pe-nano",)
    aliases: tuple[tuple[str, str], ...] = ()
    preload: bool = True
    unload_after_seconds: float | None = None
    max_bytes: int | None = None
    device: str = "auto"
    backend: BackendName | Literal["auto"] = "auto"
    precision: Precision | Literal["auto"] = "auto"
    compile: bool = False
    random_weights: bool = False


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """Which images are accepted.

    Attributes:
        max_bytes: limit for one encoded image.
        max_pixels: limit for one image, checked in its header.
        allow_urls: fetch images from https URLs in requests.
        allow_http: also from http URLs.
        url_timeout_seconds: for one image, redirects included.
        allow_remote_items: show images of an index that are stored behind a network.
    """

    max_bytes: int = 32 * MIB
    max_pixels: int = 64_000_000
    allow_urls: bool = False
    allow_http: bool = False
    url_timeout_seconds: float = 10.0
    allow_remote_items: bool = False


@dataclass(frozen=True, kw_only=True)
class AccessSettings:
    """Who may send requests, and how many.

    Attributes:
        key_hashes: SHA-256 of each accepted key, hex; see `access.hash_key`. Empty: no key needed.
        requests_per_minute: of one key, or of one address where there are no keys; None: any.
        cors_origins: origins whose pages may ask, such as "https://a.example"; "*" for all; none by
            default.
        host: the address or name that is listened on, None where that is not known.
        allowed_hosts: further names that requests may ask for; "*" for all. See `sites`.
        max_body_bytes: of one request.
        max_items: images and texts of one request; as many as OpenAI's API takes.
        body_timeout_seconds: a body that has not arrived by then is answered 408.
        max_connections: open at once; more are answered 503.
    """

    key_hashes: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    cors_origins: tuple[str, ...] = ()
    host: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    max_body_bytes: int = 64 * MIB
    max_items: int = 2048
    body_timeout_seconds: float = 30.0
    max_connections: int = 512


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """All settings of a server.

    Attributes:
        indexes: indexes to search: folders, or URIs such as `s3://…`.
        classifiers: files of `pe teach` that requests may name.
        cache_folder: where thumbnails are stored; None stores none.
        serve_page: serve the page at `/`.
        serve_mcp: answer the Model Context Protocol at `/mcp`; needs the extra `mcp`.
        immich_ml: address of Immich's own machine-learning server, which gets the tasks of Immich
            that this server does not do; None refuses them.
    """

    models: ModelSettings = field(default_factory=ModelSettings)
    queue: QueueSettings = field(default_factory=QueueSettings)
    images: ImageSettings = field(default_factory=ImageSettings)
    access: AccessSettings = field(default_factory=AccessSettings)
    indexes: tuple[str, ...] = ()
    classifiers: tuple[str, ...] = ()
    cache_folder: Path | None = None
    serve_page: bool = True
    serve_mcp: bool = False
    immich_ml: str | None = None
