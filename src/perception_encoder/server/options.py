"""What a server may do and how much of it: plain values, filled in by `pe serve` or a program."""

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
        batch_seconds: of a slow model so few are computed at once that it takes no longer.
        max_wait_ms: how long the first of a batch waits for others that are on their way.
        capacity: images or texts that are decoded or waiting; more are answered 429. A request
            may have more than that: it is fed to the queue in parts.
        timeout_seconds: an item that was not computed by then is answered 503.
        decode_threads: that decode images, shared by all models.
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
        names: registered ids, files or folders; the first is the default. Those of indexes join
            them. Nothing else can be asked for over HTTP.
        aliases: further names for them, each with the model's own: what clients ask for that name
            another model, such as ("PE-Core-L14-336", "pe-nano").
        preload: open them at the start instead of at their first use.
        unload_after_seconds: give the memory back of a model nobody used for so long; None never.
        max_bytes: of weights in memory; models used longest ago go first. None for no limit.
        device: as in `AutoModel.from_pretrained`, likewise the next three.
        random_weights: made-up weights, for measuring speed.
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
    """Which images are taken.

    Attributes:
        max_bytes: of one encoded image.
        max_pixels: of one image, refused from its header.
        allow_urls: fetch images that requests name by https URL.
        allow_http: also by http.
        url_timeout_seconds: for one image, redirects included.
        allow_remote_items: show images of an index that lie behind a network.
    """

    max_bytes: int = 32 * MIB
    max_pixels: int = 64_000_000
    allow_urls: bool = False
    allow_http: bool = False
    url_timeout_seconds: float = 10.0
    allow_remote_items: bool = False


@dataclass(frozen=True, kw_only=True)
class AccessSettings:
    """Who may ask, and how much.

    Attributes:
        key_hashes: SHA-256 of each accepted key, hex; see `access.hashed`. None accepted: everyone
            may ask.
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
    """Everything a server is told at its start.

    Attributes:
        indexes: indexes to search: folders, or URIs such as `s3://…`.
        cache_folder: where thumbnails are kept; None keeps none.
        serve_page: offer the page for people at `/`.
    """

    models: ModelSettings = field(default_factory=ModelSettings)
    queue: QueueSettings = field(default_factory=QueueSettings)
    images: ImageSettings = field(default_factory=ImageSettings)
    access: AccessSettings = field(default_factory=AccessSettings)
    indexes: tuple[str, ...] = ()
    cache_folder: Path | None = None
    serve_page: bool = True
